"""What edits may do to the rest of the model: measured on held-out text, with consequences."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit import Editor, Fact, Guard
from alphaedit.bench.data import EditRecord
from alphaedit.bench.run import sequential
from alphaedit.cli.app import run
from alphaedit.core.errors import (
    ConfigError,
    GuardError,
    ModelError,
    StatsError,
    UnknownNameError,
)
from alphaedit.editor.guard import GuardWarning
from alphaedit.ledger.ledger import Ledger
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import current
from alphaedit.model.scoring import next_token_directly
from alphaedit.stats.drift import Drift, HeldOut, held_out, kl

TEXTS = ["Paris is the capital of France and Oslo that of Norway.", "Therefore I think so."] * 20
FACTS = [
    Fact("The capital of {} is", "France", "Oslo"),
    Fact("The mother tongue of {} is", "Danielle Darrieux", "Danish"),
    Fact("{} was born in", "Marie Curie", "Berlin"),
]
STRONG = {"layers": (1,), "steps": 8, "clamp": 4.0, "contexts": 0}


def editor(guard: Guard | None) -> Editor:
    model, tokenizer = tiny_model("gpt2")
    return Editor.from_pretrained(
        model, tokenizer, corpus="self", tokens=400, guard=guard, cache_dir=None
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("kept", [32_000_000, 3000])
def test_drift_equals_a_plain_computation(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alphaedit.stats.drift.KEPT_FLOATS", kept)
    handle = ModelHandle.load(*tiny_model("llama"))
    reference = HeldOut(handle, iter(TEXTS), tokens=300)

    def plain() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            logits = handle.model(input_ids=reference.rows).logits.double()[:, :-1]
        log_p = logits.log_softmax(-1).flatten(0, 1)
        return log_p, log_p.gather(1, reference.rows[:, 1:].reshape(-1, 1)).mean()

    before, mean_before = plain()
    handle.set_weight(1, handle.weight(1) * 1.5)
    now, mean_now = plain()
    stride = -(-before.shape[0] // (kept // before.shape[1])) if kept == 3000 else 1
    found = reference.drift(handle)
    assert found.perplexity_before == pytest.approx(math.exp(-mean_before), rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(-mean_now), rel=1e-4)
    # Positions are taken in steps within each group of 8 rows.
    length = reference.rows.shape[1] - 1
    index = torch.cat(
        [
            torch.arange(at, min(at + 8 * length, before.shape[0]), stride)
            for at in range(0, before.shape[0], 8 * length)
        ]
    )
    expected = (before.exp() * (before - now)).sum(-1)[index].mean()
    assert found.kl == pytest.approx(float(expected), rel=1e-3)
    assert found.kl > 1e-3


def test_an_unchanged_model_has_not_moved() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    found = held_out(handle, tokens=200).drift(handle)
    assert found.kl == 0.0
    assert found.ratio == 1.0


def test_next_token_is_that_of_each_prompt_alone() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    prompts = ["The capital of France is", "Oslo", "Paris Hilton was born in the city of"]
    found = next_token_directly(handle, prompts, rows=2)
    for row, prompt in zip(found, prompts, strict=True):
        ids = torch.tensor([handle.tokens.encode(prompt)])
        alone = handle.model(input_ids=ids).logits[0, -1].log_softmax(-1)
        assert torch.allclose(row, alone, atol=1e-5)
    assert torch.equal(kl(found, found), torch.zeros(3))


def test_text_without_two_tokens_is_refused() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    with pytest.raises(StatsError, match="no two tokens"):
        HeldOut(handle, iter([""]))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("retreat", "Unknown guard action 'retreat'"),
        ("stop:max_kll=1", "Unknown guard option 'max_kll'"),
        ("stop:max_kl=much", "no number"),
        ("stop:max_kl", "not KEY=VALUE"),
        ("stop:max_kl=0", "max_kl is 0"),
        ("stop:max_kl=nan", "max_kl is nan"),
        ("stop:max_perplexity=0.9", "max_perplexity is 0.9"),
        ("stop:tokens=1", "1 tokens"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Guard.parse(spec)


def test_a_spec_is_read() -> None:
    spec = "rollback:max_kl=0.05, max-perplexity=1.5,text=a.txt,tokens=99"
    assert Guard.parse(spec) == Guard("rollback", 0.05, 1.5, "a.txt", 99)
    with pytest.raises(UnknownNameError):
        Guard("never")


def test_what_is_not_a_number_is_past_the_limit() -> None:
    assert Guard().complaint(Drift(math.nan, 10.0, 10.0, 5))
    assert Guard().complaint(Drift(0.0, math.inf, 10.0, 5))
    assert Guard().complaint(Drift(0.05, 11.0, 10.0, 5)) is None


def test_warn_keeps_the_batch_and_goes_on() -> None:
    made = editor(Guard("warn", max_kl=1e-9))
    with pytest.warns(GuardWarning, match="nats a token, above"):
        edit = made.edit(FACTS[:1], "memit", **STRONG)
    assert made.edits == [edit]
    assert edit.drift["kl"] > 1e-9


def test_within_limits_nothing_is_said() -> None:
    made = editor(Guard("rollback", max_kl=1e9, max_perplexity=1e9))
    assert made.edit(FACTS[:1], "memit", **STRONG).drift["tokens"] > 0
    assert editor(None).edit(FACTS[:1], "memit", **STRONG).drift == {}


def test_stop_keeps_the_batch() -> None:
    made = editor(Guard("stop", max_kl=1e-9))
    with pytest.raises(GuardError, match="batch is kept"):
        made.edit(FACTS[:1], "memit", **STRONG)
    assert len(made.edits) == 1
    assert made.state.edits == 1


def test_rollback_undoes_the_batch_bit_for_bit() -> None:
    made = editor(Guard("rollback", max_kl=1e-9))
    before = made.handle.fingerprint()
    with pytest.raises(GuardError, match="was undone"):
        made.edit(FACTS[:1], "memit", **STRONG)
    assert made.edits == []
    assert made.state.edits == 0
    assert made.handle.fingerprint() == before


def test_drift_is_measured_against_the_unedited_model_and_saved(tmp_path: Path) -> None:
    guard = Guard("warn", max_kl=1e9, max_perplexity=1e9)
    made = editor(guard)
    made.edit(FACTS[:1], "memit", **STRONG)
    last = made.edit(FACTS[1:2], "memit", **STRONG)
    made.save(tmp_path / "session")
    again = editor(guard)
    again.load(tmp_path / "session")
    assert again.edits[-1].drift == last.drift
    found = again.drift()
    assert found is not None
    assert found.to_json() == pytest.approx(last.drift, rel=1e-5)


@pytest.mark.parametrize("action", ["stop", "rollback"])
def test_a_run_ends_where_the_guard_stops_it(action: str) -> None:
    alone = editor(Guard("warn", max_kl=1e9, max_perplexity=1e9))
    first = alone.edit(FACTS[:1], "memit", **STRONG).drift["kl"]
    made = editor(Guard(action, max_kl=1.01 * first, max_perplexity=1e9))
    records = [
        EditRecord(str(i), "", f.prompt, f.subject, f.target, "Paris") for i, f in enumerate(FACTS)
    ]
    result = sequential(made, records, "memit", batch_size=1, edits=3, generation=False, **STRONG)
    assert result.edits == len(made.edits) == len(result.drift) == (2 if action == "stop" else 1)
    assert result.stopped is not None
    assert ("is kept" if action == "stop" else "was undone") in result.stopped
    assert result.metrics["efficacy"] is not None
    assert result.metrics["efficacy"].n == result.edits


def test_the_command_saves_what_was_edited_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = tmp_path / "facts.jsonl"
    subjects = ["Danielle Darrieux", "Victor Hugo", "Claude Monet"]
    rows = [
        {"prompt": "The mother tongue of {} is", "subject": s, "target": "English"}
        for s in subjects
    ]
    facts.write_text("\n".join(json.dumps(row) for row in rows))
    out = tmp_path / "out"
    common = ["edit", "bundled-small", str(facts), "--batch-size", "1", "--json", "-q"]
    common += ["-m", "alphaedit-weighted"]
    common += ["--no-generation", "--set", "steps=10", "--tokens", "20000"]
    code = run([*common, "--guard", "stop:max_kl=1e-7,tokens=512", "-o", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert code == 1
    assert found["guard"]["edited"] == len(found["edits"]) == 1
    assert "is kept" in found["guard"]["stopped"]
    assert len(Ledger(out).edits()) == 1
    assert run([*common, "--guard", "rollback:max_kl=1e-7,tokens=512"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "GuardError"
    assert run([*common, "--guard", "warn:max_kl=1e-7,tokens=512"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["guard"]["stopped"] is None
    assert shown.err.count("Warning: After edit") == 3
    assert run([*common, "--guard", "stop:text=/nowhere.txt"]) == 1
    assert "no text file at /nowhere.txt" in capsys.readouterr().out


class Note:
    """A memory that writes a note in front of some prompts."""

    def __init__(self, handle: ModelHandle, of: str) -> None:
        self.of, self.text = of, "Therefore I think that "
        handle.memories.append(self.put)

    def put(self, prompts: Sequence[str]) -> list[str]:
        return [self.text + prompt if self.of in prompt else prompt for prompt in prompts]


def test_drift_by_memories_is_of_answers_to_prompts_as_they_are_put() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    reference = HeldOut(handle, iter(TEXTS), tokens=300)
    rows, half = reference.rows, reference.rows.shape[1] // 2
    before = reference.drift(handle)
    prompts = [handle.tokens.decode(row) for row in rows[:, :half].tolist()]
    note = Note(handle, prompts[1])
    put = note.put(prompts)
    assert [old != new for old, new in zip(prompts, put, strict=True)].count(True) >= 1
    expected, loss = 0.0, 0.0
    for row, old, new in zip(rows, prompts, put, strict=True):
        front = row[:half].tolist() if old == new else handle.tokens.encode(new)
        with torch.no_grad():
            was = handle.model(input_ids=row[None]).logits[0, half - 1 : -1].double()
            text = torch.tensor([[*front, *row[half:].tolist()]])
            now = handle.model(input_ids=text).logits[0, len(front) - 1 : -1].double()
        was, now = was.log_softmax(-1), now.log_softmax(-1)
        expected += float(kl(was, now).sum())
        loss -= float(now.gather(1, row[half:, None]).sum())
    found = reference.drift(handle)
    assert found.tokens == rows.shape[0] * (rows.shape[1] - half) < before.tokens
    assert found.kl == pytest.approx(expected / found.tokens, rel=1e-4)
    assert found.kl > 1e-3
    assert found.perplexity == pytest.approx(math.exp(loss / found.tokens), rel=1e-4)
    handle.memories.clear()
    assert reference.drift(handle) == before


def test_silent_routers_have_not_drifted() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    reference = HeldOut(handle, iter(TEXTS), tokens=300)
    Note(handle, "nobody asks this")
    handle.hooked = True
    found = reference.drift(handle)
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.perplexity == pytest.approx(found.perplexity_before, rel=1e-6)
    assert found.tokens < reference.tokens


def test_hooks_look_at_the_end_of_each_rows_first_half() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    reference = HeldOut(handle, iter(TEXTS), tokens=300)
    half, seen = reference.rows.shape[1] // 2, []

    def hook(module: object, args: object, output: object) -> None:
        route = current()
        assert route is not None
        assert route.ends is not None
        seen.extend(route.ends.tolist())

    undo = handle.block(1).register_forward_hook(hook)
    reference.drift(handle)
    undo.remove()
    assert seen == [half - 1] * len(reference.rows)


def test_a_memory_without_room_is_told() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    reference = HeldOut(handle, iter(TEXTS), tokens=300)
    note = Note(handle, "")
    note.text = 60 * note.text
    with pytest.raises(ModelError, match="leaves no room for an answer of"):
        reference.drift(handle)


@pytest.mark.filterwarnings("ignore")
def test_a_guard_undoes_a_memory_that_speaks_up_everywhere(tmp_path: Path) -> None:
    watched = editor(Guard("rollback", max_kl=1e-6, max_perplexity=50.0))
    fact = Fact("The capital of {} is", "a", "Oslo")
    over = {"layers": (1,), "scope": "distance", "distance": 2.0, "demonstrations": 0}
    with pytest.raises(GuardError, match="was undone"):
        watched.edit(fact, "ike", **over)
    assert not watched.edits
    assert not watched.handle.memories
