"""What a system preserves against what it edits: one search of targets, many systems solved for it.

    python -m benchmarks.frontier [--model bundled-small] [--load 0.3] [--seed 101] [--quick]
    python -m benchmarks.frontier --model MODEL --records FILE --text TEXT --edits 100 --layers 4-8
        [--system JSON ...] [--targets FILE]

Targets are searched once on the unedited model, and shared: only what the systems are made of
differs (the weight of the second moment, a power of its eigenvalues, names in it, the null space,
the spread of a fact's keys over contexts, how many layers in front of the last are edited, what
each of them brings). Facts come in three batches with history, or in as many as a system says.
Every trial is a line of results/frontier.jsonl, with its settings; those that stand there are not
run again. FILE holds records as `benchmarks.counterfacts` writes them; of a real model some sixty
are measured, with four neighbors each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.run import evaluate
from alphaedit.bench.sources import known_facts, world_records
from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import Spectrum, null_space
from alphaedit.locate.trials import CLAMPS, search_settings
from alphaedit.locate.well_known import probes
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.keys import BatchKeys
from alphaedit.methods.steps.target_value import Targets, find_targets
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.drift import HeldOut, held_out
from benchmarks.machine import RESULTS, machine

PARTS = ({"power": 0.5}, {"soft": 1.0}, {"floor": 0.1}, {"spread": 1.0})
"""What else was tried in a system, beside its weight and names."""
SMALL: tuple[dict[str, Any], ...] = (
    {"energy": 0.95, "ridge_share": 0.03},
    {"weight": 10},
    {"weight": 33},
    {"weight": 100},
    {"weight": 33, "names": 0.5},
    {"weight": 100, "names": 0.5},
    {"weight": 33, "names": 0.8},
    {"energy": 0.95, "ridge_share": 0.03, "names": 0.5},
    {"weight": 33, "power": 0.5},
    {"weight": 10, "power": 0.75},
    {"weight": 33, "soft": 0.1},
    {"weight": 33, "soft": 1.0},
    {"weight": 33, "floor": 0.1},
    {"weight": 33, "spread": 1.0},
    {"weight": 33, "spread": 4.0},
    *({"energy": energy, "ridge_share": r} for energy in (0.7, 0.5, 0.3) for r in (0.03, 0.1)),
    *({"energy": energy, "weight": 33} for energy in (0.7, 0.5)),
)
"""Systems on bundled-small: AlphaEdit, MEMIT with history, and what may be changed in it."""
REAL: tuple[dict[str, Any], ...] = (
    *({"energy": energy, "ridge_share": r} for energy in (0.9, 0.5) for r in (0.1, 1.0, 4.0)),
    *({"weight": weight} for weight in (154, 2400)),
    *({"weight": weight, "names": 0.5} for weight in (40, 154, 600, 2400, 10000)),
    *({"weight": 2400, "names": share} for share in (0.2, 0.8)),
    *({"weight": 600, "names": 0.5, "span": span} for span in (1, 3, 7)),
    *({"weight": 2400, **part} for part in PARTS),
    {"weight": 4800, "names": 0.5},
    {"energy": 0.5, "ridge_share": 0.3},
    *({"energy": 0.3, "ridge_share": r} for r in (0.1, 0.3)),
    {"energy": 0.5, "ridge_share": 0.3, "names": 0.5},
    *({"energy": 0.5, "weight": weight} for weight in (600, 2400)),
)
"""The same on SmolLM2, and how many layers are edited where it is not five."""
REAL_SAMPLE, NEIGHBORS = 60, 4
BATCHES = 3
SEARCHED = 150
"""Facts that are searched between one writing of the file of target values and the next."""
SAMPLE = 120
SHOWN = (
    *("efficacy", "generalization", "specificity", "kept"),
    *("efficacy_generate", "generalization_generate"),
)


@dataclass(frozen=True)
class Ground:
    """What all trials have in common: facts, their targets, and what they are measured by."""

    editor: Editor
    records: Sequence[EditRecord]
    facts: Sequence[Fact]
    hp: Hyperparameters
    contexts: Sequence[str]
    values: Tensor
    text: HeldOut
    kept: Sequence[tuple[str, str]]

    @property
    def handle(self) -> ModelHandle:
        """The model."""
        return self.editor.handle


def weighted(spectrum: Spectrum, *, power: float, soft: float, floor: float) -> Tensor:
    """M = mean sum g(x_i) u_i u_i^T, x_i = lambda_i / mean, g(x) = x^power x / (x + soft) + floor.

    Massive directions keep their eigenvalue. Power 1 alone is C.
    """
    rest = spectrum.rest.double().clamp_min(0)
    mean = float(rest.mean())
    x = rest / mean
    g = x**power * (x / (x + soft) if soft else 1.0) + floor
    weights = spectrum.values.double().clone()
    weights[: len(rest)] = mean * g
    vectors = spectrum.vectors.double()
    made = (vectors * weights) @ vectors.T
    return ((made + made.T) / 2).to(spectrum.values.dtype)


def base_of(ground: Ground, layer: int, keys: Tensor, setting: Mapping[str, Any]) -> System:
    """The system of a layer without facts, as a setting has it."""
    known = ground.editor.statistics
    if setting.get("names"):
        known = known.with_names(setting["names"])
    spectrum = known.spectrum(layer)
    if "energy" in setting:
        space = null_space(spectrum, energy=setting["energy"])
        if "weight" in setting:
            weight = float(setting["weight"])
            moment = known.second_moment(layer)
            ridge = ground.hp.conditioning * weight * float(moment.diagonal().mean())
            return System(ridge=ridge, subspace=space, second_moment=moment, moment_weight=weight)
        free = float(space.project(keys).double().square().sum(dim=0).mean())
        return System(ridge=setting["ridge_share"] * free, subspace=space)
    moment = weighted(
        spectrum,
        power=setting.get("power", 1.0),
        soft=setting.get("soft", 0.0),
        floor=setting.get("floor", 0.0),
    )
    weight = float(setting["weight"])
    ridge = ground.hp.conditioning * weight * float(moment.diagonal().mean())
    return System(ridge=ridge, second_moment=moment, moment_weight=weight)


def spread(batch: BatchKeys, layer: int, keys: Tensor, share: float) -> Tensor:
    """Columns whose outer products sum to `share` of the facts' key covariance over contexts."""
    assert batch.inside is not None
    inside = batch.inside.keys(layer)[0].view(keys.shape[1], batch.contexts, -1)
    mean = keys.T[:, None]
    bare = (batch.bare_keys[:, None] - mean) * 0.5**0.5
    columns = torch.cat([bare, (inside - mean) * (0.5 / batch.contexts) ** 0.5], dim=1)
    return share**0.5 * columns.flatten(0, 1).T.contiguous()


def layers_of(hp: Hyperparameters, setting: Mapping[str, Any]) -> tuple[int, ...]:
    """The layers that a setting edits; the last is where targets were searched."""
    last = hp.layers[-1]
    return tuple(range(last - setting["span"] + 1, last + 1)) if "span" in setting else hp.layers


def parts_of(
    ground: Ground,
    setting: Mapping[str, Any],
    facts: Sequence[Fact],
    past: Mapping[int, Sequence[Tensor]],
) -> list[Any]:
    """Into how many parts each layer divides what is missing; see `locate_then_edit`."""
    layers = layers_of(ground.hp, setting)
    if setting.get("shares") is None:
        return [len(layers) - index for index in range(len(layers))]
    batch, reached = BatchKeys(ground.handle, facts, ground.contexts, layers), []
    for layer in layers:
        keys, _ = batch.at(layer)
        system = base_of(ground, layer, keys, setting)
        for earlier in past[layer]:
            system.absorb(earlier)
        reached.append(system.reach(keys).to(keys))
    each = torch.stack(reached)
    if setting["shares"] == "reach":
        each = each / each.mean(dim=1, keepdim=True)
    return list(each.flip(0).cumsum(0).flip(0) / each)


def applied(ground: Ground, setting: Mapping[str, Any], stack: ExitStack) -> None:
    """Edit all facts batch after batch, as long as `stack` is open."""
    handle, layers = ground.handle, layers_of(ground.hp, setting)
    past: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    size = -(-len(ground.facts) // setting.get("batches", BATCHES))
    for at in range(0, len(ground.facts), size):
        facts = ground.facts[at : at + size]
        parts = parts_of(ground, setting, facts, past)
        batch = BatchKeys(handle, facts, ground.contexts, layers)
        wanted = ground.values[:, at : at + size]
        new: dict[int, Tensor] = {}
        for index, layer in enumerate(layers):
            keys, hidden = batch.at(layer)
            system = base_of(ground, layer, keys, setting)
            for earlier in past[layer]:
                system.absorb(earlier)
            if setting.get("spread"):
                system.absorb(spread(batch, layer, keys, setting["spread"]))
            delta = system.solve(keys, (wanted - hidden) / parts[index])
            stack.enter_context(handle.temporarily({handle.edited_name(layer): delta}))
            new[layer] = keys
        for layer in layers:
            past[layer].append(new[layer])


def trial(ground: Ground, setting: Mapping[str, Any] | None) -> dict[str, float]:
    """Figures with a system's edits in force; of the unedited model without a setting."""
    sample = ground.records[:: max(1, len(ground.records) // SAMPLE)]
    if not ground.handle.is_bundled:
        some = ground.records[:: max(1, len(ground.records) // REAL_SAMPLE)]
        sample = [
            replace(record, neighborhood_prompts=record.neighborhood_prompts[:NEIGHBORS])
            for record in some
        ]
    with ExitStack() as stack:
        if setting is not None:
            applied(ground, setting, stack)
        metrics = evaluate(ground.editor, sample, kept=ground.kept, generation=False)
        drift = ground.text.drift(ground.handle)
    shares = {name: round(rate.value, 2) for name in SHOWN if (rate := metrics.get(name))}
    return {**shares, "kl": round(drift.kl, 4), "perplexity": round(drift.perplexity, 3)}


def records_of(editor: Editor, args: argparse.Namespace) -> list[EditRecord]:
    """As many as asked for: of a file, or of the bundled world."""
    d_in = editor.handle.d_in(0)
    count = 9 if args.quick else args.edits or round(args.load * d_in)
    if args.records:
        return list(load(args.records).records)[:count]
    return world_records(editor.handle, count, args.seed)


def settings_of(
    editor: Editor, facts: Sequence[Fact], layers: tuple[int, ...] | None
) -> Hyperparameters:
    """Of the search: those that the model is known by, or that go with the layers given."""
    over: dict[str, Any] = {}
    if layers:
        own = search_settings(editor.handle, probes(editor.handle, seed=0), layers, CLAMPS[0])
        over = {**own, "layers": layers}
    hp = editor.hyperparameters("alphaedit", None, facts, **over)
    assert isinstance(hp, Hyperparameters)
    return hp


def prepared(
    editor: Editor,
    records: Sequence[EditRecord],
    text: Path | None,
    layers: tuple[int, ...] | None,
    systems: Sequence[Mapping[str, Any]],
    file: Path | None = None,
) -> Ground:
    """Search the targets, which all trials share, but for those that `file` has."""
    handle = editor.handle
    facts = [replace(record.fact, paraphrases=(), neighborhood=()) for record in records]
    hp = settings_of(editor, facts, layers)
    every = sorted({layer for system in systems for layer in layers_of(hp, system)})
    editor.statistics.prepare(every)
    for share in {system.get("names", 0.0) for system in systems} - {0.0}:
        editor.statistics.with_names(share).prepare(every)
    contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
    targets = searched(handle, facts, contexts, hp, file)
    kept = known_facts(handle, {record.subject for record in records}, 0)
    held = held_out(handle, str(text) if text else None, seed=0)
    return Ground(editor, records, facts, hp, contexts, targets.values, held, kept)


def named(fact: Fact) -> str:
    """What tells a fact from others."""
    return f"{fact.text}|{fact.target}"


def searched(
    handle: ModelHandle,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    hp: Hyperparameters,
    file: Path | None,
) -> Targets:
    """Target values on the model as it is; kept in `file`, if one is given."""
    stored: dict[str, tuple[Tensor, Tensor, list[float]]] = {}
    if file is not None and file.is_file():
        stored = torch.load(file, weights_only=True)
    todo = [fact for fact in facts if named(fact) not in stored]
    for at in range(0, len(todo), SEARCHED):
        part = todo[at : at + SEARCHED]
        found = find_targets(handle, part, hp.layers[-1], contexts, hp)
        rows = zip(part, found.values.T, found.clean.T, found.losses, strict=True)
        stored |= {named(fact): (z.clone(), h.clone(), losses) for fact, z, h, losses in rows}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(stored, file)
    rows = [stored[named(fact)] for fact in facts]
    return Targets(
        values=torch.stack([row[0] for row in rows], dim=1),
        clean=torch.stack([row[1] for row in rows], dim=1),
        losses=[row[2] for row in rows],
    )


def stretch(text: str) -> tuple[int, ...]:
    """Layers by the first and the last: "4-8"."""
    first, last = map(int, text.split("-"))
    return tuple(range(first, last + 1))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Trials that stand in the file."""
    if path.is_file():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the trials that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled-small")
    parser.add_argument("--records", type=Path, help="records to edit, for a real model")
    parser.add_argument("--text", type=Path, help="held-out text, for a real model")
    parser.add_argument("--edits", type=int, help="by default by the load")
    parser.add_argument("--layers", type=stretch, help="as 4-8; by default the model's own")
    parser.add_argument("--load", type=float, default=0.3, help="edits / d_in")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--system", nargs="+", type=json.loads, help="only these, as JSON")
    parser.add_argument("--targets", type=Path, help="file to keep target values in")
    parser.add_argument("--quick", action="store_true", help="nine facts, two systems")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    path = RESULTS / ("frontier-quick.jsonl" if args.quick else "frontier.jsonl")
    editor = Editor.from_pretrained(args.model, seed=0, progress=False)
    records = records_of(editor, args)
    about = {
        "model": Path(args.model).name,
        "records": args.records.name if args.records else "world",
        "seed": None if args.records else args.seed,
        "edits": len(records),
    }
    if args.layers:
        about["layers"] = list(args.layers)
    known = [row["system"] for row in lines(path) if about.items() <= row.items()]
    listed = args.system or (REAL if args.records else SMALL)
    systems = [None, *listed][: 3 if args.quick else None]
    todo = [system for system in systems if system not in known]
    if not todo:
        return
    ground = prepared(editor, records, args.text, args.layers, listed, args.targets)
    about |= {"layers": list(ground.hp.layers), "turns": ground.hp.turns}
    for system in todo:
        row = {**about, "system": system, **trial(ground, system), **machine()["versions"]}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
