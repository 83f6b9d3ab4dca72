"""UnKE, EditEverything and AKEW: any question, a long answer, no subject (Deng et al. 2024)."""

from __future__ import annotations

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.datasets.fields import maybe, text, texts
from alphaedit.bench.datasets.registry import Row, Schema

MARKS = " ?!.:\u3002\uff1f\uff01"
"""What ends a question, in Chinese too."""


def read(row: Row, where: str) -> EditRecord:
    """The whole question, up to its final mark, stands for the subject: it is read at its end."""
    question = text(row, "question", where)
    body = question.rstrip(MARKS)
    if not body:
        body = question
    rephrased = maybe(row, "para_question", where)
    asked, replies = texts(row, "sub_question", where), texts(row, "sub_answer", where)
    probes = [
        Probe("portability", "sub_question", q, (a,)) for q, a in zip(asked, replies, strict=False)
    ]
    return EditRecord(
        case_id=str(row.get("id", where)),
        relation_id=str(row.get("category", "")),
        prompt="{}" + question[len(body) :],
        subject=body,
        target_new=text(row, "answer", where),
        target_true="",
        paraphrase_prompts=(rephrased,) if rephrased else (),
        probes=tuple(probes),
        schema="longform",
    )


SCHEMAS = (
    Schema(
        "longform",
        "UnKE, EditEverything, AKEW: long answers in any format",
        lambda r: {"question", "answer"} <= set(r) and "requested_rewrite" not in r,
        read,
    ),
)
