"""The measures that experiments know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.experiments.measures import Context, Measure, Numbers, Outcome, _Plain
from alphaedit.bench.intervals import percent
from alphaedit.bench.metrics import generation_metrics, kept_share
from alphaedit.bench.qa import Unedited, unedited_answers
from alphaedit.bench.run import metrics_for
from alphaedit.model.generate import generate
from alphaedit.model.scoring import score
from alphaedit.stats.drift import held_out

TEXTS = 6
TEXT_TOKENS = 40


class _Edits:
    """What was edited: CounterFact's probabilities, or the metrics of questions, by the records."""

    def before(self, context: Context) -> Unedited:
        return unedited_answers(context.editor.handle, context.coming, progress=context.progress)

    def now(self, context: Context) -> Outcome:
        handle = context.editor.handle
        found = metrics_for(
            handle, context.records, context.before["edits"], progress=context.progress
        )
        numbers: Numbers = dict(found)
        if context.kept:
            numbers["kept"] = kept_share(handle, context.kept)
        return Outcome(numbers)


def _generation(context: Context) -> Outcome:
    found = generation_metrics(
        context.editor.handle, context.records, seed=context.seed, progress=context.progress
    )
    return Outcome(dict(found))


def _texts(context: Context) -> Outcome:
    """Greedy text after the prompts of the first records, for reading side by side."""
    chosen = list(context.coming)[:TEXTS]
    prompts = [(r, p) for r in chosen for p in (r.rewrite, *r.generation_prompts[:1])]
    said = generate(context.editor.handle, [p for _, p in prompts], TEXT_TOKENS)
    texts = [
        {"prompt": p, "new": r.target_new, "true": r.target_true, "text": text}
        for (r, p), text in zip(prompts, said, strict=True)
    ]
    return Outcome({}, {"texts": texts})


def _relations(context: Context) -> Outcome:
    """Efficacy by relation: p(new) > p(true) on the rewrite prompt."""
    handle, records = context.editor.handle, context.records
    new = score(handle, [(r.rewrite, r.target_new) for r in records])
    true = score(handle, [(r.rewrite, r.target_true) for r in records])
    hits: dict[str, list[bool]] = defaultdict(list)
    for record, n, t in zip(records, new, true, strict=True):
        hits[record.relation_id or "none"].append(n.mean_logprob > t.mean_logprob)
    return Outcome({f"efficacy:{name}": percent(found) for name, found in sorted(hits.items())})


def _retention(context: Context) -> Outcome:
    """Efficacy by the age of edits: tenths of the run, oldest first."""
    handle, records = context.editor.handle, list(context.records)
    new = score(handle, [(r.rewrite, r.target_new) for r in records])
    true = score(handle, [(r.rewrite, r.target_true) for r in records])
    hits = [n.mean_logprob > t.mean_logprob for n, t in zip(new, true, strict=True)]
    parts = min(10, len(hits))
    edges = [round(i * len(hits) / parts) for i in range(parts + 1)]
    return Outcome({f"efficacy:{i}": percent(hits[edges[i] : edges[i + 1]]) for i in range(parts)})


class _Drift:
    """KL and perplexity on held-out text."""

    def before(self, context: Context) -> Any:
        return held_out(context.editor.handle, seed=context.seed)

    def now(self, context: Context) -> Outcome:
        found = context.before["drift"].drift(context.editor.handle)
        return Outcome({"kl": found.kl, "perplexity": found.perplexity})


def _space(context: Context) -> Outcome:
    """Size of the null space and what is left in it, averaged over the edited layers."""
    edits = context.editor.edits
    reports: list[Mapping[str, Any]] = list(edits[-1].null_space.values()) if edits else []
    if not reports:
        return Outcome({})
    mean = {k: sum(r[k] for r in reports) / len(reports) for k in ("dim", "d_in", "energy_left")}
    return Outcome({"null_share": mean["dim"] / mean["d_in"], "energy_left": mean["energy_left"]})


def relation_of(record: EditRecord) -> str:
    """The relation a record is about."""
    return record.relation_id or "none"


MEASURES: dict[str, Measure] = {
    "edits": _Edits(),
    "generation": _Plain(_generation),
    "texts": _Plain(_texts),
    "relations": _Plain(_relations),
    "retention": _Plain(_retention),
    "drift": _Drift(),
    "space": _Plain(_space),
}
PROTOCOLS = {
    "edits": "teacher-forced; *_generate, multi_hop: greedy, exact",
    "generation": "sampled, top-k 5, 100 tokens",
    "relations": "teacher-forced",
    "retention": "teacher-forced",
    "drift": "held-out text",
}
