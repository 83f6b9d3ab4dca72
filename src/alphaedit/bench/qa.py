"""Metrics of question-answering benchmarks: ZsRE, KnowEdit, RippleEdits, MQuAKE, long answers.

Teacher-forced token accuracy is the published measure of ZsRE, KnowEdit and RippleEdits; exact
generation (greedy, from the prompt alone, matched against all aliases) stands beside it as the
stricter one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from alphaedit.bench.behind import generate_behind
from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.intervals import Rate, mean, percent
from alphaedit.bench.metrics import Metrics
from alphaedit.bench.similarity import TextEncoder, bleu, has_bleu
from alphaedit.core.progress import Progress, silent
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.responder import Responder
from alphaedit.model.scoring import lengths, score

ANSWER_TOKENS = 16
HOP_TOKENS = 64
LONG_TOKENS = 256
STORY_TOKENS = 80
QUESTION = "Question:"
EXAMPLES = "\n".join(
    (
        "Question: In which country was the author of Faust born? The author of Faust is Johann "
        "Wolfgang von Goethe. Johann Wolfgang von Goethe was born in Germany. Answer: Germany",
        "Question: What is the capital of the country of which Lionel Messi is a citizen? Lionel "
        "Messi is a citizen of Argentina. The capital of Argentina is Buenos Aires. Answer: "
        "Buenos Aires",
        "Question: On which continent is the country where pizza was invented? Pizza was invented "
        "in Italy. Italy is in Europe. Answer: Europe",
    )
)
Asked = tuple[int, str, tuple[str, ...]]
"""Number of a case, prompt, accepted answers."""
LONG = "longform"
COUNTERFACTUAL = frozenset({"counterfact", "leme"})
"""Schemas whose edits are measured by comparing the new object with the old one."""
_LEAD = re.compile(r"^[\s\"'(\[]+")


@dataclass(frozen=True)
class Unedited:
    """What the unedited model says to the locality probes of records, by prompt."""

    said: dict[str, str]


def unedited_answers(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    *,
    progress: Progress = silent,
) -> Unedited:
    """Ask every locality probe of the unedited model once."""
    prompts = list(dict.fromkeys(p.prompt for r in records for p in r.probes if _local(p)))
    return Unedited(dict(zip(prompts, _answers(responder, prompts, progress), strict=True)))


def qa_metrics(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    before: Unedited | None = None,
    *,
    generation: bool = True,
    progress: Progress = silent,
) -> Metrics:
    """All that the records carry, as the model is now.

    - edit_success, generalization: mean share of the target's tokens that are the most likely ones
      given those before, after the prompt and after paraphrases (published: "accuracy").
    - portability, and by kind: the same for probes; the best of all aliases counts.
    - locality, and by kind: share of probes whose greedy answer is word for word that of the
      unedited model (needs `before`).
    - *_generate: share of prompts whose greedy answer begins with the target, or an alias.
    - multi_hop: share of cases with at least one of their questions answered right;
      edit_wise: share of rewrites, instance_wise: share of cases with all single hops right.
    """
    out: Metrics = {}
    rewrites = [(f.text, f.target) for r in records for f in r.facts]
    paraphrases = [(p, r.target_new) for r in records for p in r.paraphrase_prompts]
    ported = [p for r in records for p in r.probes if p.kind == "portability"]
    out["edit_success"] = _token_accuracy(responder, [(p, (t,)) for p, t in rewrites])
    out["generalization"] = _token_accuracy(responder, [(p, (t,)) for p, t in paraphrases])
    for name, probes in _by_name(ported, "portability"):
        out[name] = _token_accuracy(responder, [(p.prompt, p.answers) for p in probes])
    if before is not None:
        local = [p for r in records for p in r.probes if _local(p)]
        for name, probes in _by_name(local, "locality"):
            now = _answers(responder, [p.prompt for p in probes], progress)
            same = [before.said[p.prompt] == text for p, text in zip(probes, now, strict=True)]
            out[name] = percent(same)
    if generation:
        asked: dict[str, list[tuple[str, tuple[str, ...]]]] = {
            "edit_success_generate": [(p, (t,)) for p, t in rewrites],
            "generalization_generate": [(p, (t,)) for p, t in paraphrases],
            "portability_generate": [(p.prompt, p.answers) for p in ported],
        }
        for name, pairs in asked.items():
            out[name] = percent(_right(responder, pairs, progress))
    if any(r.schema == "mquake" for r in records):
        out |= _hops(responder, [r for r in records if r.schema == "mquake"], progress)
    return out


def long_metrics(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    *,
    encoder: TextEncoder | None = None,
    progress: Progress = silent,
) -> Metrics:
    """ROUGE-L, BLEU and token recall, x 100, of greedy text against long targets.

    After the prompt and after paraphrases (UnKE, EditEverything, AKEW; Deng et al. 2024 use these
    beside a judge model). BLEU where sacrebleu is installed; with an encoder, cosines too.
    """
    out: Metrics = {}
    own = [(f.text, f.target) for r in records for f in r.facts]
    other = [(p, r.target_new) for r in records for p in r.paraphrase_prompts]
    measured = {
        "rouge_l": rouge_l,
        "recall": token_recall,
        **({"bleu": bleu} if has_bleu() else {}),
    }
    for name, pairs in (("rewrite", own), ("paraphrase", other)):
        if not pairs:
            continue
        targets = [target for _, target in pairs]
        limit = min(LONG_TOKENS, max(lengths(responder, targets)) + 8)
        texts = generate(
            responder,
            [p for p, _ in pairs],
            limit,
            progress=lambda done, total: progress("generation", done, total),
        )
        for metric, of_pair in measured.items():
            values = [100 * of_pair(t, wanted) for t, wanted in zip(texts, targets, strict=True)]
            out[f"{metric}_{name}"] = mean(values)
        if encoder is not None:
            cosines = [100 * cosine for cosine in encoder.alike(texts, targets)]
            out[f"similarity_{name}"] = mean(cosines)
    return out


def story_metrics(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    *,
    progress: Progress = silent,
) -> Metrics:
    """LEME's questions about long texts, without a judge (Rosati et al. 2024 have one).

    Of greedy texts after the prompts of kind "long":

    - topicality: share that name the subject (prompts about the subject only);
    - factual_consistency: of the texts that name the new or the old object, share that name the new
      one and not the old;
    - internal_consistency: of those that name either, share that do not name both.
    """
    asked = [(r, p) for r in records for p in r.probes if p.kind == "long"]
    if not asked:
        return {}
    continuations = generate(
        responder,
        [p.prompt for _, p in asked],
        STORY_TOKENS,
        progress=lambda done, total: progress("long texts", done, total),
    )
    topical, factual, coherent = [], [], []
    for (record, probe), written in zip(asked, continuations, strict=True):
        text = (probe.prompt + written).casefold()
        if probe.name == "subject":
            topical.append(record.subject.casefold() in text)
        new = record.target_new.casefold() in text
        old = bool(record.target_true) and record.target_true.casefold() in text
        if new or old:
            factual.append(new and not old)
            coherent.append(not (new and old))
    return {
        "topicality": percent(topical),
        "factual_consistency": percent(factual),
        "internal_consistency": percent(coherent),
    }


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, 0 to 1 (Lin 2004, beta 1)."""
    a, b = text.casefold().split(), reference.casefold().split()
    if not a or not b:
        return 0.0
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, start=1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    common = row[-1]
    return 2 * common / (len(a) + len(b))


def token_recall(text: str, reference: str) -> float:
    """Share of the reference's distinct words that are in the text, 0 to 1."""
    wanted = set(reference.casefold().split())
    return len(wanted & set(text.casefold().split())) / len(wanted) if wanted else 0.0


def matches(text: str, answers: Iterable[str]) -> bool:
    """Whether `text` begins with one of `answers`, as whole words, whatever the case."""
    cleaned = _LEAD.sub("", text).casefold()
    for answer in answers:
        wanted = answer.strip().rstrip(".").casefold()
        if cleaned.startswith(wanted) and not cleaned[len(wanted) : len(wanted) + 1].isalnum():
            return True
    return False


def asked_directly(question: str) -> str:
    """A question, up to where its answer begins."""
    return f"{_marked(question)} Answer:"


def worked_examples(question: str) -> str:
    """What goes in front of a question, so that a chain of thought follows it.

    Questions that begin with "Question:" are the bundled world's, whose models were trained on
    that form and need no examples.
    """
    return "" if question.startswith(QUESTION) else f"{EXAMPLES}\n"


def asked_to_think(question: str) -> str:
    """A question, up to where a chain of thought begins, behind the examples it needs."""
    return worked_examples(question) + _marked(question)


def _marked(question: str) -> str:
    return question if question.startswith(QUESTION) else f"{QUESTION} {question}"


def chain_answer(text: str) -> str:
    """What a model says after its chain of thought: the text behind the last "Answer:"."""
    first = text.split("\nQuestion:")[0].split(" Question:")[0]
    return first.rpartition("Answer:")[2]


def _local(probe: Probe) -> bool:
    return probe.kind == "locality"


def _by_name(probes: Sequence[Probe], kind: str) -> list[tuple[str, list[Probe]]]:
    """All probes under `kind`, then each group under "kind:name" if there are several."""
    groups: dict[str, list[Probe]] = defaultdict(list)
    for probe in probes:
        groups[f"{kind}:{probe.name}"].append(probe)
    if not probes:
        return []
    parts = list(groups.items()) if len(groups) > 1 else []
    return [(kind, list(probes)), *parts]


def _token_accuracy(
    responder: ModelHandle | Responder, asked: Sequence[tuple[str, tuple[str, ...]]]
) -> Rate | None:
    pairs = [(prompt, answer) for prompt, answers in asked for answer in answers]
    scores = iter(score(responder, pairs))
    best = []
    for _, answers in asked:
        shares = [s.correct / s.tokens for s in (next(scores) for _ in answers)]
        best.append(100 * max(shares))
    return mean(best)


def _answers(
    responder: ModelHandle | Responder, prompts: Sequence[str], progress: Progress
) -> list[str]:
    texts = generate(
        responder,
        list(prompts),
        ANSWER_TOKENS,
        progress=lambda done, total: progress("answers", done, total),
    )
    # Up to the first full stop or line end: what follows is no part of the answer.
    return [re.split(r"[.\n]", text, maxsplit=1)[0].strip() for text in texts]


def _right(
    responder: ModelHandle | Responder,
    asked: Sequence[tuple[str, tuple[str, ...]]],
    progress: Progress,
) -> list[bool]:
    if not asked:
        return []
    longest = max(lengths(responder, [a for _, answers in asked for a in answers]))
    texts = generate(
        responder,
        [prompt for prompt, _ in asked],
        min(LONG_TOKENS, max(ANSWER_TOKENS, longest + 2)),
        progress=lambda done, total: progress("answers", done, total),
    )
    return [matches(text, answers) for text, (_, answers) in zip(texts, asked, strict=True)]


def _hops(
    responder: ModelHandle | Responder, records: Sequence[EditRecord], progress: Progress
) -> Metrics:
    """MQuAKE (Zhong et al. 2023): direct answers, and answers after a chain of thought."""

    def ask(kind: str, form: Callable[[str], str]) -> list[Asked]:
        return [
            (i, form(p.prompt), p.answers)
            for i, r in enumerate(records)
            for p in r.probes
            if p.kind == kind
        ]

    direct = ask("multi_hop", asked_directly)
    right = _right(responder, [(p, a) for _, p, a in direct], progress)
    thought = ask("multi_hop", lambda question: question)
    chains = generate_behind(
        responder,
        [(worked_examples(p), _marked(p)) for _, p, _ in thought],
        HOP_TOKENS,
        progress=lambda done, total: progress("chains of thought", done, total),
    )
    reasoned = [
        matches(chain_answer(text), a) for text, (_, _, a) in zip(chains, thought, strict=True)
    ]
    single = ask("single_hop", asked_directly)
    known = _right(responder, [(p, a) for _, p, a in single], progress)
    rewrites = [(f.text, (f.target,)) for r in records for f in r.facts]

    def by_case(items: Sequence[Asked], hits: Sequence[bool]) -> dict[int, list[bool]]:
        grouped: dict[int, list[bool]] = defaultdict(list)
        for (case, _, _), hit in zip(items, hits, strict=True):
            grouped[case].append(hit)
        return grouped

    return {
        "multi_hop": percent([any(hits) for hits in by_case(direct, right).values()]),
        "multi_hop_chain": percent([any(hits) for hits in by_case(thought, reasoned).values()]),
        "edit_wise": percent(_right(responder, rewrites, progress)),
        "instance_wise": percent([all(hits) for hits in by_case(single, known).values()]),
    }
