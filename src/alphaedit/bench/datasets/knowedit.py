"""KnowEdit's parts (Zhang et al. 2024), CKnowEdit, QAEdit, and EasyEdit's flat records.

All say `prompt`, `subject` and what should follow; probes are grouped by kind.
"""

from __future__ import annotations

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.datasets.fields import answers, located, maybe, probes, spelled, text, texts
from alphaedit.bench.datasets.registry import Row, Schema


def _record(
    row: Row,
    where: str,
    schema: str,
    *,
    prompt: str = "prompt",
    subject: str = "subject",
    target: str = "target_new",
    truth: str = "ground_truth",
    rephrase: tuple[str, ...] = ("rephrase_prompt", "rephrase"),
) -> EditRecord:
    asked, about = text(row, prompt, where), text(row, subject, where)
    template = located(asked, about)
    given = answers(row[truth], where, truth) if row.get(truth) else ()
    others = [p for name in rephrase for p in texts(row, name, where)]
    all_probes = (
        *probes(row.get("portability"), "portability", where, "portability"),
        *probes(row.get("locality"), "locality", where, "locality"),
        *_flat_locality(row, where),
    )
    return EditRecord(
        case_id=str(row.get("case_id", row.get("id", where))),
        relation_id=str(row.get("relation_id", row.get("source", ""))),
        prompt=template,
        subject=spelled(asked, template, about),
        target_new=text(row, target, where),
        target_true=given[0] if given else "",
        paraphrase_prompts=tuple(others),
        probes=all_probes,
        schema=schema,
    )


def _flat_locality(row: Row, where: str) -> tuple[Probe, ...]:
    asked = maybe(row, "locality_prompt", where)
    # Published records have probes without an answer: nothing to compare.
    if asked is None or not row.get("locality_ground_truth"):
        return ()
    given = answers(row.get("locality_ground_truth"), where, "locality_ground_truth")
    return (Probe("locality", "unrelated", asked, given),)


def read_knowedit(row: Row, where: str) -> EditRecord:
    """wiki_recent, wiki_counterfact, zsre, convsent, sanitation."""
    return _record(row, where, "knowedit")


def read_wikibio(row: Row, where: str) -> EditRecord:
    """WikiBio: `text` about `concept` goes on with `labels`, a whole sentence."""
    return _record(
        row, where, "wikibio", prompt="text", subject="concept", target="labels", truth="none"
    )


def read_chinese(row: Row, where: str) -> EditRecord:
    """CKnowEdit: Chinese; the old answer is in `target_old`."""
    return _record(row, where, "cknowedit", truth="target_old")


def read_qa(row: Row, where: str) -> EditRecord:
    """QAEdit: questions for evaluation by free generation."""
    return _record(row, where, "qaedit", target="target", truth="none")


def read_flat(row: Row, where: str) -> EditRecord:
    """EasyEdit's flat records; WISE's hallucination records are of this form."""
    return _record(row, where, "easyedit")


SCHEMAS = (
    Schema(
        "wikibio",
        "KnowEdit: WikiBio",
        lambda r: {"text", "labels", "concept"} <= set(r),
        read_wikibio,
    ),
    Schema("cknowedit", "CKnowEdit", lambda r: {"prompt", "target_old"} <= set(r), read_chinese),
    Schema(
        "knowedit",
        "KnowEdit: wiki_recent, wiki_counterfact, zsre, convsent, sanitation",
        lambda r: (
            {"prompt", "target_new"} <= set(r)
            and any(isinstance(r.get(k), dict) for k in ("portability", "locality"))
        ),
        read_knowedit,
        rank=6,
    ),
    Schema(
        "qaedit",
        "QAEdit",
        lambda r: {"prompt", "target", "subject"} <= set(r) and "target_new" not in r,
        read_qa,
    ),
    Schema(
        "easyedit",
        "EasyEdit's flat records; WISE's hallucination records",
        lambda r: {"prompt", "target_new", "subject"} <= set(r),
        read_flat,
        rank=7,
    ),
)
