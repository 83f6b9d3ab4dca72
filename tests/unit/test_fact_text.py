"""Texts of facts: the subject's places, what no text may be, and values that files give instead."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.ledgers import BASE, make
from tests.tiny import tiny_tokenizer
from tests.unit.test_fact import RECORD, refused, write

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.core import fact_text, parsing
from alphaedit.core.edit import Edit, edit_id
from alphaedit.core.errors import AlphaEditWarning, DataError, FactError, SubjectError
from alphaedit.core.fact import Fact, check_facts, load_facts, read_facts
from alphaedit.core.parsing import Broken, Unread, parse_json, parse_yaml
from alphaedit.core.records import FORMATS, format_of
from alphaedit.ledger.ledger import Ledger
from alphaedit.model.special import check_special, special_in

COUNTERFACT: dict[str, Any] = {
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "target_new": {"str": "Oslo"},
        "target_true": {"str": "Paris"},
        "subject": "France",
    },
    "paraphrase_prompts": ["{} is ruled from"],
    "generation_prompts": ["{} is"],
    "neighborhood_prompts": ["The capital of Spain is"],
}


# finding 9
class TestPlaces:
    def test_paraphrases(self) -> None:
        fact = Fact(**RECORD, paraphrases=("{} is a master of the", "Mary Low plays"))
        assert fact.paraphrases == ("Mary Low is a master of the", "Mary Low plays")
        assert Fact.from_dict(fact.to_dict()) == fact
        assert replace(fact, target="harp").paraphrases == fact.paraphrases

    def test_from_every_name(self) -> None:
        for name in ("rephrase_prompt", "rephrase_prompts", "paraphrase_prompts"):
            assert Fact.from_dict({**RECORD, name: "{} is"}).paraphrases == ("Mary Low is",)

    def test_several_places(self) -> None:
        with pytest.raises(SubjectError, match="'paraphrases' has 2 places") as caught:
            Fact(**RECORD, paraphrases=("a", "{} or {}"))
        assert caught.value.field == "paraphrases"

    @pytest.mark.parametrize("name", ["neighborhood", "neighborhood_prompts", "locality_prompt"])
    def test_neighbors_have_other_subjects(self, name: str) -> None:
        with pytest.raises(FactError, match="'neighborhood' has a place for the subject") as caught:
            Fact.from_dict({**RECORD, name: ["Tom Low plays the", "{} sings"]}, "f.jsonl, line 2")
        assert str(caught.value).startswith("f.jsonl, line 2: ")
        assert "another subject in place of" in str(caught.value.remedy)
        assert caught.value.field == "neighborhood"

    def test_braces_of_the_subject_itself(self) -> None:
        fact = Fact(
            "{} is a",
            "struct {}",
            "type",
            paraphrases=("Is struct {} a", "Say what {} is", "struct {}, or {}, is"),
            neighborhood=("Unlike struct {}, a union is",),
        )
        assert fact.paraphrases == (
            "Is struct {} a",
            "Say what struct {} is",
            "struct {}, or struct {}, is",
        )
        assert Fact.from_dict(fact.to_dict()) == fact

    @given(
        st.text(st.characters(exclude_characters="{}", exclude_categories=("C", "Z")), min_size=1),
        st.text(st.characters(exclude_characters="{}", exclude_categories=("C",)), min_size=1),
    )
    def test_what_is_filled_in_stays(self, subject: str, text: str) -> None:
        if not any(map(fact_text._is_seen, text)) or not any(map(fact_text._is_seen, subject)):
            return
        fact = Fact("{} is", subject, "x", paraphrases=(f"{text} {{}} is",))
        assert fact.paraphrases == (f"{text} {fact.subject} is",)
        assert Fact.from_dict(fact.to_dict()) == fact

    def test_what_an_older_version_stored_stays(self) -> None:
        old = {**RECORD, "paraphrases": ["{} is"], "neighborhood": ["{} was"], "truth": "\x01"}
        fact = Fact.from_dict(old, stored=True)
        assert fact.to_dict() == old
        for change in ({"target": ""}, {"target": 3}, {"paraphrases": 3}, {"prompt": "{} {}"}):
            with pytest.raises(FactError, match=r"^edit\.json: "):
                Fact.from_dict({**RECORD, **change}, "edit.json", stored=True)

    def test_ledgers_of_an_older_version_are_read(self, tmp_path: Path) -> None:
        old = {**RECORD, "paraphrases": ["{} is"], "neighborhood": ["{} was"]}
        facts = (Fact.from_dict(old, stored=True),)
        edit, learned = make(1)
        edit = replace(edit, facts=facts, id=edit_id(edit.patch, facts, edit.parent))
        edit.save(tmp_path / "edit")
        assert Edit.load(tmp_path / "edit").facts == facts
        ledger = Ledger.create(tmp_path / "ledger", BASE)
        ledger.sync([(edit, learned)])
        again = Ledger(tmp_path / "ledger")
        assert again.read(edit.id)[0].facts == facts
        assert again.store.facts(edit.id, again.files_of(edit.id)) == facts

    def test_records_that_measure(self, tmp_path: Path) -> None:
        record = EditRecord.from_dict(COUNTERFACT, "here")
        assert record.paraphrase_prompts == record.fact.paraphrases == ("France is ruled from",)
        assert record.generation_prompts == ("France is",)
        bad = {**COUNTERFACT, "neighborhood_prompts": ["{} is"]}
        path = write(tmp_path, "data.json", json.dumps([COUNTERFACT, bad]))
        with pytest.raises(DataError, match=r"record 1: .*'neighborhood_prompts' has a place"):
            load(path)


class TestReadable:
    # the rest of D: what was taken without a word
    @pytest.mark.parametrize("field", ["prompt", "subject", "target", "truth", "paraphrases"])
    @pytest.mark.parametrize("bad", ["\0", "\x07", "\x1b[31m", "\x7f"])
    def test_control_characters(self, field: str, bad: str) -> None:
        value = f"{{}} is{bad} a" if field in ("prompt", "paraphrases") else f"a{bad}b"
        with pytest.raises(FactError, match=f"'{field}' holds the control character U") as caught:
            Fact.from_dict({**RECORD, field: value})
        assert caught.value.field == field
        assert bad not in str(caught.value)

    def test_line_ends_and_tabs_are_text(self) -> None:
        fact = Fact("Q:\t{}?\nA:", "Zoë", "a\r\nb", paraphrases=("{}\u2028",))
        assert fact.target == "a\r\nb"

    @pytest.mark.parametrize("field", ["subject", "target"])
    @pytest.mark.parametrize("text", ["\u200b", "\ufeff\u2060", "\u00ad", "\u3164", "\u2800\u200d"])
    def test_what_cannot_be_seen(self, field: str, text: str) -> None:
        with pytest.raises(FactError, match=rf"'{field}' holds nothing that can be seen: '\\[xu]"):
            Fact(**{**RECORD, field: text})
        assert getattr(Fact(**{**RECORD, field: f"a{text}b"}), field) == f"a{text}b"

    @pytest.mark.parametrize("field", ["prompt", "subject", "target"])
    def test_longest(self, field: str, tmp_path: Path) -> None:
        path = write(tmp_path, "f.json", json.dumps([{**RECORD, field: "{} " + "ab " * 200_000}]))
        error = refused(path, "record 1", f"'{field}' has 600,00", "at most 100,000", "Shorten it")
        assert len(str(error)) < 400
        Fact(**{**RECORD, "target": "x" * fact_text.LONGEST})

    def test_messages_are_short(self) -> None:
        long = "ab " * 30_000
        texts = [Fact(long + "{}", "It", long), Fact(long + "{}", "It", "other")]
        for bad in (texts, [texts[0]] * 2, [Fact(long, "missing", "b")], [Fact(long, "ab", "b")]):
            with pytest.raises(FactError) as caught:
                check_facts(bad)
            assert len(str(caught.value)) < 500

    def test_several_targets(self, tmp_path: Path) -> None:
        path = write(tmp_path, "f.json", json.dumps({**RECORD, "target": ["a", "b"]}))
        refused(path, "'target' holds a list", "A fact has one target: write a fact for each")

    def test_target_that_is_the_truth(self) -> None:
        facts = [Fact(**RECORD, truth=" violin "), Fact("{} sings", "Al", "x", truth="y")]
        with pytest.warns(AlphaEditWarning, match="The target of fact 1 is what 'truth' says"):
            check_facts(facts)
        both = [facts[0], Fact("{} sings", "Al", "x", truth="x")]
        with pytest.warns(AlphaEditWarning, match="fact 1 and 1 more"):
            check_facts(both)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_facts(facts[1:])
            check_facts(both, warn=False)

    def test_special_tokens(self) -> None:
        tokenizer = tiny_tokenizer()
        assert special_in("a </s> b", tokenizer) == ["</s>"]
        with pytest.warns(AlphaEditWarning, match=r"<s> in the subject '<s>x', and 1 more"):
            check_special([Fact("{} is", "<s>x", "</s>")], tokenizer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_special([Fact("<s>{} is", "It", "</ s>")], tokenizer)


class TestValues:
    # finding 17
    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ("2024-13-45", "a date that does not exist ('2024-13-45')"),
            ("2024-12-31", "a date"),
            ("9" * 5000, "a number of 5000 digits"),
            ("0x" + "f" * 5000, "a number of 5002 digits"),
            ("1" + ":59" * 2000, "a number of 6001 digits"),
            ("!!int x", "text that is no number ('x')"),
            ("0b_", "text that is no number ('0b_')"),
            ("!!bool maybe", "text that is no truth value ('maybe')"),
            ("!!timestamp x", "a date that does not exist ('x')"),
            ("1984", "a number (1984)"),
        ],
    )
    def test_yaml(self, value: str, told: str, tmp_path: Path) -> None:
        good = "- {prompt: '{} is', subject: It, target: a}\n"
        path = write(
            tmp_path, "f.yaml", good + f"- {{prompt: '{{}} was', subject: It, target: {value}}}"
        )
        error = refused(path, "record 2", f"Field 'target' holds {told}, not text", "quotes")
        assert error.field == "target"

    # finding 17
    @pytest.mark.parametrize("name", ["f.json", "f.jsonl"])
    @pytest.mark.parametrize("sign", ["", "-"])
    def test_json(self, name: str, sign: str, tmp_path: Path) -> None:
        text = json.dumps({**RECORD, "target": 0}).replace(": 0", f": {sign}{'9' * 5000}")
        refused(write(tmp_path, name, text), "'target' holds a number of 5000 digits", "quotes")
        text = json.dumps({**RECORD, "id": 0}).replace(": 0", f": {'9' * 5000}")
        refused(write(tmp_path, name, text), "'id' holds a number of 5000 digits")

    # finding 17
    @pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? ", "[{"])
    def test_yaml_without_end(self, opening: str, tmp_path: Path) -> None:
        path = write(tmp_path, "f.yaml", opening * 20_000)
        refused(path, "f.yaml, line 1", "broken YAML: nested too deeply")

    # finding 17
    @pytest.mark.parametrize("text", ["[" * 20_000, '{"a":' * 20_000])
    @pytest.mark.parametrize("name", ["f.json", "f.jsonl"])
    def test_json_without_end(self, text: str, name: str, tmp_path: Path) -> None:
        refused(write(tmp_path, name, text), "JSON nested too deeply")

    # finding 17
    @pytest.mark.parametrize("merge", [False, True])
    def test_bombs(self, merge: bool, tmp_path: Path) -> None:
        lines = ["a0: &a0 {k: 1}" if merge else "a0: &a0 [x, x]"]
        for level in range(1, 12):
            many = ", ".join([f"*a{level - 1}"] * 9)
            lines.append(f"a{level}: &a{level} " + (f"{{<<: [{many}]}}" if merge else f"[{many}]"))
        path = write(tmp_path, "f.yaml", "\n".join(lines))
        refused(path, "line 7", "aliases stand for more than 1,000,000 values")
        refused(write(tmp_path, "f.yaml", "- &a [*a]"), "line 1", "an alias inside what it stands")

    def test_aliases_in_measure(self, tmp_path: Path) -> None:
        text = "- &a {prompt: '{} is', subject: It, target: a}\n- {<<: *a, subject: He}\n"
        facts = load_facts(write(tmp_path, "f.yaml", text))
        assert [fact.subject for fact in facts] == ["It", "He"]

    # finding 11
    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("- prompt: '{} is'\n  subject: It\n  target: a\n  target: b\n", 4),
            (
                "- {prompt: '{} is', subject: It, target: a}\n- {'target': b, target: a}",
                2,
            ),
            ("prompt: '{} is'\ntarget: a\nsubject: It\n\ntarget: a\n", 5),
            ("- requested_rewrite:\n    target: a\n    target: a\n", 3),
        ],
    )
    def test_yaml_names_given_twice(self, text: str, line: int, tmp_path: Path) -> None:
        error = refused(write(tmp_path, "f.yaml", text), f"line {line}", "'target' is given twice")
        assert error.field == "target"

    def test_merged_names_are_no_doubles(self) -> None:
        text = "- x: {y: &a {<<: {k: 1}, k: 2}}\n- <<: *a\n  k: 3\n"
        assert parse_yaml(text) == [{"x": {"y": {"k": 2}}}, {"k": 3}]

    def test_a_field_inside_and_outside(self) -> None:
        with pytest.raises(FactError, match="'subject' is given twice, also in 'requested_rewrite"):
            Fact.from_dict({**COUNTERFACT, "subject": "Spain"})

    def test_yaml_has_a_limit_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text = json.dumps([RECORD]) + " " * parsing.YAML_LIMIT
        refused(write(tmp_path, "f.yaml", text), "at most 8 MiB", "JSON Lines")
        assert load_facts(write(tmp_path, "f.json", text))

    def test_kinds_that_only_yaml_has(self, tmp_path: Path) -> None:
        for value, told in (("!!binary YQ==", "bytes"), ("!!set {a, b}", "a set")):
            text = f"- {{prompt: '{{}} is', subject: It, target: {value}}}"
            refused(write(tmp_path, "f.yaml", text), f"'target' holds {told}")
        refused(write(tmp_path, "f.yaml", "- {1: a}"), "Unknown field '1'")
        refused(write(tmp_path, "f.yaml", "- {[a]: a}"), "line 1", "unhashable")
        refused(write(tmp_path, "f.yaml", "a: 1\n\nb: \x07"), "line 3", "#x0007")

    def test_parsers_by_themselves(self) -> None:
        assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
        assert parse_json("9" * 101) == Unread("a number of 101 digits")
        with pytest.raises(Broken) as caught:
            parse_json('{"a": 1, "a": 2}', unique=True)
        assert caught.value.field == "a"


class TestFormats:
    # the rest of D
    def test_csv_headers_in_any_case(self, tmp_path: Path) -> None:
        text = "Prompt, Subject,TARGET,Paraphrases\n{} plays the,Mary Low,violin,{} is|a\n"
        (fact,) = load_facts(write(tmp_path, "f.csv", text))
        assert fact == Fact(**RECORD, paraphrases=("Mary Low is", "a"))
        text = "prompt,subject,target,Target\na,b,c,d\n"
        refused(write(tmp_path, "f.csv", text), "Column 'target' is there twice")

    def test_csv_of_another_separator(self, tmp_path: Path) -> None:
        text = "prompt;subject;target\n{} is;It;a\n"
        refused(write(tmp_path, "f.csv", text), "'prompt' is missing", "commas")

    def test_csv_with_a_header_without_end(self, tmp_path: Path) -> None:
        text = "prompt,subject,target," + ",".join(map(str, range(200_000))) + "\na,b\n"
        error = refused(write(tmp_path, "f.csv", text), "2 cells", "200003 columns")
        text = ",".join(map(str, range(200_000)))
        error = refused(write(tmp_path, "f.csv", text), "Column 'prompt' is missing")
        assert len(str(error)) < 500

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            (json.dumps(RECORD) + "\n" + json.dumps(RECORD), "jsonl"),
            ("\n  " + json.dumps(RECORD), "jsonl"),
            (json.dumps(RECORD, indent=1), "json"),
            ('{"prompt": "a",\n{"prompt"', "jsonl"),
            (json.dumps([RECORD]), "json"),
            ("prompt,subject,target\n", "csv"),
            ("prompt\tsubject\ttarget\n", "tsv"),
            ("- prompt: a\n", "yaml"),
            ("---\n- prompt: a\n", "yaml"),
            ("", "csv"),
        ],
    )
    def test_told_from_the_first_line(self, text: str, kind: str) -> None:
        assert format_of(text) == kind

    def test_facts_of_a_text(self) -> None:
        assert read_facts(json.dumps(RECORD)) == [Fact(**RECORD)]
        assert set(FORMATS) == {"jsonl", "json", "csv", "tsv", "yaml"}
        with pytest.raises(FactError, match=r"^my text, line 1: broken JSON"):
            read_facts("{", name="my text")
        with pytest.raises(FactError, match="text is empty"):
            read_facts(" \n", "yaml")
        with pytest.raises(Exception, match=r"Unknown format of facts 'jsn'.*Did you mean"):
            read_facts("{}", "jsn")
