"""MQuAKE: one or several rewrites a case, and questions of several hops (Zhong et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.datasets.fields import REMEDY, answers, listed, obj, text, texts
from alphaedit.bench.datasets.registry import Row, Schema
from alphaedit.core.errors import DataError
from alphaedit.core.fact import Fact


def _fact(rewrite: Any, where: str, field: str) -> tuple[Fact, str]:
    row = obj(rewrite, where, field)

    def target(name: str) -> str:
        return text(obj(row.get(name), where, f"{field}.{name}"), "str", f"{where}, {field}.{name}")

    prompt, place = text(row, "prompt", f"{where}, {field}"), f"{where}, {field}"
    if prompt.count("{}") != 1:
        raise DataError(f"{place}: field 'prompt' needs one '{{}}'.", remedy=REMEDY)
    question = row.get("question")
    fact = Fact(
        prompt,
        text(row, "subject", place),
        target("target_new"),
        truth=target("target_true"),
        paraphrases=(question,) if isinstance(question, str) and question.strip() else (),
    )
    return fact, str(row.get("relation_id", ""))


def _hops(row: Row, name: str, where: str) -> tuple[Probe, ...]:
    probes = []
    for i, hop in enumerate(listed(row, name, where)):
        place = f"{name}.{i}"
        entry = obj(hop, where, place)
        given = answers([entry.get("answer"), entry.get("answer_alias") or []], where, place)
        probes.append(
            Probe("single_hop", "new", text(entry, "question", f"{where}, {place}"), given)
        )
    return tuple(probes)


def read(row: Row, where: str) -> EditRecord:
    """A case: its rewrites are edited together, its questions ask for what follows."""
    rewrites = row.get("requested_rewrite")
    if not isinstance(rewrites, list) or not rewrites:
        raise DataError(f"{where}: field 'requested_rewrite' is not a list.", remedy=REMEDY)
    facts = [_fact(r, where, f"requested_rewrite.{i}") for i, r in enumerate(rewrites)]
    questions = texts(row, "questions", where)
    if not questions:
        raise DataError(f"{where}: field 'questions' is missing.", remedy=REMEDY)
    given = answers([row.get("new_answer"), row.get("new_answer_alias") or []], where, "new_answer")
    name = "multi_hop"
    first, relation = facts[0]
    return EditRecord(
        case_id=str(row.get("case_id", where)),
        relation_id=relation,
        prompt=first.prompt,
        subject=first.subject,
        target_new=first.target,
        target_true=first.truth or "",
        paraphrase_prompts=first.paraphrases,
        probes=(
            *(Probe(name, "question", question, given) for question in questions),
            *_hops(row, "new_single_hops", where),
        ),
        more=tuple(fact for fact, _ in facts[1:]),
        schema="mquake",
    )


def _fits(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("requested_rewrite"), list)


SCHEMAS = (Schema("mquake", "MQuAKE-CF-3k, -CF-3k-v2, -T", _fits, read),)
