"""RippleEdits: what else must change with an edit, and what must not (Cohen et al. 2023)."""

from __future__ import annotations

import re

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.datasets.fields import REMEDY, answers, listed, located, obj, spelled, text
from alphaedit.bench.datasets.registry import Row, Schema
from alphaedit.core.errors import DataError

PORTABLE = (
    "Logical_Generalization",
    "Compositionality_I",
    "Compositionality_II",
    "Subject_Aliasing",
)
LOCAL = ("Relation_Specificity", "Forgetfulness")
_SENTENCE = re.compile(r"^(?P<prompt>.*\bis)\s+(?P<target>[^.]+)\.?$")
_OF = re.compile(r".*\bof (?P<subject>.+) is$")


def _probes(row: Row, where: str) -> tuple[Probe, ...]:
    probes = []
    for name in (*PORTABLE, *LOCAL):
        for i, test in enumerate(listed(row, name, where)):
            place = f"{name}.{i}"
            queries = listed(obj(test, where, place), "test_queries", f"{where}, {place}")
            for j, query in enumerate(queries):
                entry = obj(query, where, f"{place}.test_queries.{j}")
                if not entry.get("answers"):
                    continue
                given = answers(entry["answers"], where, f"{place}.test_queries.{j}.answers")
                kind = "locality" if name in LOCAL else "portability"
                asked = text(entry, "prompt", f"{where}, {place}.test_queries.{j}")
                probes.append(Probe(kind, name, asked, given))
    return tuple(probes)


def read(row: Row, where: str) -> EditRecord:
    """The edit is a sentence, "The R of S is T."; the subject is taken from it."""
    edit = obj(row.get("edit"), where, "edit")
    sentence = text(edit, "prompt", f"{where}, edit")
    match = _SENTENCE.match(sentence)
    if match is None:
        raise DataError(
            f"{where}: field 'edit.prompt' is not '... is TARGET.': {sentence!r}.", remedy=REMEDY
        )
    prompt, target = match["prompt"], match["target"].strip()
    subject = edit.get("subject")
    if not isinstance(subject, str):
        of = _OF.match(prompt)
        if of is None:
            raise DataError(
                f"{where}: no subject in 'edit.prompt' {sentence!r}, and no field 'edit.subject'.",
                remedy=REMEDY,
            )
        subject = of["subject"]
    template = located(prompt, subject)
    original = edit.get("original_fact")
    before = (
        _SENTENCE.match(str(original.get("prompt", ""))) if isinstance(original, dict) else None
    )
    return EditRecord(
        case_id=str(row.get("case_id", where)),
        relation_id=str(edit.get("relation", "")),
        prompt=template,
        subject=spelled(prompt, template, subject),
        target_new=target,
        target_true=before["target"].strip() if before else "",
        probes=_probes(row, where),
        schema="ripple-edits",
    )


SCHEMAS = (Schema("ripple-edits", "RippleEdits", lambda r: isinstance(r.get("edit"), dict), read),)
