"""ZsRE as MEND prepared it (Mitchell et al. 2022; Levy et al. 2017)."""

from __future__ import annotations

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.datasets.fields import answers, located, maybe, spelled, text
from alphaedit.bench.datasets.registry import Row, Schema


def read(row: Row, where: str) -> EditRecord:
    """`src` is edited to say `alt`; `loc` is an unrelated question."""
    prompt, subject = text(row, "src", where), text(row, "subject", where)
    template = located(prompt, subject)
    rephrase = maybe(row, "rephrase", where)
    probes = []
    if row.get("loc"):
        asked = text(row, "loc", where)
        probes.append(
            Probe("locality", "unrelated", asked, answers(row.get("loc_ans"), where, "loc_ans"))
        )
    ported = row.get("portability")
    if isinstance(ported, dict) and ported.get("New Question") and ported.get("New Answer"):
        given = answers(ported["New Answer"], where, "portability.New Answer")
        probes.append(Probe("portability", "Reasoning", str(ported["New Question"]).strip(), given))
    true = answers(row["answers"], where, "answers") if row.get("answers") else ()
    return EditRecord(
        case_id=str(row.get("case_id", where)),
        relation_id="",
        prompt=template,
        subject=spelled(prompt, template, subject),
        target_new=text(row, "alt", where),
        target_true=true[0] if true else text(row, "pred", where),
        paraphrase_prompts=(rephrase,) if rephrase else (),
        probes=tuple(probes),
        schema="zsre",
    )


SCHEMAS = (
    Schema("zsre", "ZsRE (MEND's format)", lambda r: {"src", "alt", "subject"} <= set(r), read),
)
