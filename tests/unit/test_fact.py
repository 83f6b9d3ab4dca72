"""Facts, their checks, and the files they come in."""

import json
from pathlib import Path
from typing import Any

import pytest

import alphaedit
from alphaedit.core.errors import FactError, SubjectError
from alphaedit.core.fact import Fact, check_facts, load_facts

RECORD = {"prompt": "{} plays the", "subject": "Mary Low", "target": "violin"}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jsonl(folder: Path, *records: dict[str, Any]) -> Path:
    return write(folder, "facts.jsonl", "\n".join(json.dumps(record) for record in records))


def refused(path: Path, *parts: str) -> FactError:
    """The error of loading `path`, which names the path, all `parts`, and a remedy."""
    with pytest.raises(FactError) as caught:
        load_facts(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert caught.value.remedy
    return caught.value


class TestFact:
    def test_template(self) -> None:
        fact = Fact("It is {} who plays the ", " Mary Low ", " violin\n", truth="  ")
        assert (fact.prompt, fact.subject, fact.target) == (
            "It is {} who plays the",
            "Mary Low",
            "violin",
        )
        assert fact.truth is None
        assert fact.text == "It is Mary Low who plays the"
        start, end = fact.subject_span
        assert fact.text[start:end] == "Mary Low"

    def test_full_text(self) -> None:
        fact = Fact("In 1990 Zoë 🎻 Müller played", "Zoë 🎻 Müller", "cello")
        start, end = fact.subject_span
        assert fact.text[start:end] == fact.subject

    def test_template_is_never_ambiguous(self) -> None:
        fact = Fact("Unlike Ann, {} lives in", "Ann", "Rome")
        assert fact.text == "Unlike Ann, Ann lives in"
        assert fact.subject_span == (12, 15)

    def test_subject_may_hold_braces(self) -> None:
        fact = Fact("{} is a", "struct {}", "type")
        assert fact.text == "struct {} is a"
        assert fact.subject_span == (0, 9)

    @pytest.mark.parametrize("field", ["prompt", "subject", "target"])
    @pytest.mark.parametrize("empty", ["", "  \n"])
    def test_empty_field(self, field: str, empty: str) -> None:
        with pytest.raises(FactError, match=f"Field '{field}' is empty") as caught:
            Fact(**{**RECORD, field: empty})
        assert caught.value.field == field

    def test_two_places(self) -> None:
        with pytest.raises(SubjectError, match="2 places"):
            Fact("{} and {}", "a", "b")

    def test_not_text(self) -> None:
        with pytest.raises(FactError, match=r"'target' holds a number \(1984\)"):
            Fact("{} was in", "It", 1984)  # type: ignore[arg-type]
        with pytest.raises(FactError, match="'paraphrases' holds text"):
            Fact(**RECORD, paraphrases="one")  # type: ignore[arg-type]
        with pytest.raises(FactError, match="'neighborhood' holds an empty text"):
            Fact(**RECORD, neighborhood=("", "x"))
        with pytest.raises(FactError, match="lone surrogate"):
            Fact("{} is", "a\ud800", "b")

    def test_missing_subject(self) -> None:
        with pytest.raises(SubjectError, match="'Bob' is not in its prompt"):
            _ = Fact("Ann lives in", "Bob", "Rome").subject_span
        with pytest.raises(SubjectError, match="other case"):
            _ = Fact("ann lives in", "Ann", "Rome").subject_span
        with pytest.raises(SubjectError, match="encoded otherwise"):
            _ = Fact("Zoe\u0308 lives in", "Zo\u00eb", "Rome").subject_span

    def test_subject_met_twice(self) -> None:
        with pytest.raises(SubjectError, match=r"met twice .* Put '\{\}'"):
            _ = Fact("Ann met Anna in", "Ann", "Rome").subject_span
        with pytest.raises(SubjectError, match="met twice"):
            _ = Fact("aaa is", "aa", "b").subject_span

    def test_dict_round_trip(self) -> None:
        full = Fact(**RECORD, truth="cello", paraphrases=("a",), neighborhood=("b",), id="7")
        for fact in (full, Fact(**RECORD)):
            assert Fact.from_dict(json.loads(json.dumps(fact.to_dict())), "x") == fact
        assert Fact(**RECORD).to_dict() == RECORD

    def test_facts_are_hashable(self) -> None:
        assert len({Fact(**RECORD), Fact(**RECORD)}) == 1


class TestNames:
    def test_easyedit(self) -> None:
        fact = Fact.from_dict(
            {
                "case_id": 3,
                "prompt": "Mary Low plays the",
                "subject": "Mary Low",
                "target_new": "violin",
                "ground_truth": "cello",
                "rephrase_prompt": "Mary Low is a master of the",
                "locality_prompt": "Tom Low plays the",
                "locality_ground_truth": "harp",
            }
        )
        assert fact.to_dict() == {
            "prompt": "Mary Low plays the",
            "subject": "Mary Low",
            "target": "violin",
            "truth": "cello",
            "paraphrases": ["Mary Low is a master of the"],
            "neighborhood": ["Tom Low plays the"],
            "id": "3",
        }

    def test_counterfact(self, tmp_path: Path) -> None:
        record = {
            "case_id": 5,
            "pararel_idx": 8,
            "requested_rewrite": {
                "prompt": "{} plays the",
                "relation_id": "P1303",
                "target_new": {"str": "violin", "id": "Q8355"},
                "target_true": {"str": "cello", "id": "Q8371"},
                "subject": "Mary Low",
            },
            "paraphrase_prompts": ["Mary Low masters the"],
            "neighborhood_prompts": ["Tom Low plays the"],
            "attribute_prompts": [],
            "generation_prompts": ["Mary Low is known for"],
        }
        (fact,) = load_facts(write(tmp_path, "counterfact.json", json.dumps([record])))
        assert fact == Fact(
            **RECORD,
            truth="cello",
            paraphrases=("Mary Low masters the",),
            neighborhood=("Tom Low plays the",),
            id="5",
        )

    def test_counterfact_broken(self) -> None:
        with pytest.raises(FactError, match="'requested_rewrite' holds text"):
            Fact.from_dict({"requested_rewrite": "x"}, "r")
        with pytest.raises(FactError, match="Field 'target' is missing"):
            Fact.from_dict(
                {"requested_rewrite": {"prompt": "{}", "subject": "a", "target_new": {"id": "Q1"}}}
            )

    def test_two_names_for_one_field(self) -> None:
        with pytest.raises(FactError, match="'target' and 'target_new' mean the same"):
            Fact.from_dict({**RECORD, "target_new": "harp"})

    def test_facade(self) -> None:
        assert alphaedit.Fact is Fact
        assert alphaedit.load_facts is load_facts
        assert {"Editor", "Patch"} <= set(dir(alphaedit))
        with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
            _ = alphaedit.Nothing


class TestCheck:
    def test_good(self) -> None:
        facts = [Fact(**RECORD), Fact("{} sings", "Mary Low", "violin")]
        assert check_facts(iter(facts)) == facts

    def test_none(self) -> None:
        with pytest.raises(FactError, match="No facts"):
            check_facts([])

    def test_duplicate(self) -> None:
        full = Fact("Mary Low plays  the", "Mary Low", "violin", truth="harp")
        with pytest.raises(FactError, match=r"fact 2: .* duplicate of fact 1"):
            check_facts([Fact(**RECORD), full])

    def test_contradiction(self) -> None:
        other = Fact(**{**RECORD, "target": "harp"})
        with pytest.raises(FactError, match=r"fact 2: .*'harp' contradicts fact 1, .* 'violin'"):
            check_facts([Fact(**RECORD), other])

    def test_subject(self) -> None:
        with pytest.raises(SubjectError, match="fact 2: Subject 'Bob'"):
            check_facts([Fact(**RECORD), Fact("Ann lives in", "Bob", "Rome")])


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            (
                "f.jsonl",
                '\n{"prompt": "{} plays the", "subject": "Mary Low", "target": "violin"}\r\n',
            ),
            ("f.json", '[{"prompt": "{} plays the", "subject": "Mary Low", "target": "violin"}]'),
            ("f.json", '{"prompt": "{} plays the", "subject": "Mary Low", "target": "violin"}'),
            ("f.csv", "\ufeffprompt,subject,target\r\n{} plays the,Mary Low,violin\r\n\r\n"),
            ("f.TSV", "prompt\tsubject\ttarget_new\n{} plays the\tMary Low\tviolin\n"),
            ("f.yaml", '- prompt: "{} plays the"\n  subject: Mary Low\n  target: violin\n'),
            ("f.yml", '- {prompt: "{} plays the", subject: Mary Low, target_new: violin}\n'),
        ],
    )
    def test_kinds(self, tmp_path: Path, name: str, content: str) -> None:
        assert load_facts(write(tmp_path, name, content)) == [Fact(**RECORD)]

    def test_path_as_text(self, tmp_path: Path) -> None:
        assert load_facts(str(jsonl(tmp_path, RECORD))) == [Fact(**RECORD)]

    def test_csv_lists_and_quotes(self, tmp_path: Path) -> None:
        content = 'prompt,subject,target,truth,paraphrases\n"Well, {} plays",Al,"a ""b""",,x | y\n'
        (fact,) = load_facts(write(tmp_path, "f.csv", content))
        assert fact == Fact("Well, {} plays", "Al", 'a "b"', paraphrases=("x", "y"))

    def test_line_separator_inside_a_json_line(self, tmp_path: Path) -> None:
        record = {**RECORD, "target": "a\u2028b"}
        path = write(tmp_path, "f.jsonl", json.dumps(record, ensure_ascii=False))
        assert load_facts(path)[0].target == "a\u2028b"

    def test_missing(self, tmp_path: Path) -> None:
        refused(tmp_path / "no.jsonl", "does not exist")

    @pytest.mark.parametrize("name", ["folder", "folder.jsonl"])
    def test_directory(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        refused(tmp_path / name, "is a directory")

    def test_path_through_a_file(self, tmp_path: Path) -> None:
        refused(jsonl(tmp_path, RECORD) / "f.json", "cannot be read")

    @pytest.mark.parametrize("name", ["f.jsonl", "f.json", "f.csv", "f.yaml"])
    @pytest.mark.parametrize("content", ["", " \n\n"])
    def test_empty(self, tmp_path: Path, name: str, content: str) -> None:
        refused(write(tmp_path, name, content), "is empty")

    @pytest.mark.parametrize(
        ("name", "content"),
        [("f.json", "[]"), ("f.csv", "prompt,subject,target\n"), ("f.yaml", "[]")],
    )
    def test_no_facts(self, tmp_path: Path, name: str, content: str) -> None:
        refused(write(tmp_path, name, content), "holds no facts")

    def test_unknown_ending(self, tmp_path: Path) -> None:
        refused(write(tmp_path, "f.txt", "x"), "'.txt'", ".jsonl")

    @pytest.mark.parametrize("name", ["f.jsonl", "f.csv", "f.yaml"])
    def test_encoding(self, tmp_path: Path, name: str) -> None:
        refused(write(tmp_path, name, "prompt\nZoë".encode("latin-1")), "line 2", "0xeb", "UTF-8")
        refused(write(tmp_path, name, "prompt".encode("utf-16")), "line 1", "UTF-8")

    def test_broken_json_line(self, tmp_path: Path) -> None:
        path = write(tmp_path, "f.jsonl", json.dumps(RECORD) + '\n\n{"prompt": "a",\n')
        refused(path, "line 3", "broken JSON at column")

    def test_broken_json(self, tmp_path: Path) -> None:
        refused(write(tmp_path, "f.json", "[\n{]"), "broken JSON at line 2")
        refused(write(tmp_path, "f.json", "[" * 100_000), "nested too deeply")
        lines = json.dumps(RECORD) + "\n" + json.dumps(RECORD)
        refused(write(tmp_path, "f.json", lines), ".jsonl")

    @pytest.mark.parametrize("content", ['"text"', "3", "null", "[[1]]", '["text"]'])
    def test_not_objects(self, tmp_path: Path, content: str) -> None:
        refused(write(tmp_path, "f.json", content), "prompt, subject and target")
        refused(write(tmp_path, "f.jsonl", content), "line 1", "expected an object")

    def test_field_given_twice(self, tmp_path: Path) -> None:
        refused(write(tmp_path, "f.jsonl", '{"target": "a", "target": "b"}'), "line 1", "'target'")

    def test_broken_yaml(self, tmp_path: Path) -> None:
        refused(write(tmp_path, "f.yaml", "- prompt: a\n  subject: [b\n"), "line 3", "broken YAML")
        refused(write(tmp_path, "f.yaml", "just text"), "list of facts")
        refused(write(tmp_path, "f.yaml", "a: \x01"), "broken YAML", "line 1")

    def test_yaml_values_that_are_not_text(self, tmp_path: Path) -> None:
        text = "- {prompt: '{} is', subject: It, target: no}\n"
        refused(write(tmp_path, "f.yaml", text), "record 1", "a truth value", "quotes")

    def test_csv_missing_column(self, tmp_path: Path) -> None:
        path = write(tmp_path, "f.csv", "prompt,subject\na,b\n")
        error = refused(path, "line 1", "'target' is missing", "prompt, subject")
        assert error.field == "target"

    def test_csv_broken(self, tmp_path: Path) -> None:
        head = "prompt,subject,target\n"
        refused(write(tmp_path, "f.csv", head + "a,b,c,d\n"), "line 2", "4 cells", "3 columns")
        refused(write(tmp_path, "f.csv", head + "a,b\n"), "line 2", "2 cells")
        refused(write(tmp_path, "f.csv", head + '"a,b,c\n'), "broken CSV")
        refused(
            write(tmp_path, "f.csv", "prompt,subject,target,target\na,b,c,d\n"), "is there twice"
        )
        refused(write(tmp_path, "f.csv", head + "{} is,It,\n"), "line 2", "'target' is empty")

    def test_unknown_field(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path, RECORD, {**RECORD, "target": "a", "paraphrase": []})
        error = refused(
            path, "line 2", "'paraphrase'", "Did you mean 'paraphrases'", "Known fields"
        )
        assert error.field == "paraphrase"

    def test_missing_field(self, tmp_path: Path) -> None:
        refused(jsonl(tmp_path, {"prompt": "{}", "subject": "a"}), "line 1", "'target' is missing")

    def test_empty_target(self, tmp_path: Path) -> None:
        refused(jsonl(tmp_path, {**RECORD, "target": " "}), "line 1", "'target' is empty")

    def test_subject_not_in_prompt(self, tmp_path: Path) -> None:
        error = refused(jsonl(tmp_path, {**RECORD, "prompt": "He plays"}), "line 1", "not in its")
        assert isinstance(error, SubjectError)

    def test_subject_met_twice(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path, {**RECORD, "prompt": "Mary Low and Mary Low play"})
        assert isinstance(refused(path, "line 1", "met twice"), SubjectError)

    def test_duplicate(self, tmp_path: Path) -> None:
        refused(jsonl(tmp_path, RECORD, {**RECORD, "id": "x"}), "line 2", "duplicate of", "line 1")

    def test_contradiction(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path, RECORD, {**RECORD, "target": "harp"})
        refused(path, "line 2", "contradicts", "line 1", "'violin'")
