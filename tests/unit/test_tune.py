"""The search for hyperparameters, on scores that are known."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_model

from alphaedit import Editor, Fact
from alphaedit.core.errors import AlphaEditError, ConfigError, SubspaceError, UnknownNameError
from alphaedit.methods.config import Hyperparameters, build, tuned_fields
from alphaedit.methods.fine_tune import Bounded
from alphaedit.methods.presets import preset, read_preset, write_preset
from alphaedit.methods.registry import get_method, methods
from alphaedit.tune.axes import axes, own_axes, reachable
from alphaedit.tune.pilot import Measured, Pilot
from alphaedit.tune.search import Log, search
from alphaedit.tune.tuner import tune

START = build(
    {"layers": (3, 4, 5), "energy": 0.9, "ridge_share": 0.1, "clamp": 0.75, "learning_rate": 0.1},
    "start",
)
FIRST = START.model_dump(exclude_none=True)
FACTS = [
    Fact(
        "The capital of {} is", s, t, paraphrases=(f"{s} has the capital",), neighborhood=("Oslo",)
    )
    for s, t in [("France", "Oslo"), ("Spain", "Paris"), ("Norway", "Madrid"), ("Paris", "Berlin")]
]


def landscape(values: dict[str, Any]) -> Measured:
    """One summit, at layers 2 to 4, clamp 1.6875, energy 0.95, rate 0.4."""
    if values["energy"] > 0.985:
        raise SubspaceError("no null space")
    away = abs(values["layers"][-1] - 4) + abs(values["layers"][0] - 2)
    away += abs(math.log(values["clamp"] / 1.6875)) + 10 * abs(values["energy"] - 0.95)
    away += abs(math.log(values["learning_rate"] / 0.4))
    return Measured(0.9 * math.exp(-away / 4), None, None, 0.9, 0.0)


def lines(**fixed: Any) -> Any:
    return list(axes(get_method("alphaedit"), START, 12, fixed))


def test_the_summit_is_found() -> None:
    found = search(FIRST, lines(), landscape, log=Log(None, {}))
    assert found.best.values["layers"] == (2, 3, 4)
    assert found.best.values["clamp"] == pytest.approx(1.6875, rel=1e-3)
    assert found.best.values["energy"] == 0.95
    assert found.best.values["learning_rate"] == pytest.approx(0.4)
    assert found.best.values["steps"] == FIRST["steps"]
    assert found.finished
    keys = [json.dumps(t.values, sort_keys=True) for t in found.trials]
    assert len(set(keys)) == len(keys)


def test_what_cannot_be_used_is_passed_over() -> None:
    first = {**FIRST, "energy": 0.98}
    found = search(first, lines(), landscape, log=Log(None, {}))
    assert [t.error for t in found.trials if t.error] == ["no null space"]
    assert found.best.values["energy"] == 0.95


def test_what_is_fixed_stays() -> None:
    names = [name for name, _ in lines(layers=(3, 4, 5), ridge_share=0.1, threshold=0.02)]
    assert names == ["clamp", "learning_rate", "steps"]


def test_limits_end_a_search() -> None:
    found = search(FIRST, lines(), landscape, log=Log(None, {}), most=5)
    assert len(found.trials) == 5
    assert not found.finished
    found = search(FIRST, lines(), landscape, log=Log(None, {}), seconds=0)
    assert len(found.trials) == 1
    assert found.best == found.start


@pytest.mark.parametrize("cut", [1, 40])
def test_a_search_goes_on_from_its_log(tmp_path: Path, cut: int) -> None:
    whole = search(FIRST, lines(), landscape, log=Log(None, {}))
    path = tmp_path / "log.jsonl"
    search(FIRST, lines(), landscape, log=Log(path, {"of": 1}), most=6)
    path.write_text(path.read_text()[:-cut])  # killed while writing the sixth
    asked: list[Any] = []

    def measure(values: dict[str, Any]) -> Measured:
        asked.append(values)
        return landscape(values)

    again = search(FIRST, lines(), measure, log=Log(path, {"of": 1}))
    assert [t.values for t in again.trials] == [t.values for t in whole.trials]
    assert again.best.values == whole.best.values
    assert len(asked) == len(whole.trials) - 5
    assert len(path.read_text().splitlines()) == 1 + len(whole.trials)


def test_the_log_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    Log(path, {"method": "alphaedit"})
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another search"):
        Log(path, {"method": "memit"})
    assert path.read_bytes() == before
    path.write_text("not a log\n")
    with pytest.raises(ConfigError, match="another search"):
        Log(path, {"method": "memit"})


def test_moves_stay_within_the_model() -> None:
    for method in methods().values():
        start = build({"layers": (0, 1), "energy": 0.3, "steps": 5, "bound": 0.1}, "start", Bounded)
        frontier, seen = [start.model_dump(exclude_none=True)], set()
        while frontier and len(seen) < 150:
            values = frontier.pop(0)
            for _, moves in axes(method, start, 3, {}):
                for move in moves:
                    changed = move(values)
                    if changed is None:
                        continue
                    hp = build(changed, "move", Bounded)
                    assert set(hp.layers) <= set(reachable(start, 3))
                    if hp.layers not in seen:
                        seen.add(hp.layers)
                        frontier.append(changed)


def test_score_is_the_harmonic_mean_of_what_was_measured() -> None:
    assert Measured(0.5, None, None, 1.0, 0.0).score == pytest.approx(2 / 3)
    assert Measured(0.5, 0.25, 1.0, 1.0, 0.0).score == pytest.approx(0.5)
    assert Measured(0.0, 0.25, 1.0, 1.0, 0.0).score == 0.0


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    model, tokenizer = tiny_model("gpt2")
    return Editor.from_pretrained(model, tokenizer, tokens=400, cache_dir=tmp_path / "cache")


def test_a_pilot_leaves_the_model_as_it_was(editor: Editor) -> None:
    method = get_method("memit")
    pilot = Pilot(editor.handle, editor.statistics, method, FACTS[:3], planned=30)
    before = editor.handle.fingerprint()
    hp = build({"layers": (1,), "steps": 3, "contexts": 1}, "trial")
    first, second = pilot.measure(hp), pilot.measure(hp)
    assert editor.handle.fingerprint() == before
    assert first == second
    assert first.stability == pytest.approx(math.exp(-10 * first.kl))
    editor.edit(FACTS[:3], "memit", **hp.model_dump(exclude_none=True))
    said = [a.p_target for a in editor.answers(FACTS[:3])]
    assert first.efficacy == pytest.approx(sum(said) / 3, rel=1e-4)


def test_tuning_is_deterministic_and_its_preset_is_used(editor: Editor, tmp_path: Path) -> None:
    options: dict[str, Any] = {"pilots": 3, "trials": 4, "fixed": {"steps": 3, "contexts": 1}}
    first = tune(editor.handle, editor.statistics, FACTS, "memit", **options)
    second = tune(editor.handle, editor.statistics, FACTS, "memit", **options)
    assert [t.measured for t in first.search.trials] == [t.measured for t in second.search.trials]
    assert first.checked is not None
    file = tmp_path / "preset.yaml"
    write_preset(file, first.preset(editor.handle), "for a test")
    assert read_preset(file)["source"].startswith("tuned by alphaedit")
    chosen = editor.hyperparameters("memit", str(file), FACTS, contexts=1)
    assert chosen == first.hyperparameters
    model, tokenizer = tiny_model("llama")
    other = Editor.from_pretrained(model, tokenizer, tokens=400, cache_dir=tmp_path / "cache")
    before = other.handle.fingerprint()
    with pytest.raises(ConfigError, match=r"for another model.*model_type llama in place of gpt2"):
        other.edit(FACTS[:1], "memit", preset=str(file))
    assert other.handle.fingerprint() == before


def test_a_preset_of_another_model_is_refused_by_name(editor: Editor) -> None:
    with pytest.raises(ConfigError, match="layers 4 in place of 48"):
        editor.edit(FACTS[:1], preset="gpt2-xl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no preset"),
        ("- 1", "holds no preset"),
        ("a: [", "is not YAML"),
        ("layers: [1]", "Unknown field in .* 'layers'"),
        ("all: 3", "'all' is not a mapping"),
        ("methods: {memit: 3}", "methods.memit is not a mapping"),
        ("all: {steps: 3}", "names no layers"),
        ("all: {layers: [1], stepps: 3}", "'stepps'"),
        ("all: {layers: [2, 1]}", "ascending"),
        ("all: {layers: [1]}\nmethods: {memit: {clamp: -1}}", "memit: clamp"),
    ],
)
def test_broken_preset_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "preset.yaml"
    file.write_text(text)
    with pytest.raises(AlphaEditError, match=message) as caught:
        preset(str(file), "memit")
    assert caught.value.remedy


def test_names_that_are_neither_preset_nor_file() -> None:
    with pytest.raises(UnknownNameError, match="gpt2-xxl"):
        preset("gpt2-xxl", "memit")
    with pytest.raises(ConfigError, match="There is no preset file"):
        preset("/nowhere/preset.yml", "memit")


def test_two_facts_at_least(editor: Editor) -> None:
    with pytest.raises(ConfigError, match="at least two facts"):
        tune(editor.handle, editor.statistics, FACTS[:1])


def test_fields_of_a_setting_are_those_of_hyperparameters() -> None:
    assert set(FIRST) <= set(Hyperparameters.model_fields)


def test_a_preset_without_a_rate_takes_one_relative_to_the_hidden_states(
    editor: Editor, tmp_path: Path
) -> None:
    file = tmp_path / "sister.yaml"
    write_preset(file, {"source": "transferred", "all": {"layers": [1], "clamp": 1.0}}, "")
    small = editor.hyperparameters("memit", str(file))
    large = editor.hyperparameters("memit", str(file), clamp=4.0)
    given = editor.hyperparameters("memit", str(file), learning_rate=0.3)
    own = editor.hyperparameters("memit", "measured", layers=(1,), clamp=1.0)
    assert small.learning_rate == own.learning_rate != build({"layers": (1,)}, "").learning_rate
    assert large.learning_rate == pytest.approx(4 * small.learning_rate)
    assert given.learning_rate == 0.3
    assert "learning_rate" not in preset(str(file), "memit")


def test_measured_stands_for_no_preset() -> None:
    editor = Editor.from_pretrained("bundled-small", progress=False)
    over = {"layers": (1,), "clamp": 1.0}
    fits = editor.hyperparameters("alphaedit", **over)
    own = editor.hyperparameters("alphaedit", "measured", **over)
    assert fits.energy == preset("bundled-small", "alphaedit")["energy"] != own.energy
    assert fits.learning_rate != own.learning_rate


def routed_editor(tmp_path: Path) -> Editor:
    model, tokenizer = tiny_model("llama")
    return Editor.from_pretrained(model, tokenizer, tokens=400, cache_dir=tmp_path / "cache")


ROUTED = [
    ("grace", {"steps": 3}, {"radius", "clamp"}),
    ("ike", {"scope": "distance"}, {"distance", "demonstrations"}),
    ("melo", {"steps": 3}, {"radius"}),
    ("memoir", {"steps": 2, "contexts": 0, "k": 8}, {"overlap"}),
    ("rag", {"scope": "distance"}, {"distance"}),
]
SETTINGS = [
    ("wise", "ratio", 1.15),
    ("t-patcher", "quiet_weight", 3.0),
    ("memprompt", "edits", 1.5),
    ("serac", "threshold", 1.25),
]


@pytest.mark.parametrize(("name", "marked", "by"), SETTINGS)
def test_one_setting_of_these_is_tuned(name: str, marked: str, by: float) -> None:
    method = get_method(name)
    assert set(tuned_fields(method.config)) == {marked}
    start = build({"layers": (1,), marked: 0.5}, "start", method.config)
    found = dict(own_axes(start, 4, {}, lambda layers: {"layers": layers}))
    assert list(found) == ["layers", marked]
    up, down = (move({marked: 0.5}) or {} for move in found[marked])
    assert up[marked] == pytest.approx(0.5 * by, rel=1e-3)
    assert down[marked] == pytest.approx(0.5 / by, rel=1e-3)
    assert not dict(own_axes(start, 4, {"layers": (1,), marked: 0.5}, lambda layers: {}))


@pytest.mark.parametrize(("name", "fixed", "marked"), ROUTED)
def test_settings_say_what_of_routers_is_tuned(
    name: str, fixed: dict[str, Any], marked: set[str]
) -> None:
    method = get_method(name)
    assert set(tuned_fields(method.config)) == marked
    values = {"layers": (1,), **dict.fromkeys(marked - {"demonstrations"}, 0.5), **fixed}
    start = build(values, "start", method.config)
    suggested = {(0,): 1.0, (1,): 2.0, (2,): 6.0, (3,): 8.0}
    first = next(iter(marked - {"clamp", "demonstrations"}))

    def suggest(layers: tuple[int, ...]) -> dict[str, Any]:
        return {"layers": layers, first: suggested[layers]}

    found = dict(own_axes(start, 4, fixed, suggest))
    assert set(found) == {"layers", *marked}
    changed = start.model_dump(exclude_none=True)
    up = found["layers"][1](changed)
    assert up is not None
    # A quarter of what was suggested there is a quarter of what is suggested here.
    assert (up["layers"], up[first]) == ((2,), 1.5)
    assert found["layers"][0]({**changed, "layers": (0,)}) is None
    more = found[first][0](changed)
    assert more is not None
    assert more[first] == pytest.approx(0.5 * tuned_fields(method.config)[first], rel=1e-3)
    left = dict(own_axes(start, 4, {"layers": (1,), first: 0.5, **fixed}, suggest))
    assert set(left) == marked - {first}


def test_whole_numbers_move_by_whole_steps() -> None:
    start = build({"layers": (1,), "demonstrations": 4}, "start", get_method("ike").config)
    up, down = dict(own_axes(start, 4, {}, lambda layers: {}))["demonstrations"]
    assert (up({"demonstrations": 4}) or {})["demonstrations"] == 8
    assert (down({"demonstrations": 4}) or {})["demonstrations"] == 2
    assert up({"demonstrations": 0}) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "fixed", "marked"),
    [
        *ROUTED[:2],
        *(pytest.param(*given, marks=pytest.mark.slow) for given in ROUTED[2:]),
    ],
)
def test_routers_are_tuned_and_their_preset_is_used(
    tmp_path: Path, name: str, fixed: dict[str, Any], marked: set[str]
) -> None:
    editor = routed_editor(tmp_path)
    before, prompts = editor.handle.fingerprint(), [fact.text for fact in FACTS]
    options: dict[str, Any] = {"pilots": 2, "trials": 4, "fixed": fixed}
    found = tune(editor.handle, editor.statistics, FACTS, name, **options)
    assert editor.handle.fingerprint() == before
    assert not editor.handle.hooked
    assert editor.handle.rendered(prompts) == prompts
    assert len(found.search.trials) == 4
    assert found.search.best.score >= found.search.start.score
    file = tmp_path / "preset.yaml"
    write_preset(file, found.preset(editor.handle), "for a test")
    assert editor.hyperparameters(name, str(file), FACTS) == found.hyperparameters
    assert "layers" not in read_preset(file)["all"]


def test_a_pilot_measures_what_a_router_does(tmp_path: Path) -> None:
    editor = routed_editor(tmp_path)
    method = get_method("grace")
    values = {"layers": (1,), "radius": 0.5, "steps": 30, "clamp": 20.0}
    # One alone, as balls of different targets would share the way between them.
    pilot = Pilot(editor.handle, editor.statistics, method, FACTS[1:2], planned=1)
    near = pilot.measure(build(values, "trial", method.config))
    far = pilot.measure(build({**values, "radius": 1e4}, "trial", method.config))
    assert near.efficacy > 0.5
    assert near.specificity == pytest.approx(1.0, abs=1e-5)
    assert near.stability == pytest.approx(1.0, abs=1e-5)
    # What answers everything moves neighbors and all other text.
    assert far.specificity is not None
    assert far.specificity < 0.9
    assert far.stability < 0.999


def test_a_method_without_such_settings_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alphaedit.tune.tuner.tuned_fields", lambda config: {})
    editor = routed_editor(tmp_path)
    with pytest.raises(ConfigError, match="no settings that pilot edits search"):
        tune(editor.handle, editor.statistics, FACTS, "grace")
