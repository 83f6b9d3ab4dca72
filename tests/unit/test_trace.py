"""Causal tracing: equal to one forward pass for each state restored, and what is made of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.plain_trace import plain_trace
from tests.tiny import CORE, save_tiny, tiny_model
from torch import Tensor, nn

from alphaedit.cli.app import run
from alphaedit.core.errors import ArchitectureError, ConfigError, DataError, UnknownNameError
from alphaedit.core.fact import Fact
from alphaedit.locate import rerun, sites
from alphaedit.locate import trace as tracing
from alphaedit.locate.suggest import suggest_layers
from alphaedit.locate.trace import POSITIONS, Trace, default_window, draw_noise, trace, windows
from alphaedit.model.handle import ModelHandle
from alphaedit.report.heatmap import save_traces

FACTS = [
    Fact("The mother tongue of {} is", "Danielle Darrieux", "English"),
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} was born in the city of", "Marie Curie", "Oslo"),
    Fact("The capital of {} is", "Spain", "Paris"),
    Fact("Where is {}", "Oslo", "Norway"),
]
SAMPLES = 2
ATTENTION = {"gpt2": "attn", "gpt_neo": "attn", "gptj": "attn", "gpt_neox": "attention"}
ATTENTION |= {"falcon": "self_attention"}


def handle_of(kind: str, **options: Any) -> ModelHandle:
    return ModelHandle(*tiny_model(kind, **options))


def plain(handle: ModelHandle, kind: str, modules: list[nn.Module], width: int) -> Trace:
    """The same trace, one forward pass for each (noise, layer, token)."""
    encoded = [handle.tokens.encode_with_subject(f.text, f.subject_span) for f in FACTS]
    noise = draw_noise(handle, encoded, samples=SAMPLES)
    restored = torch.full((len(FACTS), 5, handle.n_layers), torch.nan, dtype=torch.float64)
    ends = torch.zeros(2, len(FACTS), dtype=torch.float64)
    for i, (fact, e) in enumerate(zip(FACTS, encoded, strict=True)):
        clean, corrupted, by_place = plain_trace(
            handle, fact, noise[i], modules, windows(handle.n_layers, width)
        )
        ends[:, i] = torch.tensor([clean, corrupted])
        names = []
        for place in range(e.subject_first, len(e.ids)):
            inside = "first subject" if place == e.subject_first else "middle subject"
            name = "last subject" if place == e.subject_last else inside
            name = "further" if place > e.subject_last else name
            names.append("last" if place == len(e.ids) - 1 else name)
        for position in set(names):
            own = [j for j, name in enumerate(names) if name == position]
            restored[i, POSITIONS.index(position)] = by_place[:, own].mean(1)
    return Trace(kind, width, ends[0], ends[1], restored)


@pytest.mark.parametrize("kind", tracing.KINDS)
@pytest.mark.parametrize("model", [*CORE, "falcon", "mistral", "gemma2", "cohere"])
def test_equal_to_one_pass_for_each_state(model: str, kind: str) -> None:
    handle = handle_of(model)
    handle.model.double()
    modules: list[nn.Module] = list(handle.layers)
    if kind == "mlp":
        modules = [handle.edited_module(layer) for layer in range(handle.n_layers)]
    elif kind == "attention":
        modules = [getattr(b, ATTENTION.get(model, "self_attn")) for b in handle.layers]
    fast = trace(handle, FACTS, kind=kind, samples=SAMPLES)
    slow = plain(handle, kind, modules, 1 if kind == "hidden" else 3)
    for name in ("clean_by_fact", "corrupted_by_fact", "restored_by_fact", "indirect_effect"):
        ours, theirs = getattr(fast, name), getattr(slow, name)
        # Some models compute norms and attention in float32 whatever their dtype.
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8, equal_nan=True)
        assert ours[~ours.isnan()].abs().max() > 1e-3
    assert (fast.kind, fast.window, fast.facts) == (slow.kind, slow.window, len(FACTS))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_equal_in_small_lots(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = handle_of("llama", attention=attention)
    whole = trace(handle, FACTS, samples=SAMPLES)
    alone = [trace(handle, [fact], samples=SAMPLES) for fact in FACTS]
    assert [t.clean for t in alone] == pytest.approx(whole.clean_by_fact.tolist(), rel=1e-4)
    monkeypatch.setattr(tracing, "pass_tokens", lambda handle: 1)
    monkeypatch.setattr(rerun, "pass_tokens", lambda handle: 1)
    cut = trace(handle, FACTS, samples=SAMPLES)
    torch.testing.assert_close(
        whole.restored_by_fact, cut.restored_by_fact, rtol=1e-4, atol=1e-7, equal_nan=True
    )


def test_fixed_points() -> None:
    """The last layer's state at the last token is the answer; before it, nothing comes back."""
    handle = handle_of("gpt_neox")
    traced = trace(handle, FACTS, samples=SAMPLES)
    last = traced.restored_by_fact[:, POSITIONS.index("last"), -1]
    torch.testing.assert_close(last, traced.clean_by_fact, rtol=1e-4, atol=1e-7)
    others = traced.effect_by_fact[:, :4, -1]
    assert others[~others.isnan()].abs().max() < 1e-6
    assert traced.restored_by_fact.shape == (5, len(POSITIONS), handle.n_layers)
    low, high = traced.band
    effect = traced.indirect_effect
    assert ((low <= effect + 1e-12) & (effect <= high + 1e-12)).all()
    single = trace(handle, FACTS[:1], samples=1)
    assert single.indirect_effect[0].isfinite().all()
    assert torch.equal(single.band[0].nan_to_num(), single.indirect_effect.nan_to_num())


def test_windows() -> None:
    assert [default_window(n) for n in (2, 4, 8, 24, 48, 80)] == [2, 3, 3, 5, 10, 10]
    assert [list(w) for w in windows(4, 3)] == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    assert list(windows(48, 10)[20]) == list(range(15, 25))
    assert [list(w) for w in windows(3, 1)] == [[0], [1], [2]]


@pytest.mark.parametrize("model", [*CORE, "falcon", "bloom", "opt", "phi", "gemma2"])
def test_attention_outputs(model: str) -> None:
    handle = handle_of(model)
    names = {module: name for name, module in handle.model.named_modules()}
    for layer, module in enumerate(sites.attention_outputs(handle)):
        assert names[module].startswith(f"{handle.structure.layers_path}.{layer}.")
        assert "attn" in names[module] or "attention" in names[module]
        assert module is not handle.edited_module(layer)


def test_attention_that_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = handle_of("llama")
    values = [block.self_attn.v_proj for block in handle.layers]
    monkeypatch.setattr(sites, "_last_linear", lambda handle, ids: values)
    monkeypatch.setattr(handle, "d_out", lambda layer: 16)
    with pytest.raises(ArchitectureError, match="layer 0"):
        sites.attention_outputs(handle)
    monkeypatch.setattr(sites, "_last_linear", lambda handle, ids: [None] * 4)
    with pytest.raises(ArchitectureError, match="none was found"):
        trace(handle, FACTS, kind="attention")


def test_a_model_that_cannot_be_run_in_parts() -> None:
    handle = handle_of("gpt2")
    block = handle.layers[2]
    block.register_forward_hook(lambda m, a, out: out + a[0].mean(1, keepdim=True).sin() * 9)
    with pytest.raises(ArchitectureError, match="in parts"):
        trace(handle, FACTS[:1], samples=1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kind": "hiden"}, UnknownNameError),
        ({"window": 3}, ConfigError),
        ({"kind": "mlp", "window": 5}, ConfigError),
        ({"kind": "mlp", "window": 0}, ConfigError),
        ({"noise": 0.0}, ConfigError),
        ({"samples": 0}, ConfigError),
    ],
)
def test_refusals(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        trace(handle_of("gpt2"), FACTS, **options)


def test_no_facts() -> None:
    with pytest.raises(DataError):
        trace(handle_of("gpt2"), [])


def traced(subject: list[float], last: list[float], kind: str = "hidden", facts: int = 2) -> Trace:
    restored = torch.zeros(facts, 5, len(subject), dtype=torch.float64)
    restored[:, 2], restored[:, 4] = torch.tensor(subject), torch.tensor(last)
    zeros = torch.zeros(facts, dtype=torch.float64)
    return Trace(kind, 1, zeros + 1, zeros, restored)


@pytest.mark.parametrize(
    ("subject", "last", "layers"),
    [
        # As the bundled models show it.
        ([0.80, 0.80, 0.80, 0.80, 0.79, 0.58, 0.27, 0], [0, 0, 0, 0, 0.42, 0.78, 0.83, 0.83],
         (0, 1, 2, 3)),
        ([0.76, 0.78, 0.78, 0.78, 0.38, 0], [0, 0, 0, 0, 0.78, 0.79], (0, 1, 2, 3)),
        # A peak in the middle, and a stretch longer than five.
        ([0.1, 0.2, 0.5, 0.6, 0.55, 0.3, 0.1, 0], [0, 0, 0, 0, 0, 0, 0.4, 0.7], (2, 3, 4)),
        ([0.5] * 7 + [0.1], [0.0] * 6 + [0.05, 0.5], (2, 3, 4, 5, 6)),
    ],
)  # fmt: skip
def test_suggested_layers(subject: list[float], last: list[float], layers: tuple[int, ...]) -> None:
    assert suggest_layers(traced(subject, last)) == layers


def test_nothing_to_suggest() -> None:
    with pytest.raises(DataError, match="no layer"):
        suggest_layers(traced([0.0, 0.0], [0.5, 0.6]))
    with pytest.raises(DataError, match="no layer"):
        suggest_layers(traced([0.1, 0.6], [0.5, 0.6]))
    with pytest.raises(ConfigError, match="hidden"):
        suggest_layers(traced([0.5, 0.1], [0.0, 0.6], kind="mlp"))


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_pictures(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"new/trace.{ending}"
    deep = traced([0.5] * 20, [0.1] * 20, kind="mlp")
    save_traces([traced([0.8, 0.1], [0.0, 0.9]), deep], path)
    assert path.stat().st_size > 1000
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and facts."""
    folder = tmp_path_factory.mktemp("trace")
    save_tiny("gpt2", folder / "model")
    lines = [json.dumps({"prompt": f.prompt, "subject": f.subject, "target": f.target})
             for f in FACTS]  # fmt: skip
    (folder / "facts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_command(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    argv = ["trace", str(place / "model"), str(place / "facts.jsonl"), "--samples", "2", "-q"]
    plot = tmp_path / "trace.svg"
    assert run([*argv, "--kind", "all", "--count", "4", "--plot", str(plot), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert [t["kind"] for t in result["traces"]] == ["hidden", "mlp", "attention"]
    assert [t["window"] for t in result["traces"]] == [1, 3, 3]
    for t in result["traces"]:
        for name in ("indirect_effect", "low", "high"):
            assert Tensor([len(row) for row in t[name]]).tolist() == [4] * len(POSITIONS)
        assert len(t["effect_by_fact"]) == 4
    assert [row["prompt"] for row in result["by_fact"]] == [f.text for f in FACTS[:4]]
    assert result["suggested_layers"] is None
    assert plot.read_text(encoding="utf-8").startswith("<?xml")

    assert run([*argv, "--plot", str(plot)]) == 1
    assert "exists" in capsys.readouterr().err
    assert run([*argv, "--kind", "mlp", "--window", "2"]) == 0
    out = capsys.readouterr().out
    assert "MLP outputs of 2 layers" in out
    assert "last subject" in out


def test_command_suggests(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = traced([0.8, 0.8, 0.8, 0.1], [0, 0, 0.1, 0.9], facts=len(FACTS))
    monkeypatch.setattr(tracing, "trace", lambda *args, kind, **options: shown)
    argv = ["trace", str(place / "model"), str(place / "facts.jsonl"), "--suggest-layers"]
    assert run(argv) == 0
    assert "--set layers=0,1,2" in capsys.readouterr().out


def test_command_on_the_world(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["trace", str(place / "model"), "--count", "2", "--samples", "1", "-q", "--json"]
    assert run(argv) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["facts"], result["count"]) == ("world", 2)


@pytest.mark.parametrize(
    ("more", "kind", "words"),
    [
        (["--kind", "hiden"], "UnknownNameError", "hiden"),
        (["--window", "3"], "ConfigError", "--window"),
        (["--kind", "mlp", "--window", "9"], "ConfigError", "9 layers"),
        (["--noise", "0"], "ConfigError", "--noise"),
        (["--count", "9"], "ConfigError", "holds 5"),
        (["--plot", "trace.doc"], "ConfigError", ".doc"),
    ],
)
def test_command_refuses(
    more: list[str], kind: str, words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["trace", str(place / "model"), str(place / "facts.jsonl"), "-q", *more, "--json"]
    assert run(argv) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == kind
    assert words in error["message"]
    assert error["remedy"]
