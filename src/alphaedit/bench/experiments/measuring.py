"""The measures that experiments know."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from alphaedit.bench.ability import published_tasks, run_task, world_tasks
from alphaedit.bench.data import EditRecord
from alphaedit.bench.experiments.categories import category_of
from alphaedit.bench.experiments.measures import Context, Measure, Numbers, Outcome, _Plain
from alphaedit.bench.intervals import percent
from alphaedit.bench.metrics import generation_metrics, kept_share
from alphaedit.bench.qa import Unedited, unedited_answers
from alphaedit.bench.routing import memory_metrics, routing_metrics
from alphaedit.bench.run import metrics_for
from alphaedit.bench.shift import compare, hidden_states
from alphaedit.bench.strict import conclusions, strict_metrics
from alphaedit.core.errors import DataError
from alphaedit.core.fact import Fact
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score
from alphaedit.stats.drift import held_out
from alphaedit.world.facts import World
from alphaedit.world.phrasing import train_phrasings

TEXTS = 6
GENERATED = 60
STATES = 500
"""Facts whose hidden states are compared before and after."""
TEXT_TOKENS = 40


class _Edits:
    """What was edited: CounterFact's probabilities, or the metrics of questions, by the records."""

    def before(self, context: Context) -> Unedited:
        return unedited_answers(context.editor.handle, context.coming, progress=context.progress)

    def now(self, context: Context) -> Outcome:
        handle = context.editor.handle
        metrics = metrics_for(
            handle, context.records, context.before["edits"], progress=context.progress
        )
        numbers: Numbers = dict(metrics)
        if context.kept:
            numbers["kept"] = kept_share(handle, context.kept)
        return Outcome(numbers)


def _generation(context: Context) -> Outcome:
    # Sampled text costs a hundred passes; the intervals tell what fewer records are worth.
    records = list(context.records)[:: max(1, -(-len(context.records) // GENERATED))]
    metrics = generation_metrics(
        context.editor.handle, records, seed=context.seed, progress=context.progress
    )
    return Outcome(dict(metrics))


def _texts(context: Context) -> Outcome:
    """Greedy text after the prompts of the first records, for reading side by side."""
    chosen = list(context.coming)[:TEXTS]
    prompts = [(r, p) for r in chosen for p in (r.rewrite, *r.generation_prompts[:1])]
    continuations = generate(context.editor.handle, [p for _, p in prompts], TEXT_TOKENS)
    texts = [
        {"prompt": p, "new": r.target_new, "true": r.target_true, "text": text}
        for (r, p), text in zip(prompts, continuations, strict=True)
    ]
    return Outcome({}, {"texts": texts})


def _semantics(context: Context) -> Outcome:
    """Efficacy by category of relation: p(new) > p(true) on the rewrite prompt."""
    handle, records = context.editor.handle, context.records
    new = score(handle, [(r.rewrite, r.target_new) for r in records])
    true = score(handle, [(r.rewrite, r.target_true) for r in records])
    hits: dict[str, list[bool]] = defaultdict(list)
    for record, n, t in zip(records, new, true, strict=True):
        hits[category_of(record.relation_id)].append(n.mean_logprob > t.mean_logprob)
    return Outcome({f"efficacy:{name}": percent(wins) for name, wins in sorted(hits.items())})


def _retention(context: Context) -> Outcome:
    """Efficacy by the age of edits: tenths of the run, oldest first."""
    handle, records = context.editor.handle, list(context.records)
    new = score(handle, [(r.rewrite, r.target_new) for r in records])
    true = score(handle, [(r.rewrite, r.target_true) for r in records])
    hits = [n.mean_logprob > t.mean_logprob for n, t in zip(new, true, strict=True)]
    parts = min(10, len(hits))
    edges = [round(i * len(hits) / parts) for i in range(parts + 1)]
    names = [str(i + 1) for i in range(parts)]
    names[0], names[-1] = f"{names[0]} (oldest)", f"{names[-1]} (newest)"
    return Outcome(
        {f"efficacy:{n}": percent(hits[edges[i] : edges[i + 1]]) for i, n in enumerate(names)}
    )


class _Drift:
    """KL and perplexity on held-out text."""

    def before(self, context: Context) -> Any:
        text = context.options.get("held_out")
        return held_out(context.editor.handle, text, seed=context.seed)

    def now(self, context: Context) -> Outcome:
        drift = context.before["drift"].drift(context.editor.handle)
        return Outcome({"kl": drift.kl, "perplexity": drift.perplexity})


def _space(context: Context) -> Outcome:
    """Size of the null space and what is left in it, averaged over the edited layers."""
    edits = context.editor.edits
    reports: list[Mapping[str, Any]] = list(edits[-1].null_space.values()) if edits else []
    if not reports:
        return Outcome({})
    mean = {k: sum(r[k] for r in reports) / len(reports) for k in ("dim", "d_in", "energy_left")}
    statistics = context.editor.statistics
    site = statistics.busiest(context.layer)
    name = context.editor.handle.edited_name(site)
    values = statistics.spectrum(site).values.tolist()
    spectrum = {
        "layer": site if isinstance(site, int) else str(site),
        "values": [float(f"{value:.4g}") for value in values],
        "null": edits[-1].null_space.get(name, reports[-1])["dim"],
    }
    return Outcome(
        {"null_share": mean["dim"] / mean["d_in"], "energy_left": mean["energy_left"]},
        {"spectrum": spectrum},
    )


def _routing(context: Context) -> Outcome:
    """Bytes of any method; of hooks and memories also where they fire and the time they take."""
    editor, progress = context.editor, context.progress
    metrics = routing_metrics(editor, context.records, progress=progress) or memory_metrics(editor)
    return Outcome(dict(metrics))


class _Strict:
    """Stricter probes; of the unedited model about what it held before."""

    def before(self, context: Context) -> Mapping[str, str]:
        return conclusions(context.editor.handle, context.coming)

    def now(self, context: Context) -> Outcome:
        editor, progress = context.editor, context.progress
        edited = bool(editor.edits)
        metrics = strict_metrics(
            editor.handle,
            context.records,
            "new" if edited else "old",
            concluded=context.before["strict"] if edited else None,
            progress=progress,
        )
        return Outcome(dict(metrics))


class _Shift:
    """Hidden states of facts that are not edited, at the last edited layer (Figure 5)."""

    def before(self, context: Context) -> Any:
        facts = unedited_facts(context.editor.handle, context.coming, seed=context.seed)
        states = hidden_states(context.editor.handle, facts, context.layer)
        return facts, states

    def now(self, context: Context) -> Outcome:
        facts, before = context.before["shift"]
        comparison = compare(before, hidden_states(context.editor.handle, facts, context.layer))
        points = {
            "before": [[round(v, 3) for v in p] for p in comparison.points_before.tolist()],
            "after": [[round(v, 3) for v in p] for p in comparison.points_after.tolist()],
        }
        return Outcome(dict(comparison.numbers()), {"shift": points})


def _ability(context: Context) -> Outcome:
    """F1 of general tasks: the bundled models' own, or the published ones in `ability_data`."""
    handle, data = context.editor.handle, context.options.get("ability_data")
    tasks = (
        published_tasks(data, seed=context.seed) if data else world_tasks(handle, seed=context.seed)
    )
    return Outcome({f"ability:{t.name}": run_task(handle, t).f1 for t in tasks})


def unedited_facts(handle: ModelHandle, records: Sequence[EditRecord], *, seed: int) -> list[Fact]:
    """Facts about other subjects: of the world for bundled models, else the neighborhood's prompts.

    Raises:
        DataError: there are fewer than five.
    """
    own = {record.subject for record in records}
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    if known is not None:
        world = World.load().largest(known)
        others = [f for f in world.facts if f.subject not in own]
        chosen = random.Random(seed).sample(others, min(STATES, len(others)))
        relations = world.relations
        return [
            Fact(train_phrasings(relations[f.relation])[0], f.subject, f.object) for f in chosen
        ]
    facts = []
    for record in records:
        template, _, rest = record.prompt.partition("{}")
        for prompt in record.neighborhood_prompts:
            # A neighborhood prompt of the same template names another subject in its place.
            if prompt.startswith(template) and prompt.endswith(rest):
                subject = prompt[len(template) : len(prompt) - len(rest)].strip()
                if subject and subject not in own:
                    facts.append(Fact(record.prompt, subject, record.target_true or "?"))
    if len(facts) < 5:
        raise DataError(
            "The records name fewer than five subjects that are not edited.",
            remedy="Leave the measure 'shift' out, or give CounterFact's records.",
        )
    return random.Random(seed).sample(facts, min(STATES, len(facts)))


MEASURES: dict[str, Measure] = {
    "edits": _Edits(),
    "generation": _Plain(_generation),
    "texts": _Plain(_texts),
    "semantics": _Plain(_semantics),
    "shift": _Shift(),
    "ability": _Plain(_ability),
    "retention": _Plain(_retention),
    "drift": _Drift(),
    "space": _Plain(_space),
    "routing": _Plain(_routing),
    "strict": _Strict(),
}
PROTOCOLS = {
    "edits": "teacher-forced; *_generate, multi_hop: greedy, exact",
    "generation": "sampled, top-k 5, 100 tokens",
    "semantics": "teacher-forced",
    "shift": "hidden states at the subject's last token, PCA for d1, d2, hausdorff",
    "ability": "F1 x 100, few-shot, greedy",
    "retention": "teacher-forced",
    "drift": "held-out text",
    "routing": "shares at the ends of prompts; bytes in memory; time in percent of silent routers",
    "strict": "comparisons of continuations; the unedited model about what it held; old_*: greedy",
}
