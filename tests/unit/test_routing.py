"""Where hooks and memories act, what they keep and what time they take."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model

from alphaedit import Editor, Fact
from alphaedit.bench import behind, qa
from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.experiments.spec import load
from alphaedit.bench.routing import (
    memory_metrics,
    patch_bytes,
    routing_metrics,
    state_bytes,
    time_metrics,
)
from alphaedit.bench.run import sequential
from alphaedit.core.change import HookChange, MemoryChange
from alphaedit.core.errors import ConfigError, DataError
from alphaedit.core.patch import LowRank, Patch
from alphaedit.methods.state import SequentialState
from alphaedit.model.acting import acted, decided_rows
from alphaedit.model.hooks import output_of
from alphaedit.model.route import current, plain
from alphaedit.model.scoring import next_token

RECORDS = [
    EditRecord(
        case_id=str(i),
        relation_id="P36",
        prompt="The capital of {} is",
        subject=subject,
        target_new=new,
        target_true=true,
        paraphrase_prompts=(f"{subject} has the capital",),
        neighborhood_prompts=("The mother tongue of Marie Curie is",),
    )
    for i, (subject, new, true) in enumerate(
        [("France", "Oslo", "Paris"), ("Spain", "Berlin", "Madrid")]
    )
]
GRACE = {"layers": (1,), "radius": 0.5, "steps": 10, "clamp": 20.0}
IKE = {"layers": (1,), "scope": "subject", "demonstrations": 0}
OTHER = "Therefore I think that"


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return Editor.from_pretrained(
        *tiny_model("llama"), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )


def facts() -> list[Fact]:
    return [record.fact for record in RECORDS]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "over"), [("grace", GRACE), ("ike", IKE)])
def test_who_acts_on_what(editor: Editor, method: str, over: dict[str, Any]) -> None:
    asked = [record.rewrite for record in RECORDS]
    assert acted(editor.handle, [*asked, OTHER]) == [False] * 3
    editor.edit(facts(), method, **over)
    assert acted(editor.handle, [*asked, OTHER, asked[0]]) == [True, True, False, True]
    with plain():
        assert acted(editor.handle, asked) == [False, False]
    assert acted(editor.handle, []) == []
    editor.revert()
    assert acted(editor.handle, asked) == [False, False]


@pytest.mark.filterwarnings("ignore")
def test_padding_is_no_part_of_a_prompt(editor: Editor) -> None:
    """What looks at all of a prompt decides by it alone, also beside longer ones."""
    over = {"layers": (0,), "k": 8, "overlap": 0.9, "permute": False, "steps": 3, "contexts": 0}
    editor.edit(facts(), "memoir", **over)
    asked = [record.rewrite for record in RECORDS]
    longer = [f"{OTHER} {OTHER} {OTHER} {OTHER}", *asked]
    assert acted(editor.handle, asked[:1]) == [True]
    assert acted(editor.handle, longer)[1:] == [True, True]
    together = next_token(editor.handle, longer)
    alone = torch.cat([next_token(editor.handle, [prompt]) for prompt in longer])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_hook_that_decides_in_another_form_is_seen_by_what_it_does(editor: Editor) -> None:
    handle = editor.handle
    wanted = handle.tokens.encode("The capital of France is")[-1]

    def hook(module: object, args: object, output: Any) -> Any:
        route, hidden = current(), output_of(output)
        if route is None or route.ends is None or hidden is None:
            return None
        route.decided[0] = "a form of its own"
        return hidden + 1e-3 if seen[-1] == wanted else None

    seen: list[int] = []
    handle.embed.register_forward_hook(lambda m, args, out: seen.append(int(args[0][0, -1])))
    handle.block(1).register_forward_hook(hook)
    handle.hooked = True
    assert acted(handle, ["The capital of France is"]) == [True]
    assert acted(handle, ["The capital of France"]) == [False]


def test_forms_of_a_decision() -> None:
    decided = {
        1: torch.tensor([-1, 3, -1, -1]),
        2: torch.tensor([False, False, True, False]),
        3: torch.tensor([0.5, 0.5, 0.5, 0.5]),
        4: torch.tensor([0, 0]),
        5: None,
    }
    assert decided_rows(decided, 4).tolist() == [False, True, True, False]
    assert decided_rows({1: torch.tensor([[-1, -1], [-1, 2]])}, 2).tolist() == [False, True]


def test_sizes_are_those_of_the_parts() -> None:
    low_rank = LowRank(torch.zeros(6, 2), torch.zeros(2, 5))
    memory = MemoryChange(
        "m", torch.arange(2), {"key": torch.zeros(2, 3)}, {"mean": torch.zeros(3)}, ("é", "ab")
    )
    hook = HookChange("h", torch.arange(1), {"on": torch.zeros(1, 8, dtype=torch.bool)})
    patch = Patch({"w": low_rank}, changes=(memory, hook))
    assert patch_bytes(patch) == 4 * (12 + 10) + 2 * 8 + 4 * 6 + 4 * 3 + 2 + 2 + 8 + 8
    state = SequentialState(
        ("ab",), {1: torch.zeros(5, 3)}, 3, {"own": torch.zeros(2, dtype=torch.float64)}
    )
    assert state_bytes(state) == 2 + 60 + 16


@pytest.mark.filterwarnings("ignore")
def test_weights_have_sizes_and_nothing_else(editor: Editor) -> None:
    assert memory_metrics(editor) == {}
    edit = editor.edit(facts(), "memit", layers=(1,), steps=2, contexts=0)
    assert routing_metrics(editor, RECORDS) == {}
    found = memory_metrics(editor)
    size = found["bytes_per_edit"]
    assert size is not None
    assert size.value == patch_bytes(edit.patch) / 2
    assert size.n == 2


def slow(handle: Any, seconds: float) -> Callable[[], None]:
    def render(prompts: Sequence[str]) -> list[str]:
        time.sleep(seconds)
        return list(prompts)

    handle.memories.append(render)
    return lambda: handle.memories.remove(render)


def test_times_are_relative_to_silence(editor: Editor) -> None:
    prompts = [record.rewrite for record in RECORDS]
    undo = slow(editor.handle, 0.2)
    late = time_metrics(editor.handle, prompts, [OTHER], repeats=1, tokens=3)
    undo()
    for name in ("request_time", "request_time_neighbors"):
        rate = late[name]
        assert rate is not None
        assert rate.value > 200
    assert time_metrics(editor.handle, prompts, repeats=1)["request_time_neighbors"] is None
    for wrong in ({"tokens": 1}, {"repeats": 0}, {"requests": 0}):
        with pytest.raises(DataError, match="cannot be timed"):
            time_metrics(editor.handle, prompts, **wrong)


@pytest.mark.filterwarnings("ignore")
def test_a_run_says_where_it_fired(editor: Editor) -> None:
    found = sequential(
        editor, RECORDS, "grace", batch_size=1, edits=2, evaluate_every=1, generation=False, **GRACE
    )
    assert "fired_edits" not in found.before
    now = found.to_json()
    assert now["fired_edits"]["value"] == 100.0
    assert now["fired_neighbors"]["value"] == 0.0
    assert now["fired_paraphrases"]["n"] == 2
    assert "request_time" not in now
    assert [row["edits"] for row in found.curve if "fired_edits" in row] == [1, 2]
    json.dumps(now)


def test_methods_where_registered(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    head = "name: mine\ntitle: t\nquestion: q\nmethods: [memit]\n"
    file.write_text(head + "where_registered: [{method: grace, label: G}, nobody-has-this, ike]\n")
    assert [m.label for m in load(str(file)).methods] == ["memit", "G", "ike"]
    given = load(str(file), {"methods": ["rome"]})
    assert [m.label for m in given.methods] == ["rome"]
    file.write_text(head + "where_registered: grace\n")
    with pytest.raises(ConfigError, match="is no list of methods"):
        load(str(file))


@pytest.mark.filterwarnings("ignore")
def test_worked_examples_are_not_what_a_memory_is_asked(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    original = behind.generate

    def listen(handle: Any, prompts: Sequence[str], *rest: Any, **more: Any) -> list[str]:
        assert not handle.memories
        said.extend(prompts)
        return original(handle, prompts, *rest, **more)

    monkeypatch.setattr(behind, "generate", listen)
    editor.edit(facts()[0], "ike", **IKE)
    probes = tuple(
        Probe("multi_hop", "question", question, ("Norway",))
        for question in ("Where does the mayor of France live?", "Where is it?")
    )
    monkeypatch.setattr(qa, "EXAMPLES", "Question: Where is France? Answer: here")
    monkeypatch.setattr(qa, "HOP_TOKENS", 2)
    record = replace(RECORDS[0], probes=probes, schema="mquake")
    found = qa.qa_metrics(editor.handle, [record], generation=False)
    assert found["multi_hop_chain"] is not None
    assert len(editor.handle.memories) == 1
    front = "Question: Where is France? Answer: here\n"
    # The note stands beside the question that names its subject, and nowhere else.
    assert said[0].startswith(f"{front}New Fact: The capital of France is Oslo.")
    assert said[0].endswith("Question: Where does the mayor of France live?")
    assert said[1] == f"{front}Question: Where is it?"
