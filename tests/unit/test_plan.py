"""Plans count what an edit takes from a config alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tiny import KINDS, save_tiny, tiny_model

from alphaedit.cli.app import run
from alphaedit.core.errors import ArchitectureError, ModelError, UnknownNameError
from alphaedit.editor.plan import GPUS, SHARE_HERE, Lengths, Machine, gpu, here, lengths, plan
from alphaedit.locate.preset import shape as facts_of
from alphaedit.methods.config import build
from alphaedit.model.handle import ModelHandle
from alphaedit.model.shape import Shape, shape_of
from alphaedit.model.tokens import Tokens

SHAPE = Shape(12, 768, 3072, 50257, 7_000_000, 124_000_000, torch.float32, {})
ROWS = Lengths(15, 10, 8, 5, 1)
HP = build({"layers": (3, 4, 5, 6, 7), "steps": 25, "contexts": 5}, "test")
MACHINE = Machine("made up", 1e12, 1e11, 1e10, 4, False)


def phases(**over) -> dict:
    options = {"facts": 100, "rows": ROWS, **over}
    return {phase.name: phase for phase in plan(SHAPE, HP, MACHINE, **options)}


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_without_weights_are_those_of_the_model(kind: str, tmp_path: Path) -> None:
    save_tiny(kind, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    found = shape_of(str(tmp_path))
    handle = ModelHandle.load(*tiny_model(kind))
    assert found.layers == handle.n_layers
    assert found.width == handle.d_out(1)
    assert found.inner == handle.d_in(handle.sites(1)[0])
    assert found.experts == len(handle.sites(1))
    assert found.firing == (handle.structure.firing[1] or 1)
    assert found.parameters == sum(p.numel() for p in handle.model.parameters())
    assert dict(found.facts) == facts_of(handle)


def test_prompts_in_turns_take_half_the_time_and_less_memory() -> None:
    half = {
        phase.name: phase
        for phase in plan(
            SHAPE, HP.model_copy(update={"turns": 2}), MACHINE, facts=100, rows=ROWS, batch=1
        )
    }["target values"]
    whole = phases(batch=1)["target values"]
    assert 0.5 * whole.operations < half.operations < 0.6 * whole.operations
    assert half.memory < whole.memory
    quasi = HP.model_copy(update={"turns": 2, "optimizer": "lbfgs"})
    same = {p.name: p for p in plan(SHAPE, quasi, MACHINE, facts=100, rows=ROWS, batch=1)}
    assert same["target values"] == whole


def test_costs_grow_as_they_must() -> None:
    one, ten = phases(facts=10), phases(facts=100)
    for name in ("target values", "keys", "apply"):
        assert ten[name].operations == pytest.approx(10 * one[name].operations)
    for name in ("second moments", "null space", "weights"):
        assert ten[name] == one[name]
        assert ten[name].once
    assert phases(batch=10)["target values"].memory < ten["target values"].memory
    assert ten["second moments"].memory == 5 * 8 * 3072**2
    assert ten["target values"].seconds == ten["target values"].operations / 1e12
    assert phases(tokens=1000)["second moments"].operations == pytest.approx(
        1000 * (2 * 7_000_000 * 8 + 2 * 3072**2 * 5)
    )


def test_machines() -> None:
    with pytest.raises(UnknownNameError, match="h100"):
        gpu("h1000")
    assert all(gpu(name).rate < peak for name, (peak, _) in GPUS.items())
    ticks = iter(range(1000))
    found = here(SHAPE, clock=lambda: float(next(ticks)))
    assert found.measured
    assert found.rate == pytest.approx(SHARE_HERE * 2 * 512 * 768 * 3072)


def test_rates_of_huge_models_are_measured_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config may ask for matrices that no memory holds; a plan says so."""
    monkeypatch.setattr("alphaedit.editor.plan.MEASURED", 64)
    ticks = iter(range(1000))
    huge = replace(SHAPE, width=10**9, inner=10**9)
    assert here(huge, clock=lambda: float(next(ticks))).rate == SHARE_HERE * 2 * 512 * 64 * 64


def test_lengths_of_rows() -> None:
    from alphaedit.core.fact import Fact

    handle = ModelHandle.load(*tiny_model("gpt2"))
    fact = Fact("The capital of {} is", "France", "Paris")
    tokens = Tokens(handle.tokenizer, 1000)
    prompt, target = tokens.encode_continuation(fact.text, fact.target)
    last = tokens.encode_with_subject(fact.text, fact.subject_span).subject_last
    found = lengths(tokens, [fact], 0, 10)
    assert found.whole == len(prompt) + len(target) - 1
    assert found.front == last + 1
    assert found.front + found.tail == found.whole + 1
    assert found.reads == len(target)
    assert lengths(tokens, [fact], 1, 10).whole == found.whole + 5
    assert lengths(tokens, [fact], 0, 10).distinct == found.front
    assert lengths(tokens, [fact, fact], 0, 10).distinct == found.front / 2


def test_what_has_no_plan(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        shape_of(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "no-such-family"}')
    with pytest.raises((ModelError, ArchitectureError)):
        shape_of(str(tmp_path))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}\n')
    argv = ["plan", "bundled", str(facts), "--on", "h100", "-q", "--json"]
    assert run(argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == [0, 1, 2, 3]
    assert found["layers_from"] == "preset bundled"
    assert list(found["machines"]) == ["this CPU", "h100"]
    assert found["machines"]["h100"]["fits"]
    assert run([*argv[:-1], "--set", "layers=2", "--set", "steps=5"]) == 0
    assert "layers 2 (given)" in capsys.readouterr().out
    assert run([*argv, "--on", "abacus"]) == 1
    assert "abacus" in json.loads(capsys.readouterr().out)["error"]["message"]
