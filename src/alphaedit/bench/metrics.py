"""CounterFact's metrics as published, and exact generation beside them.

Let p(o | x) be exp of the mean token log-probability. Efficacy, generalization: share of records
(of paraphrases) with p(new) > p(true); specificity: share of neighborhood prompts with p(true) >
p(new) (Meng et al. 2022, section 3.2; published evaluation averages prompts within a record first,
so do we).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.intervals import Rate, mean, percent
from alphaedit.core.progress import Progress, silent
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.responder import Responder
from alphaedit.model.scoring import score

References = Callable[[EditRecord], Sequence[str]]
Metrics = dict[str, Rate | None]

GENERATED_TOKENS = 100
TOP_K = 5


def attribute_references(record: EditRecord) -> list[str]:
    """Reference texts made of the record itself: other subjects for which the new object holds.

    The published references are Wikipedia articles about such subjects, which a record does not
    carry.
    """
    return [f"{prompt} {record.target_new}." for prompt in record.attribute_prompts]


def ngram_entropy(text: str) -> float:
    """Weighted entropy of 2-grams and 3-grams in bits, as published (weights 2/3, 4/3, halved)."""
    words = text.split()
    entropies = []
    for n in (2, 3):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        total = sum(grams.values())
        entropies.append(-sum(c / total * math.log2(c / total) for c in grams.values()))
    return (2 / 3 * entropies[0] + 4 / 3 * entropies[1]) / 2


def tfidf_cosine(text: str, reference: str) -> float:
    """Cosine between TF-IDF vectors of two texts, 0 to 1; 0 if either has no word."""
    # Imported here: a second that most commands need not spend.
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectors = TfidfVectorizer().fit_transform([text, reference])
    except ValueError:
        return 0.0
    return float((vectors[0] @ vectors[1].T).toarray()[0, 0])


def probability_metrics(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    *,
    progress: Progress = silent,
) -> Metrics:
    """Efficacy, generalization, specificity, their magnitudes and score, and exact generation."""
    prompts: list[tuple[int, str, str]] = []
    for i, record in enumerate(records):
        prompts.append((i, "efficacy", record.rewrite))
        prompts += [(i, "generalization", p) for p in record.paraphrase_prompts]
        prompts += [(i, "specificity", p) for p in record.neighborhood_prompts]
    # Both objects at once: where each is one token, they are read from the same pass.
    both = [(p, records[i].target_new) for i, _, p in prompts]
    both += [(p, records[i].target_true) for i, _, p in prompts]
    scores = score(responder, both, progress=progress)
    new, true = scores[: len(prompts)], scores[len(prompts) :]
    per_prompt: dict[str, list[bool]] = {}
    exact: dict[str, list[bool]] = {}
    difference: dict[str, list[float]] = {}
    for (_, kind, _), n, t in zip(prompts, new, true, strict=True):
        sign = -1.0 if kind == "specificity" else 1.0
        hit = sign * (n.mean_logprob - t.mean_logprob) > 0
        per_prompt.setdefault(kind, []).append(hit)
        difference.setdefault(kind, []).append(sign * (n.p - t.p))
        exact.setdefault(kind, []).append(t.exact if kind == "specificity" else n.exact)
    out: Metrics = {}
    for kind in ("efficacy", "generalization", "specificity"):
        out[kind] = percent(per_prompt.get(kind, []))
        out[f"{kind}_generate"] = percent(exact.get(kind, []))
        out[f"{kind}_magnitude"] = mean(difference.get(kind, []))
    out["score"] = harmonic_score(out, len(records))
    return out


def harmonic_score(metrics: Metrics, records: int) -> Rate | None:
    """Harmonic mean of efficacy, generalization and specificity; None where one is missing."""
    parts = [metrics.get(k) for k in ("efficacy", "generalization", "specificity")]
    values = [part.value for part in parts if part is not None]
    if len(values) != 3:
        return None
    harmonic = 3 / sum(1 / v for v in values) if min(values) > 0 else 0.0
    lows = [part.low for part in parts if part is not None]
    highs = [part.high for part in parts if part is not None]
    low = 3 / sum(1 / v for v in lows) if min(lows) > 0 else 0.0
    high = 3 / sum(1 / v for v in highs) if min(highs) > 0 else 0.0
    return Rate(harmonic, low, high, records)


def generation_metrics(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    *,
    seed: int = 0,
    references: References = attribute_references,
    progress: Progress = silent,
) -> Metrics:
    """Fluency and consistency of sampled text (top-k 5, up to 100 tokens in all), x 100."""
    generator = torch.Generator().manual_seed(seed)
    owners = [(i, p) for i, r in enumerate(records) for p in dict.fromkeys(r.generation_prompts)]
    texts = generate(
        responder,
        [prompt for _, prompt in owners],
        GENERATED_TOKENS,
        top_k=TOP_K,
        generator=generator,
        progress=lambda done, total: progress("generation", done, total),
    )
    by_record: dict[int, list[str]] = {}
    for (i, prompt), text in zip(owners, texts, strict=True):
        by_record.setdefault(i, []).append(prompt + text)
    entropy, cosine = [], []
    for i, written in by_record.items():
        long_enough = [t for t in written if len(t.split()) > 3]
        if long_enough:
            entropy.append(100 * sum(map(ngram_entropy, long_enough)) / len(long_enough))
        reference = " ".join(references(records[i]))
        if reference:
            cosine.append(100 * tfidf_cosine(" ".join(written), reference))
    return {"fluency": mean(entropy, seed=seed), "consistency": mean(cosine, seed=seed)}


def kept_share(
    responder: ModelHandle | Responder,
    probes: Sequence[tuple[str, str]],
    *,
    full_stop: bool | None = None,
) -> Rate | None:
    """Share of (prompt, answer) probes that greedy decoding answers exactly.

    Args:
        responder: who answers.
        probes: (prompt, answer).
        full_stop: whether one belongs to each answer; by default for the bundled models, whose
            every sentence has ended behind the object.
    """
    if full_stop is None:
        full_stop = isinstance(responder, ModelHandle) and responder.is_bundled
    end = "." if full_stop else ""
    return percent([s.exact for s in score(responder, [(p, f"{a}{end}") for p, a in probes])])


def plain(metrics: Metrics) -> dict[str, Any]:
    """Metrics as JSON values."""
    return {name: None if rate is None else rate.to_json() for name, rate in metrics.items()}
