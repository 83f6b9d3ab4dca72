"""Notes that methods put in front of prompts: found, written, placed and fitted."""

import json
import random
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model
from tests.unit.test_chat import CHATML, LLAMA2, chatty
from transformers import AutoTokenizer

from alphaedit import Editor, Fact
from alphaedit.bench.data import EditRecord
from alphaedit.bench.oracle import pool as pooled
from alphaedit.bench.run import evaluate
from alphaedit.core.change import MemoryChange
from alphaedit.core.errors import (
    AlphaEditError,
    ConfigError,
    EditFileError,
    ModelError,
    VerdictWarning,
)
from alphaedit.methods.registry import installer
from alphaedit.methods.steps.demonstrations import KINDS, Demonstrations, of_package
from alphaedit.methods.steps.encoder import cosine_distance, embed, mean_key, pieces
from alphaedit.methods.steps.hops import (
    CHECK,
    OWN,
    SUBQUESTION,
    Hop,
    answer_in_hops,
    question_of,
    told,
)
from alphaedit.methods.steps.lookup import Lookup
from alphaedit.methods.steps.misspelt import Misspelt, distance
from alphaedit.methods.steps.notes import Note
from alphaedit.methods.steps.subjects import Subjects
from alphaedit.model.chat import templated, users_turn
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import asked_about, told_about

FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} is a city in", "Oslo", "Spain"),
    Fact("The official language of {} is", "France", "Welsh"),
]
ROOT = Path(__file__).resolve().parents[2]
SMOLLM = ROOT / ".models" / "SmolLM2-135M-Instruct"
LAYER = {"layers": (1,)}
METHODS: dict[str, dict[str, Any]] = {
    "ike": {"demonstrations": 0, **LAYER},
    "rag": LAYER,
    "memprompt": {},
    "mello": {"judge": "words", **LAYER},
}


def editor_of(model: Any, tokenizer: Any, tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return Editor.from_pretrained(
        model, tokenizer, corpus=str(text), tokens=400, cache_dir=tmp_path / "cache", progress=False
    )


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    # Room for a few demonstrations.
    return editor_of(*tiny_model("llama", max_position_embeddings=700), tmp_path)


def rendered(editor: Editor, prompt: str) -> str:
    (text,) = editor.handle.rendered([prompt])
    return text


# Subjects.


def test_subjects_are_named_as_whole_words() -> None:
    subjects = ["France", "New York", ".NET", "C++", "東京", "São Paulo", "France", "?!", "York"]
    index = Subjects(subjects)

    def named(text: str) -> list[str]:
        return [subjects[number] for number in index.named_in(text)]

    assert named("the capital of FRANCE is") == ["France", "France"]
    assert named("Francesca and Frances, of Franceland") == []
    assert named("In New York.") == ["New York", "York"]
    assert named("New Yorkers say") == []
    assert named("(.net is by") == [".NET"]
    assert named("C++ is by") == ["C++"]
    assert named("東京は日本の首都") == ["東京"]
    assert named("Sa\u0303o Paulo is") == ["São Paulo"]
    assert named("What?!") == ["?!"]
    assert named("") == []


# Letters.


def plain_distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_the_distance_is_that_of_the_plain_table() -> None:
    rng = random.Random(0)
    for _ in range(300):
        one, other = ("".join(rng.choices("abc é", k=rng.randrange(80))) for _ in range(2))
        assert distance(one, other) == plain_distance(one, other)


def test_the_nearest_text_is_that_of_a_full_search() -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices("abcd", k=rng.randrange(4, 9))) for _ in range(120)]
    index = Misspelt(texts)
    hits = 0
    for share in (0.0, 0.2, 0.5):
        for _ in range(60):
            asked = "".join(rng.choices("abcd", k=rng.randrange(4, 9)))
            shares = [plain_distance(asked, t) / max(len(asked), len(t)) for t in texts]
            least = min(shares)
            # Of two that are as near the later.
            wanted = max(i for i, s in enumerate(shares) if s == least) if least <= share else None
            assert index.nearest(asked, share) == wanted
            hits += wanted is not None
    assert hits > 30
    assert Misspelt([]).nearest("a", 0.5) is None
    assert Misspelt(["The capital  of France is"]).nearest("the capital of france is", 0) == 0


# Look-up.


def memory(
    handle: ModelHandle, notes: Sequence[Note], keys: torch.Tensor, **options: Any
) -> MemoryChange:
    shared = {"mean": mean_key(handle, 1)} if options.get("layer") is not None else {}
    known = {"layer": None, "scope": "subject", "distance": 0.5, "place": "user", **options}
    texts = tuple(note.text for note in notes)
    return MemoryChange("rag", torch.arange(len(notes)), {"key": keys}, shared, texts, known)


def test_look_up_is_that_of_a_plain_sort(editor: Editor) -> None:
    handle, generator = editor.handle, torch.Generator().manual_seed(0)
    names = ["France", "Oslo", "Italy", "Spain"]
    notes = [Note(names[i % 4], f"Fact {i} about {names[i % 4]} is", str(i)) for i in range(40)]
    keys = torch.randn(40, handle.d_in(1), generator=generator)
    asked = ["France and Oslo met in", "Birds sing in", "Italy is", "Of Spain, Oslo and Italy"]
    queries = embed(handle, asked, 1) - mean_key(handle, 1)
    apart = torch.stack([cosine_distance(keys, query[None]) for query in queries])
    border = float(apart.flatten().sort().values[40])
    halves = [
        memory(handle, notes[:25], keys[:25], layer=1, scope="subject"),
        memory(handle, notes[25:], keys[25:], layer=1, scope="distance", distance=border),
    ]
    lookup = Lookup(handle, halves)
    together = lookup.find(asked, 5)
    for row, prompt in enumerate(asked):
        inside = [
            i for i in range(40)
            if (i < 25 and notes[i].subject in prompt) or (i >= 25 and apart[row, i] <= border)
        ]  # fmt: skip
        wanted = sorted(inside, key=lambda i: float(apart[row, i]))[:5]
        assert [note.target for note in together[row]] == [str(i) for i in wanted]
        assert lookup.find([prompt], 5) == [together[row]]
    assert sum(map(len, together)) > 8


def test_edits_with_other_encoders_are_one_memory(editor: Editor) -> None:
    editor.edit(FACTS[0], "rag", **LAYER)
    editor.edit(FACTS[1], "rag", encoder="words")
    editor.edit(FACTS[2], "rag", layers=(2,), count=2)
    text = "New Fact: Oslo is a city in Spain.\nPrompt: Oslo is a city in"
    assert rendered(editor, "Oslo is a city in") == text
    both = rendered(editor, "France is near")
    assert "Madrid" in both
    assert "Welsh" in both


@pytest.mark.filterwarnings("ignore:Edited before")
def test_of_two_notes_about_a_prompt_the_later_counts(editor: Editor) -> None:
    for name, over in METHODS.items():
        first = editor.edit(FACTS[0], name, **over)
        later = editor.edit(Fact(FACTS[0].prompt, FACTS[0].subject, "Lisbon"), name, **over)
        text = rendered(editor, FACTS[0].text)
        assert "Lisbon" in text, name
        assert "Madrid" not in text, name
        editor.revert(later)
        assert "Madrid" in rendered(editor, FACTS[0].text), name
        editor.revert(first)
        assert rendered(editor, FACTS[0].text) == FACTS[0].text


def test_ten_thousand_notes(editor: Editor) -> None:
    handle = editor.handle
    notes = [Note(f"Person{i} Smith", f"Person{i} Smith speaks", f"L{i}") for i in range(10_000)]
    keys = torch.randn(10_000, handle.d_in(1), generator=torch.Generator().manual_seed(0))
    began = time.perf_counter()
    for scope in ("subject", "distance"):
        lookup = Lookup(handle, [memory(handle, notes, keys, layer=1, scope=scope)])
        for i in range(0, 10_000, 500):
            found = lookup.find([f"Person{i} Smith speaks"], 3)[0]
            assert scope == "distance" or [note.target for note in found] == [f"L{i}"]
    assert Misspelt([note.prompt for note in notes]).nearest("Person77 Smith  speaks", 0.1) == 77
    # A sort of all notes for each prompt takes minutes.
    assert time.perf_counter() - began < 30


def test_a_single_note_needs_no_pass(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    editor.edit(FACTS[1], "rag", **LAYER)
    monkeypatch.setattr(editor.handle, "forward", lambda *args, **kwargs: 1 / 0)
    assert "Spain" in rendered(editor, "Oslo lies in")
    assert rendered(editor, "Birds sing") == "Birds sing"


def test_pieces_of_words_tell_texts_apart() -> None:
    one, same, other = pieces(["The capital of France is", "Capital of France:", "Birds sing in"])
    assert float(one @ one) == pytest.approx(1, abs=1e-5)
    assert float(one @ same) > 0.5 > float(one @ other)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_memory_without_notes(editor: Editor, name: str) -> None:
    edit = editor.edit(FACTS[0], name, **METHODS[name])
    editor.revert(edit)
    (change,) = edit.patch.changes
    empty = MemoryChange(
        name,
        torch.zeros(0, dtype=torch.int64),
        {key: rows[:0] for key, rows in change.rows.items()},
        change.shared,
        (),
        change.options,
    )
    install = installer(name)
    assert install is not None
    undo = install(editor.handle, [empty])
    assert rendered(editor, FACTS[0].text) == FACTS[0].text
    assert editor.handle.rendered([]) == []
    undo()


@pytest.mark.parametrize("text", ["no note", "[1]", '{"subject": "a"}', '{"a": 1}'])
def test_a_broken_note_is_refused(editor: Editor, text: str) -> None:
    with pytest.raises(EditFileError, match="no note"):
        Note.read(text)


def test_models_that_are_no_encoder(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editor.handle, "sharded", True)
    for name in ("ike", "rag", "mello"):
        with pytest.raises(ConfigError, match=r"split over processes.*encoder=words"):
            editor.edit(FACTS[0], name)
    with pytest.raises(ConfigError, match="split over processes"):
        editor.edit(FACTS[0], "memprompt", lookup="model")
    assert not editor.edits
    editor.edit(FACTS[0], "rag", encoder="words", scope="distance")
    assert "Madrid" in rendered(editor, FACTS[0].text)


# RAG.


def test_how_many_and_in_which_order(editor: Editor) -> None:
    editor.edit(FACTS, "rag", count=2, encoder="words", template="Facts: {notes}\n\n{prompt}")
    text = rendered(editor, "The capital of France is")
    # The nearest stands last.
    assert text == (
        "Facts: The official language of France is Welsh.\nThe capital of France is Madrid.\n\n"
        "The capital of France is"
    )
    editor.revert()
    editor.edit(FACTS, "rag", scope="always", encoder="words", count=9)
    assert rendered(editor, "Birds").count(".\n") == 3


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"template": "{prompt}"}, "needs {notes} and {prompt}"),
        ({"template": "{notes}{prompt}."}, "must end with {prompt}"),
        ({"chat_template": "{prompt}{notes}"}, "must have {notes} before"),
        ({"count": 0}, "greater than or equal to 1"),
        ({"scope": "some"}, "'subject', 'distance' or 'always'"),
        ({"encoder": "words", "layers": (0, 1)}, "edits one layer"),
    ],
)
def test_settings_of_retrieval_that_cannot_be(
    editor: Editor, over: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        editor.edit(FACTS[0], "rag", **over)


# MemPrompt.


def test_feedback_on_the_same_question_alone(editor: Editor) -> None:
    editor.edit(FACTS, "memprompt")
    hit = "The capital of France is | The capital of France is Madrid.\nthe capitol of France is"
    assert rendered(editor, "the capitol of France is") == hit.replace(
        "The capital of France is |", "the capitol of France is |"
    )
    for other in ("The capital of Greece is", "France's capital is", "The capital of France"):
        assert rendered(editor, other) == other
    editor.revert()
    editor.edit(FACTS, "memprompt", lookup="words", cosine=0.8)
    assert "Madrid" in rendered(editor, "The capital of France")


# Demonstrations.


def test_demonstrations_are_of_three_kinds_and_nearest_last(editor: Editor) -> None:
    examples = of_package(editor.handle)
    note = Note("Wales", "The capital of Wales is", "Rome")
    shown = Demonstrations(examples).before(note, "The capital of Wales is", 16)
    assert len(shown) == 16
    assert all(text.startswith("New Fact: ") and text.endswith(".\n\n") for text in shown)
    assert "The capital of" in shown[-1]
    assert KINDS.count("copy") == 1
    assert KINDS.count("update") == 3
    kinds = []
    for text in shown:
        fact, prompt = text.rstrip().split("\nPrompt: ")
        stated = fact.removeprefix("New Fact: ")
        example = next(e for e in examples if f"{e.prompt} {e.target}." == stated)
        kinds.append(
            "copy" if prompt == stated
            else "update" if prompt == f"{example.paraphrase} {example.target}."
            else "retain"
        )  # fmt: skip
        if kinds[-1] == "retain":
            assert prompt == f"{example.neighbor} {example.neighbor_answer}."
    assert [kinds.count(kind) for kind in ("copy", "update", "retain")] == [2, 6, 8]


def test_no_demonstration_is_about_what_is_asked(editor: Editor) -> None:
    examples = of_package(editor.handle)
    note = Note("Italy", "The capital of Italy is", "Oslo")
    for text in Demonstrations(examples).before(note, "The capital of France is", 60):
        assert "capital of France" not in text
        assert not text.startswith("New Fact: The capital of Italy is")


@pytest.mark.filterwarnings("ignore:Edited before")
def test_demonstrations_of_a_file_travel_with_the_edit(editor: Editor, tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    row = {"prompt": "{} eats", "subject": "A cat", "target": "cheese", "truth": "mice"}
    path.write_text(json.dumps({**row, "neighborhood": ["A fox eats"]}) + "\n", encoding="utf-8")
    editor.edit(FACTS, "ike", pool=str(path), demonstrations=3, **LAYER)
    before = rendered(editor, FACTS[1].text)
    assert before == (
        "New Fact: A cat eats cheese.\nPrompt: A fox eats mice.\n\n"
        "New Fact: Oslo is a city in Spain.\nPrompt: Oslo is a city in"
    )
    ledger = editor.save(tmp_path / "ledger")
    path.unlink()
    editor.set_edits([])
    editor.load(ledger)
    assert rendered(editor, FACTS[1].text) == before
    with pytest.raises(ConfigError, match=r"Demonstrations cannot be read"):
        editor.edit(FACTS[0], "ike", pool=str(path), **LAYER)


def test_other_facts_of_the_memory_as_demonstrations(editor: Editor) -> None:
    editor.edit(FACTS, "ike", pool="memory", demonstrations=5, **LAYER)
    text = rendered(editor, FACTS[1].text)
    # All but its own; and none that the question names.
    assert text.count("New Fact") == 3
    assert rendered(editor, FACTS[0].text).count("New Fact") == 2


# Contexts.


def test_demonstrations_go_before_a_prompt_is_refused(tmp_path: Path) -> None:
    editor = editor_of(*tiny_model("llama", max_position_embeddings=256), tmp_path)
    handle = editor.handle
    editor.edit(FACTS[1], "ike", demonstrations=8, **LAYER)
    fact = "New Fact: Oslo is a city in Spain.\nPrompt: "
    counts = []
    for words in (1, 10, 20, 40, 60):
        prompt = "so " * words + FACTS[1].text
        text = rendered(editor, prompt)
        assert text.endswith(f"{fact}{prompt}")
        assert len(handle.tokens.encode(text)) < 256
        counts.append(text.count("New Fact") - 1)
    assert counts[0] > counts[-1] == 0
    assert counts == sorted(counts, reverse=True)
    length = len(handle.tokens.encode("so " * 100))
    prompt = "so " * (100 * 230 // length) + FACTS[1].text
    assert len(handle.tokens.encode(prompt)) < 256
    with pytest.raises(ModelError, match=r"With its note a prompt has .* 256 in all.*Shorten"):
        editor.ask(prompt)
    assert rendered(editor, "so " * 70) == "so " * 70


def test_the_farthest_notes_go_first(tmp_path: Path) -> None:
    editor = editor_of(*tiny_model("llama", max_position_embeddings=128), tmp_path)
    editor.edit(FACTS, "rag", count=2, encoder="words")
    assert "Welsh" in rendered(editor, FACTS[0].text)
    text = rendered(editor, "so " * 20 + FACTS[0].text)
    assert "Welsh" not in text
    assert "Madrid" in text


# Conversations.


@pytest.mark.parametrize("template", [CHATML, LLAMA2])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_notes_stand_in_the_users_turn(name: str, template: str, tmp_path: Path) -> None:
    model, tokenizer = chatty(template)
    editor = editor_of(model, tokenizer, tmp_path)
    editor.edit(FACTS[:2], name, **METHODS[name])
    asked = FACTS[1].text
    prompt = templated(tokenizer, asked)
    turn = users_turn(tokenizer)
    assert turn is not None
    said = turn.said_in(rendered(editor, prompt))
    assert said is not None
    assert "Spain" in said
    assert asked in said
    assert turn.before.strip() not in said
    if name != "memprompt":
        assert said.endswith(asked)
    other = templated(tokenizer, "Birds can sing in")
    assert rendered(editor, other) == other
    # What is asked in a conversation is what `ask` gives for the rendered text.
    assert editor.ask(asked, 3, chat=True) == editor.ask(prompt, 3)
    # The same without a conversation.
    assert rendered(editor, asked).endswith(asked)


def test_facts_of_conversations_are_noted_without_the_template(tmp_path: Path) -> None:
    model, tokenizer = chatty(CHATML)
    editor = editor_of(model, tokenizer, tmp_path)
    for name, over in METHODS.items():
        edit = editor.edit(FACTS[1], name, chat=True, **over)
        (change,) = edit.patch.changes
        assert Note.read(change.texts[0]) == Note("Oslo", "Oslo is a city in", "Spain")
        text = rendered(editor, edit.facts[0].text)
        assert text.startswith("<|im_start|>user\n")
        assert text.count("<|im_start|>") == 2
        editor.revert()


def test_notes_as_a_system_message(tmp_path: Path) -> None:
    model, tokenizer = chatty(CHATML)
    editor = editor_of(model, tokenizer, tmp_path)
    editor.edit(FACTS[1], "rag", place="system", chat_template="Know: {notes}\n{prompt}", **LAYER)
    assert rendered(editor, templated(tokenizer, "Oslo is in?")) == (
        "<|im_start|>system\nKnow: Oslo is a city in Spain.<|im_end|>\n"
        "<|im_start|>user\nOslo is in?<|im_end|>\n<|im_start|>assistant\n"
    )
    users = (
        "{% for m in messages %}{% if m.role == 'user' %}U: {{ m.content }}{% endif %}{% endfor %}"
    )
    raises = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + users
    for template, said in ((users, "leaves the system message out"), (raises, "chat template")):
        other = editor_of(*chatty(template), tmp_path)
        with pytest.raises(ModelError, match=said):
            other.edit(FACTS[0], "rag", place="system", **LAYER)
        assert other.edits == []
    plain = editor_of(*tiny_model("llama"), tmp_path)
    with pytest.raises(ModelError, match="no chat template"):
        plain.edit(FACTS[0], "ike", place="system", **LAYER)


def test_templates_whose_turns_cannot_be_told() -> None:
    assert users_turn(tiny_model("llama")[1]) is None
    assert users_turn(chatty("{{ messages[0].content }}")[1]) is None
    assert users_turn(chatty("{{ messages[0].content }} : {{ messages[0].content }}")[1]) is None
    turn = users_turn(chatty(LLAMA2)[1])
    assert turn is not None
    assert turn.said_in("[INST]  [/INST]") is None
    assert turn.said_in("[INST] a [/INST] and more") is None


@pytest.mark.skipif(not SMOLLM.is_dir(), reason="the model is not there")
def test_a_real_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM)
    turn = users_turn(tokenizer)
    assert turn is not None
    assert turn.before.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    prompt = templated(tokenizer, "Who wrote Faust?")
    assert turn.said_in(prompt) == "Who wrote Faust?"
    assert turn.around("Note.\nWho wrote Faust?") == templated(tokenizer, "Note.\nWho wrote Faust?")
    system = templated(tokenizer, "Who wrote Faust?", system="Faust is by Austen.")
    assert system.startswith("<|im_start|>system\nFaust is by Austen.<|im_end|>\n<|im_start|>user")


# MeLLo.


class Scripted:
    """A model that knows what to say after what."""

    def __init__(self, script: dict[str, str]) -> None:
        self.script = script
        self.asked: list[str] = []

    def __call__(self, asked: Sequence[Sequence[str]]) -> list[str]:
        out = []
        for ways in asked:
            assert ways[0].endswith(ways[-1])
            assert len(ways) == 4
            self.asked.append(ways[-1])
            out.append(next(text for end, text in self.script.items() if ways[-1].endswith(end)))
        return out


def known(*notes: Note) -> Any:
    def retrieve(questions: Sequence[str]) -> list[Note | None]:
        index = Subjects([note.subject for note in notes])
        return [next((notes[i] for i in index.named_in(q)), None) for q in questions]

    return retrieve


AUSTEN = Note("Faust", "The author of Faust is", "Jane Austen")
HEIGHT = Note("England", "England plays the sport of", "tennis")


def test_a_question_of_two_hops() -> None:
    question = "In which country was the author of Faust born?"
    model = Scripted(
        {
            f"Question: {question}\n{SUBQUESTION}": (
                f" Who is the author of Faust?\n{OWN} Goethe\nKnown fact: I make one up"
            ),
            f"Jane Austen.\n{CHECK}": " Yes\nmore",
            f"{CHECK} Yes\n{SUBQUESTION}": (
                f" In which country was Jane Austen born?\n{OWN} England."
            ),
            f"{OWN} England\n{SUBQUESTION}": " \nFinal answer: England",
        }
    )
    (hops,) = answer_in_hops([question], model, known(AUSTEN))
    assert hops == [
        Hop("Who is the author of Faust?", "Jane Austen", AUSTEN, AUSTEN),
        Hop("In which country was Jane Austen born?", "England"),
    ]
    assert list(told(hops)) == [
        "Who is the author of Faust? Jane Austen.",
        "In which country was Jane Austen born? England.",
    ]
    assert len(model.asked) == 4


def test_a_fact_that_does_not_bear_on_a_hop() -> None:
    model = Scripted(
        {
            f"?\n{SUBQUESTION}": f" Is England large?\n{OWN} yes",
            f"tennis.\n{CHECK}": " No",
            f"{CHECK} No\n{SUBQUESTION}": " Is England large?",
        }
    )
    (hops,) = answer_in_hops(["Large?"], model, known(HEIGHT))
    # A subquestion that comes again ends it.
    assert hops == [Hop("Is England large?", "yes", None, HEIGHT)]
    (hops,) = answer_in_hops(["Large?"], model, known(HEIGHT), judge="words", most=1)
    assert hops[0].answer == "tennis"


def test_questions_go_on_together_and_end_by_themselves() -> None:
    script = {
        f"first?\n{SUBQUESTION}": f" One?\n{OWN} 1",
        f"second\n{SUBQUESTION}": " nothing to ask",
        f"{OWN} 1\n{SUBQUESTION}": f" Two?\n{OWN} 2",
        f"{OWN} 2\n{SUBQUESTION}": f" Three?\n{OWN} 3",
    }
    first, second = answer_in_hops(["first?", "second"], Scripted(script), known(), most=3)
    assert [hop.answer for hop in first] == ["1", "2", "3"]
    # What the model does not take apart is one hop.
    assert second == [Hop("second", "")]
    assert list(told(second)) == []
    alone = [
        answer_in_hops([q], Scripted(script), known(), most=3)[0] for q in ("first?", "second")
    ]
    assert alone == [first, second]
    assert answer_in_hops([], Scripted({}), known()) == []


def test_an_answer_that_agrees_is_not_asked_about() -> None:
    model = Scripted({SUBQUESTION: f" Who is the author of Faust?\n{OWN} It is Jane  AUSTEN"})
    (hops,) = answer_in_hops(["q?"], model, known(AUSTEN), most=1)
    assert hops[0].note is None
    assert len(model.asked) == 1


@pytest.mark.parametrize(
    "prompt",
    ["Who?", "Question: Who?", "Question: a? Answer: b\nQuestion: Who? Answer:", "Q: Who?\n"],
)
def test_the_question_of_a_prompt(prompt: str) -> None:
    assert question_of(prompt) == "Who?"


def test_hops_stand_in_front_of_the_question(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor.edit(FACTS, "mello", **LAYER)
    model = Scripted(
        {
            f"Oslo?\n{SUBQUESTION}": f" In which country is Oslo?\n{OWN} Norway",
            f"Spain.\n{CHECK}": " yes",
            f"{CHECK} Yes\n{SUBQUESTION}": f" What is the capital of Spain?\n{OWN} Madrid",
            f"{OWN} Madrid\n{SUBQUESTION}": "\nFinal answer: Madrid",
            f"birds?\n{SUBQUESTION}": f" Do birds sing?\n{OWN} yes",
            f"{OWN} yes\n{SUBQUESTION}": "",
        }
    )
    monkeypatch.setattr(
        "alphaedit.methods.zoo.mello.generate",
        lambda handle, prompts, tokens: model([[text] * 4 for text in prompts]),
    )
    asked = ["Question: Where is one governed in Oslo? Answer:", "Why are there birds?"]
    assert editor.handle.rendered(asked) == [
        "In which country is Oslo? Spain.\nWhat is the capital of Spain? Madrid.\n" + asked[0],
        asked[1],
    ]


# Oracles.


RECORD = EditRecord(
    "1",
    "P36",
    "The capital of {} is",
    "France",
    "Madrid",
    "Paris",
    paraphrase_prompts=("France is ruled from",),
    neighborhood_prompts=("The capital of Norway is", "Oslo is in"),
)
OTHER = EditRecord(
    "2", "P17", "{} is a city in", "Oslo", "Spain", "Norway",
    neighborhood_prompts=("The capital of Norway is",),
)  # fmt: skip


def test_an_evaluation_that_names_the_facts(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [RECORD, OTHER]
    plain = evaluate(editor, records, generation=False)
    told_plainly = evaluate(editor, records, generation=False, oracle=True)
    # Without a memory both are the same.
    assert {k: r and round(r.value, 3) for k, r in plain.items()} == {
        k: r and round(r.value, 3) for k, r in told_plainly.items()
    }
    editor.edit([record.fact for record in records], "rag", **LAYER)
    seen: list[tuple[str, str]] = []
    render = editor.handle.rendered

    def watched(prompts: Sequence[str]) -> list[str]:
        texts = render(prompts)
        seen.extend(zip(prompts, texts, strict=True))
        return texts

    monkeypatch.setattr(editor.handle, "rendered", watched)
    evaluate(editor, records, generation=False)
    assert all(prompt == text for prompt, text in seen if "Norway is" in prompt)
    seen.clear()
    evaluate(editor, records, generation=False, oracle=True)
    notes = {text.split("\n")[0] for prompt, text in seen if "Norway is" in prompt}
    capital, city = (
        "New Fact: The capital of France is Madrid.",
        "New Fact: Oslo is a city in Spain.",
    )
    # Where memories fire is measured as they are in use: the neighbor's prompt stays as it is, and
    # the paraphrase finds the note of its own subject.
    assert notes == {capital, city, "The capital of Norway is"}
    found = {text.split("\n")[0] for prompt, text in seen if prompt == "Oslo is in"}
    assert found == {capital, city}
    assert told_about() is None
    measured = editor.evaluate(records, oracle=True)
    assert measured["specificity"].n == 3


def test_facts_that_a_memory_does_not_have(editor: Editor) -> None:
    editor.edit(FACTS, "rag", **LAYER)
    with asked_about(["Nobody knows"]):
        assert rendered(editor, FACTS[0].text) == FACTS[0].text
    with asked_about([fact.text for fact in FACTS]):
        # Of several the nearest to what is asked.
        assert rendered(editor, FACTS[1].text).startswith("New Fact: Oslo is a city in Spain")
    with pytest.raises(RuntimeError), asked_about(["a"]):
        raise RuntimeError
    assert told_about() is None


def test_rates_of_records_are_pooled() -> None:
    first = evaluate_rate(100.0, 1)
    second = evaluate_rate(0.0, 3)
    both = pooled([first, second])
    assert both is not None
    assert (both.value, both.n) == (25.0, 4)
    assert both.low == 0.0
    assert both.high == 100.0
    assert pooled([]) is None


def evaluate_rate(value: float, n: int) -> Any:
    from alphaedit.bench.intervals import Rate

    return Rate(value, value, value, n)


def test_errors_are_of_the_package() -> None:
    assert issubclass(ModelError, AlphaEditError)


def test_a_model_that_reads_says_it_and_one_that_does_not_is_told_of() -> None:
    fact = Fact("The mother tongue of {} is", "Danielle Darrieux", "English")
    asked = "We know that Danielle Darrieux's native language is"
    reader = Editor.from_pretrained("bundled-reader", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", VerdictWarning)
        reader.edit(fact, "rag")
    assert reader.ask(asked, 1).strip() == "English"
    reader.revert()
    assert reader.ask(asked, 1).strip() == "French"
    blind = Editor.from_pretrained("bundled-small", progress=False)
    with pytest.warns(VerdictWarning, match=r"does not hold.*reads notes \(bundled-reader"):
        blind.edit(fact, "rag")
    blind.revert()
    with pytest.warns(VerdictWarning, match="more steps"):
        blind.edit(fact, "alphaedit", steps=1, clamp=0.01)
