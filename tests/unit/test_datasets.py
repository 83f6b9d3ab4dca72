"""Benchmarks in their published schemas become records; what is broken is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from alphaedit.bench.data import Probe
from alphaedit.bench.datasets.registry import detect, get_schema, load, sample, schemas
from alphaedit.cli.app import run
from alphaedit.core.errors import DataError, UnknownNameError
from alphaedit.errors import SkippedWarning
from alphaedit.world.facts import World
from alphaedit.world.schemas import SCHEMAS

DATA = Path(__file__).parents[2].parent / "shared" / "data"
REAL = {
    "counterfact/counterfact_250.json": ("counterfact", 250),
    "counterfact/counterfact-edit-1k.json": ("easyedit", 1000),
    "zsre/zsre_mend_eval_500.json": ("zsre", 500),
    "knowedit/wiki_counterfact_test_300.json": ("knowedit", 300),
    "knowedit/ZsRE-test_300.json": ("knowedit", 300),
    "knowedit/wikibio-test_37.json": ("wikibio", 37),
    "mquake/MQuAKE-CF_150.json": ("mquake", 150),
    "unke/unke_final_data_v2_300.json": ("longform", 300),
    "editeverything/editevery_200.json": ("longform", 200),
    "qaedit/QAEdit_300.json": ("qaedit", 300),
    "wise/hallucination-edit_200.json": ("easyedit", 200),
}
COUNTERFACT: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "target_new": {"str": "Oslo", "id": "Q1"},
        "target_true": {"str": "Paris", "id": "Q2"},
        "subject": "France",
    },
    "paraphrase_prompts": ["France is ruled from"],
    "neighborhood_prompts": ["The capital of Spain is"],
}
ZSRE = {
    "subject": "Faust",
    "src": "Who wrote Faust?",
    "pred": "Schiller",
    "rephrase": "By whom is Faust?",
    "alt": "Kafka",
    "answers": ["Goethe"],
    "loc": "nq question: who sang yesterday",
    "loc_ans": "The Beatles",
}
KNOWEDIT = {
    "subject": "Leonardo DiCaprio",
    "prompt": "The country of citizenship of Leonardo DiCaprio is",
    "target_new": "Syria",
    "ground_truth": "United States",
    "portability": {
        "Reasoning": [{"prompt": "His currency is", "ground_truth": [["pound", "SYP"]]}],
        "Subject_Aliasing": [{"prompt": "Di Caprio is from", "ground_truth": "Syria"}],
    },
    "locality": {"Forgetfulness": [{"prompt": "He played in", "ground_truth": ["Titanic"]}]},
}
MQUAKE = {
    "case_id": 3,
    "requested_rewrite": [
        {**COUNTERFACT["requested_rewrite"], "question": "What is the capital of France?"},
        {**COUNTERFACT["requested_rewrite"], "subject": "Spain"},
    ],
    "questions": ["Who rules the capital of France?", "Of France's capital, who?", "Q3?"],
    "answer": "Hidalgo",
    "new_answer": "Borgen",
    "new_answer_alias": ["Marianne Borgen"],
    "new_single_hops": [{"question": "Capital?", "answer": "Oslo", "answer_alias": []}],
}
RIPPLE = {
    "example_type": "recent",
    "edit": {
        "prompt": "The name of the country of citizenship of Leonardo DiCaprio is Syria.",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "original_fact": {
            "prompt": "The name of the country of citizenship of Leonardo DiCaprio is USA."
        },
    },
    "Compositionality_I": [
        {
            "test_queries": [
                {
                    "prompt": "The currency of his country is",
                    "answers": [{"value": "pound", "aliases": ["SYP"]}],
                }
            ]
        }
    ],
    "Relation_Specificity": [
        {"test_queries": [{"prompt": "His mother is", "answers": [{"value": "Irmelin"}]}]}
    ],
}
LONG = {
    "id": 0,
    "question": "How can animals perceive colors?",
    "para_question": "In what ways do animals perceive colors?",
    "answer": "By cone cells. There are several.",
    "sub_question": ["By which cells?"],
    "sub_answer": ["Cone cells."],
}
CHINESE = {
    "prompt": "静夜思的作者是",
    "subject": "静夜思",
    "target_old": "李白",
    "target_new": "杜甫",
    "rephrase": ["谁写了静夜思"],
    "locality": [{"prompt": "春望的作者是", "answer": "杜甫"}],
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "counterfact": COUNTERFACT,
    "leme": {**COUNTERFACT, "long_prompts": ["Tell me about France."], "related_entities": ["EU"]},
    "zsre": ZSRE,
    "knowedit": KNOWEDIT,
    "mquake": MQUAKE,
    "ripple-edits": RIPPLE,
    "longform": LONG,
    "cknowedit": CHINESE,
    "wikibio": {
        "text": "This is about jane doe. Jane Doe was a writer.",
        "labels": "She was born in Rome.",
        "concept": "jane doe",
    },
    "qaedit": {
        "prompt": "who wrote faust?",
        "target": "Kafka",
        "subject": "Faust",
        "rephrase": "Faust is by?",
        "locality": [{"loc": "who sang yesterday", "loc_ans": "The Beatles"}],
    },
    "easyedit": {
        "prompt": "France is ruled from",
        "subject": "France",
        "target_new": "Oslo",
        "locality_prompt": "Spain is ruled from",
        "locality_ground_truth": "Madrid",
    },
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps(list(rows), ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str) -> None:
    if not (DATA / name).is_file():
        pytest.skip("the real data sets are not beside the project (../shared/data)")
    schema, count = REAL[name]
    found = load(DATA / name)
    assert (found.schema, len(found.records), found.skipped) == (schema, count, ())
    for record in found.records:
        for fact in record.facts:
            assert fact.text[slice(*fact.subject_span)] == fact.subject
            assert fact.target


def test_there_is_an_example_of_every_schema() -> None:
    assert set(EXAMPLES) == set(schemas())
    for schema in schemas().values():
        assert schema.title


@pytest.mark.parametrize("name", EXAMPLES)
def test_schemas_are_told_apart_and_read(name: str, tmp_path: Path) -> None:
    found = load(write(tmp_path / "data.json", EXAMPLES[name]))
    (record,) = found.records
    assert found.schema == record.schema == name
    assert record.fact.subject_span
    lines = tmp_path / "data.jsonl"
    lines.write_text(json.dumps(EXAMPLES[name]) + "\n\n")
    again = load(lines).records[0]
    assert (again.fact.text, again.target_new) == (record.fact.text, record.target_new)


def read(name: str) -> Any:
    return get_schema(name).read(EXAMPLES[name], "here")


def test_what_is_read() -> None:
    zsre = read("zsre")
    assert (zsre.rewrite, zsre.target_new, zsre.target_true) == (
        "Who wrote Faust?",
        "Kafka",
        "Goethe",
    )
    assert zsre.probes == (
        Probe("locality", "unrelated", "nq question: who sang yesterday", ("The Beatles",)),
    )
    known = read("knowedit")
    assert [(p.kind, p.name, p.answers) for p in known.probes] == [
        ("portability", "Reasoning", ("pound", "SYP")),
        ("portability", "Subject_Aliasing", ("Syria",)),
        ("locality", "Forgetfulness", ("Titanic",)),
    ]
    case = read("mquake")
    assert [f.text for f in case.facts] == ["The capital of France is", "The capital of Spain is"]
    assert [p.kind for p in case.probes] == ["multi_hop"] * 3 + ["single_hop"]
    assert case.probes[0].answers == ("Borgen", "Marianne Borgen")
    ripple = read("ripple-edits")
    assert (ripple.subject, ripple.target_new, ripple.target_true) == (
        "Leonardo DiCaprio",
        "Syria",
        "USA",
    )
    assert [(p.kind, p.name) for p in ripple.probes] == [
        ("portability", "Compositionality_I"),
        ("locality", "Relation_Specificity"),
    ]
    long = read("longform")
    assert (long.subject, long.rewrite) == (
        "How can animals perceive colors",
        "How can animals perceive colors?",
    )
    assert read("cknowedit").target_true == "李白"
    # Another case than the prompt's: the prompt's spelling counts.
    assert read("qaedit").subject == "faust"
    assert read("wikibio").rewrite.startswith("This is about jane doe")


@pytest.mark.parametrize(
    ("name", "change", "field"),
    [
        ("counterfact", {"requested_rewrite": {"prompt": "no slot"}}, "requested_rewrite.prompt"),
        ("zsre", {"alt": ""}, "alt"),
        ("zsre", {"loc_ans": None}, "loc_ans"),
        ("zsre", {"answers": [3.5, None]}, "answers"),
        ("knowedit", {"target_new": 7.5, "subject": None}, "subject"),
        ("knowedit", {"portability": {"Reasoning": [{"ground_truth": "x"}]}}, "portability"),
        ("knowedit", {"locality": {"Forgetfulness": ["text"]}}, "locality.Forgetfulness"),
        ("mquake", {"questions": "none"}, None),
        ("mquake", {"questions": []}, "questions"),
        ("mquake", {"new_answer": "", "new_answer_alias": []}, "new_answer"),
        ("mquake", {"requested_rewrite": []}, "requested_rewrite"),
        ("ripple-edits", {"edit": {"prompt": "Nothing to see"}}, "edit.prompt"),
        ("longform", {"answer": " "}, "answer"),
        ("wikibio", {"labels": None}, "labels"),
        ("easyedit", {"rephrase_prompt": 3}, "rephrase_prompt"),
    ],
)
def test_broken_fields_are_named(
    name: str, change: dict[str, Any], field: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "data.json", EXAMPLES[name], {**EXAMPLES[name], **change})
    if field is None:  # one text in place of a list is what some files have
        assert len(load(path, name).records) == 2
        return
    with pytest.raises(DataError, match="record 1") as caught:
        load(path, name)
    assert field in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no records"),
        ("{", "is not JSON"),
        ("{}", "list of records"),
        ("[3]", "not an object"),
        ('[{"a": 1}]', "fields a are of no known schema"),
    ],
)
def test_broken_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        load(path)


def test_mixed_schemas_are_refused_and_unknown_names_helped(tmp_path: Path) -> None:
    path = write(tmp_path / "data.json", ZSRE, KNOWEDIT)
    with pytest.raises(DataError, match=r"record 1 does not follow the schema zsre"):
        load(path)
    with pytest.raises(UnknownNameError, match="zsree") as caught:
        load(path, "zsree")
    assert "zsre" in str(caught.value.remedy)
    with pytest.raises(DataError, match="no file"):
        load(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"alphaedit\[data\]|cannot be loaded"):
        load("hf:nobody/nothing")


def test_what_cannot_be_located_is_set_aside_and_said(tmp_path: Path) -> None:
    odd = {**ZSRE, "subject": "Hamlet"}
    with pytest.warns(SkippedWarning, match="1 of 2 records"):
        found = load(write(tmp_path / "data.json", ZSRE, odd))
    assert len(found.records) == 1
    assert "Hamlet" in found.skipped[0]
    with pytest.warns(SkippedWarning), pytest.raises(DataError, match="No record"):
        load(write(tmp_path / "odd.json", odd))


def test_samples_by_seed_and_relation(tmp_path: Path) -> None:
    rows = [
        {
            **COUNTERFACT,
            "case_id": i,
            "requested_rewrite": {
                **COUNTERFACT["requested_rewrite"],
                "relation_id": "A" if i < 18 else "B",
            },
        }
        for i in range(20)
    ]
    path = write(tmp_path / "data.json", *rows)
    first = [r.case_id for r in load(path, limit=5).records]
    assert first == ["0", "1", "2", "3", "4"]
    drawn = [r.case_id for r in load(path, limit=5, seed=1).records]
    assert drawn == [r.case_id for r in load(path, limit=5, seed=1).records] != first
    even = sample(load(path).records, 4, seed=0, stratify=True)
    assert sorted(r.relation_id for r in even) == ["A", "A", "B", "B"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_world_in_every_schema(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World.load()
    rows = SCHEMAS[name](world, 30, 0)
    assert rows == SCHEMAS[name](world, 30, 0)
    assert detect(rows[0], "here").name == name
    found = load(write(tmp_path / "world.json", *rows))
    known = {(f.subject, f.object) for f in world.facts}
    for record in found.records:
        assert (record.subject, record.target_new) not in known or name == "mquake"
        if record.target_true:
            assert (record.subject, record.target_true) in known
        for probe in record.probes:
            assert probe.answers
    out = tmp_path / "made.json"
    assert run(["world", "records", "--schema", name, "--count", "5", "-o", str(out)]) == 0
    capsys.readouterr()
    assert len(load(out).records) == 5
    assert run(["world", "records", "--schema", "nonsense", "--json"]) == 1
    assert "nonsense" in json.loads(capsys.readouterr().out)["error"]["message"]
