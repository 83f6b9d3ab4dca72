"""What an Editor promises to those who call it from Python."""

import json
import logging
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model

from alphaedit import Edit, Editor, Fact
from alphaedit.cli.app import run
from alphaedit.core.bars import Bars, as_progress
from alphaedit.core.change import HookChange
from alphaedit.core.errors import (
    AlphaEditWarning,
    ConfigError,
    EditFileError,
    FactError,
    ModelError,
    RepeatWarning,
    StatsError,
    VerdictWarning,
)
from alphaedit.core.patch import Patch
from alphaedit.core.progress import silent
from alphaedit.editor import editing
from alphaedit.editor.measured import ask_facts, says
from alphaedit.linalg.subspace import null_space
from alphaedit.locate import preset
from alphaedit.methods.base import Method, Needs, Problem, Solution
from alphaedit.methods.config import build
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

SETTINGS: dict[str, Any] = {
    "layers": (1,),
    "steps": 15,
    "learning_rate": 1.0,
    "clamp": 20.0,
    "contexts": 0,
    "energy": 0.5,
    "ridge": 0.01,
    "kl_factor": 0.0,
    "weight_decay": 0.0,
}
F = Fact("The capital of {} is", "France", "Berlin")
G = Fact("The capital of {} is", "Spain", "Oslo")


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 10), encoding="utf-8")
    handle = ModelHandle.load(*tiny_model("gpt2"))
    statistics = ModelStatistics(handle, str(text), tokens=400, cache_dir=tmp_path / "cache")
    return Editor(handle, statistics, progress=False)


def past(editor: Editor) -> int:
    return editor.state.past_keys[1].shape[1]


def test_apply_after_revert_knows_past_keys(editor: Editor, tmp_path: Path) -> None:
    # finding 4
    first = editor.edit(F, **SETTINGS)
    second = editor.edit(G, **SETTINGS)
    editor.revert()
    editor.revert()
    editor.apply(first)
    assert past(editor) == 1
    again = editor.edit(G, **SETTINGS)
    assert past(editor) == 2
    assert again.id == second.id
    folder = first.save(tmp_path / "edit")
    editor.set_edits([])
    editor.apply(Edit.load(folder))
    assert past(editor) == 1
    assert editor.edit(G, **SETTINGS).id == second.id


def test_applying_what_nothing_is_known_of_warns(editor: Editor, tmp_path: Path) -> None:
    folder = editor.edit(F, **SETTINGS).save(tmp_path / "edit")
    for name in ("state.json", "state.safetensors"):
        (folder / name).unlink()
    loaded = Edit.load(folder)
    assert loaded.learned is None
    editor.set_edits([])
    editor._seen.clear()
    with pytest.warns(AlphaEditWarning, match="not known what edit"):
        editor.apply(loaded)
    editor.revert()
    with pytest.raises(ConfigError, match="no Edit"):
        editor.apply("last")  # type: ignore[arg-type]


def test_what_a_call_is_given_counts_for_that_call(editor: Editor) -> None:
    # finding 5
    plain = {k: v for k, v in SETTINGS.items() if k not in ("clamp", "steps")}
    editor.edit(F, **{**plain, "clamp": 0.1, "steps": 3})
    hp = editor.edit(G, **plain).hyperparameters
    assert hp["steps"] != 3
    assert hp["clamp"] != 0.1
    editor.set_edits([])
    assert editor.edit(F, **plain, plugins=("sphere",)).hyperparameters["plugins"] == ["sphere"]
    assert not editor.edit(G, **plain).hyperparameters.get("plugins")


def test_what_was_measured_is_used_again_also_from_disk(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = editor.edit(F, contexts=0)
    assert first.measured["over"] == {"contexts": 0}
    assert first.measured["values"]["layers"] == first.hyperparameters["layers"]
    layers = tuple(first.hyperparameters["layers"])
    path = editor.save(tmp_path / "ledger")

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(preset, "Trials", never)
    # By another editor of the same model, for other facts and another method: kept in the cache.
    other = Editor(editor.handle, editor.statistics, progress=False)
    editor.set_edits([])
    assert other.hyperparameters("alphaedit", contexts=0).layers == layers
    assert other.hyperparameters("memit", contexts=0).layers == layers
    # From the ledger, where the cache is gone.
    monkeypatch.setattr(preset, "_shown", never)
    editor._chosen.clear()
    editor.load(path)
    assert editor.hyperparameters(first.method, contexts=0).layers == layers


def test_null_spaces_are_as_wide_on_every_model(editor: Editor) -> None:
    hp = editor.hyperparameters("alphaedit", **{**SETTINGS, "energy": None})
    shares = [
        null_space(s, energy=hp.energy).dim / len(s.values)
        for s in map(editor.statistics.spectrum, hp.layers)
    ]
    assert sum(shares) / len(shares) == pytest.approx(preset.FREE, abs=0.05)
    given = editor.hyperparameters("alphaedit", **{**SETTINGS, "energy": 0.7})
    assert given.energy == 0.7
    # Without a linear system a change is cut at the usual energy.
    cut = editor.hyperparameters("ft", project=True, layers=(1,))
    assert cut.energy == preset.ENERGY


def test_what_is_given_by_hand_is_not_measured(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(preset, "Trials", never)
    editor.edit(F, **SETTINGS)


def test_a_rate_goes_with_layers_and_clamp_that_are_given(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("a trial edit was made")

    monkeypatch.setattr(preset.Trials, "_try", never)
    small = editor.hyperparameters("alphaedit", layers=(1,), clamp=1.0, contexts=0)
    large = editor.hyperparameters("alphaedit", layers=(1,), clamp=4.0, contexts=0)
    assert small.layers == large.layers == (1,)
    # Relative to the hidden states, as everything that is not given by hand.
    assert large.learning_rate == pytest.approx(4 * small.learning_rate)
    assert small.learning_rate != build({"layers": (1,)}, "").learning_rate


def test_measuring_looks_at_the_unedited_model(editor: Editor) -> None:
    weights = editor.handle.weight(1)
    editor.edit(F, **SETTINGS)
    edited = editor.handle.weight(1)
    assert not torch.equal(weights, edited)
    with editor._applied.unedited():
        assert torch.equal(editor.handle.weight(1), weights)
    assert torch.equal(editor.handle.weight(1), edited)
    # Statistics of a layer that was not looked at before the first edit.
    editor.edit(G, **{**SETTINGS, "layers": (2,)})
    assert [edit.hyperparameters["layers"] for edit in editor.edits] == [[1], [2]]


def test_contexts_of_plain_edits_survive_a_chat(editor: Editor) -> None:
    # finding 5: contexts=0 is what chat=True asks for
    editor.edit(F, **SETTINGS)
    editor.edit(G, **{**SETTINGS, "contexts": 3})
    assert len(editor.state.contexts or ()) == 3
    kept = editor.state.contexts
    editor.edit(Fact("{} is in", "Oslo", "Berlin"), **SETTINGS)
    assert editor.state.contexts == kept


@dataclass(frozen=True)
class _Odd(Method):
    """A method that gives what nobody can bring into force."""

    patch: Patch = field(default_factory=Patch)

    def solve(self, problem: Problem[Any]) -> Solution:
        return Solution(self.patch, problem.state)


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (Patch(), "gave nothing"),
        (Patch(changes=(HookChange("strange", torch.tensor([0])),)), "called 'strange'"),
    ],
)
def test_what_would_do_nothing_is_refused(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patch: Patch, said: str
) -> None:
    # finding 6
    odd = _Odd("odd", "Odd", "none", "none", patch=patch)
    monkeypatch.setattr(editing, "method_for", lambda *given: odd)
    editor.track(tmp_path / "ledger")
    entries = len(editor.ledger.history.entries)  # type: ignore[union-attr]
    with pytest.raises(EditFileError, match=said):
        editor.edit(F, "odd", **SETTINGS)
    assert editor.edits == []
    assert len(editor.ledger.history.entries) == entries  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("needs", "said"),
    [(Needs(chat_template=True), "needs a chat template"), (Needs(whole_model=True), "split")],
)
def test_needs_that_cannot_be_met_are_refused_first(
    editor: Editor, monkeypatch: pytest.MonkeyPatch, needs: Needs, said: str
) -> None:
    class Needy(_Odd):
        @property
        def needs(self) -> Needs:
            return needs

        def solve(self, problem: Problem[Any]) -> Solution:
            raise AssertionError("solved")

    needy = Needy("odd", "Odd", "none", "none")
    monkeypatch.setattr(editing, "method_for", lambda *given: needy)
    monkeypatch.setattr(editor.handle, "sharded", True)
    with pytest.raises(ConfigError, match=said):
        editor.edit(F, "odd", **SETTINGS)


@pytest.fixture(scope="module")
def small() -> Editor:
    return Editor.from_pretrained("bundled-small", progress=False, tokens=20_000)


MOTHER = Fact("The mother tongue of {} is", "Danielle Darrieux", "English")


def test_a_verdict_after_every_edit(small: Editor, tmp_path: Path) -> None:
    # finding 7
    with warnings.catch_warnings():
        warnings.simplefilter("error", VerdictWarning)
        good = small.edit(MOTHER)
    assert good.holds == (MOTHER,)
    assert good.fails == ()
    assert says(small.ask(MOTHER.text), "English")
    other = Fact(MOTHER.prompt, "Victor Hugo", "German")
    with pytest.warns(VerdictWarning, match=r"1 of 1 fact does not hold: .*'German'.*more steps"):
        bad = small.edit(other, clamp=0.001, steps=1)
    assert bad.fails == (other,)
    assert Edit.load(bad.save(tmp_path / "bad")).fails == (other,)
    assert "0 of 1 hold" in bad.summary()
    assert "does not hold" in bad.summary()
    assert "✗" in bad._repr_html_()
    assert "✓" in good._repr_html_()
    assert repr(good) == f"<Edit {good.id} by gated: 1 of 1 hold>"
    assert "2 edits of 2 facts" in repr(small)
    assert good.id in small._repr_html_()
    small.set_edits([])


def test_verdicts_of_long_targets_need_no_long_answer(small: Editor) -> None:
    said = small.ask(MOTHER.text, 30)
    whole = Fact(MOTHER.prompt, MOTHER.subject, said.strip())
    wrong = Fact(MOTHER.prompt, MOTHER.subject, f"{said.strip()} Oslo Oslo Oslo")
    short = [one.holds for one in ask_facts(small.handle, [whole, wrong], to_end=False)]
    long = [one.holds for one in ask_facts(small.handle, [whole, wrong])]
    assert short == long == [True, False]


def test_measuring_by_the_editor(small: Editor) -> None:
    # finding 24
    rates = small.evaluate("world", limit=5)
    assert rates["efficacy"].n == 5
    assert rates["kept"].value > 95


def test_the_command_tells_the_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # finding 7
    argv = ["edit", "bundled-small", "--prompt", MOTHER.prompt, "--subject", MOTHER.subject]
    argv += ["--target", "English", "--json", "--no-generation", "--tokens", "20000"]
    assert run([*argv, "--strict"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["holds"], found["fails"]) == (1, [])
    argv += ["--set", "clamp=0.001", "--set", "steps=1"]
    assert run([*argv, "-o", str(tmp_path / "ledger")]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["holds"] == 0
    assert [one["target"] for one in found["fails"]] == ["English"]
    assert "Warning: 1 of 1 fact does not hold" in shown.err
    assert "alphaedit revert" in shown.err
    # What a first command was given does not count for the next one: finding 5.
    assert run([*argv, "--strict"]) == 1
    capsys.readouterr()
    again = ["edit", "bundled-small", "--prompt", MOTHER.prompt, "--subject", "Victor Hugo"]
    again += ["--target", "English", "--json", "--no-generation", "--tokens", "20000", "--strict"]
    assert run([*again, "-o", str(tmp_path / "ledger")]) == 0
    assert json.loads(capsys.readouterr().out)["hyperparameters"]["steps"] > 1


def test_html_escapes_what_others_wrote(editor: Editor) -> None:
    fact = Fact("<b>{}</b> is", "<script>", "Berlin")
    shown = editor.edit(fact, **SETTINGS)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_a_later_batch_that_contradicts_or_repeats_is_told(editor: Editor) -> None:
    # finding 10
    first = editor.edit([F, G], **SETTINGS)
    assert past(editor) == 2
    old = editor.state.past_keys[1].clone()
    other = Fact(F.prompt, F.subject, "Madrid")
    with pytest.warns(RepeatWarning, match=f"contradicts edit {first.id}, which says 'Berlin'"):
        second = editor.edit(other, **SETTINGS)
    # The key of France is there once, as the later edit has it; that of Spain stays.
    assert past(editor) == 2
    assert torch.equal(editor.state.past_keys[1][:, 0], old[:, 1])
    kept = editor.state.past_keys[1].clone()
    with pytest.warns(RepeatWarning, match=f"repeats edit {second.id}"):
        editor.edit(other, **SETTINGS)
    editor.revert()
    assert torch.equal(editor.state.past_keys[1], kept)
    editor.revert()
    assert torch.equal(editor.state.past_keys[1], old)


def test_facts_in_any_reasonable_form(editor: Editor, tmp_path: Path) -> None:
    # finding 20
    plain = {"prompt": F.prompt, "subject": F.subject, "target": F.target}
    file = tmp_path / "facts.jsonl"
    file.write_text('{"prompt": "The capital of {} is", "subject": "France", "target": "Berlin"}\n')
    forms: list[Any] = [F, plain, (F.prompt, F.subject, F.target), [plain], file, str(file)]
    forms.append([(F.prompt, F.subject, F.target)])
    ids = set()
    for form in forms:
        ids.add(editor.edit(form, **SETTINGS).id)
        editor.revert()
    ids.add(
        editor.edit(
            prompts=["The capital of {} is"], subject=["France"], target_new=["Berlin"], **SETTINGS
        ).id
    )
    assert len(ids) == 1
    editor.revert(editor.edits[-1])
    assert editor.edits == []


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda e: e.edit(), ConfigError, "No facts"),
        (lambda e: e.edit(3), FactError, "given as 3"),
        (lambda e: e.edit([3]), FactError, "is no fact"),
        (lambda e: e.edit("nothere.jsonl"), FactError, "does not exist"),
        (lambda e: e.edit(F, prompts="x"), (ConfigError, FactError), None),
        (
            lambda e: e.edit(prompts=["a {}"], subject=["b", "c"], target_new=["d"]),
            FactError,
            "different numbers",
        ),
        (lambda e: e.edit(F, locality_inputs={}), ConfigError, "EasyEdit"),
        (lambda e: e.edit(F, batch_size=3), ConfigError, "edit_batches"),
        (lambda e: e.edit(F, method=3), ConfigError, "int"),
        (lambda e: e.edit(F, clamps=3), ConfigError, "Did you mean 'clamp'"),
        (lambda e: e.edit_batches([F], batch_size=0), ConfigError, "batch_size"),
        (lambda e: e.ask(3), ConfigError, "prompt is 3"),
        (lambda e: e.ask(["a", 3]), ConfigError, "prompt is 3"),
        (lambda e: e.ask("word " * 200), ModelError, "longer than|reads"),
        (lambda e: e.ask("a", 0), ConfigError, "max_new_tokens"),
        (lambda e: e.ask(""), ModelError, "empty prompt"),
        (lambda e: e.revert(3), (ConfigError, EditFileError), None),
        (lambda e: e.revert("abcd"), EditFileError, "no edit to revert"),
        (lambda e: e.export("x", "onnx"), ConfigError, "lora"),
        (lambda e: e.evaluate([]), Exception, "no records"),
    ],
)
def test_wrong_arguments_are_explained(
    editor: Editor, call: Any, error: Any, said: str | None
) -> None:
    # finding 20
    before = editor.handle.weight(1)
    with pytest.raises(error, match=said):
        call(editor)
    assert torch.equal(editor.handle.weight(1), before)


def test_loading_checks_arguments_before_the_model(tmp_path: Path) -> None:
    # finding 20
    (tmp_path / "file").write_text("")
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"guard": "rolback"}, ConfigError),
        ({"guard": 3}, ConfigError),
        ({"progress": "yes"}, ConfigError),
        ({"seed": 10**30}, ConfigError),
        ({"seed": True}, ConfigError),
        ({"tokens": -1}, ConfigError),
        ({"tokens": 1.5}, ConfigError),
        ({"corpus": "/nope.txt"}, StatsError),
        ({"corpus": 3}, ConfigError),
    ]
    for given, error in wrong:
        with pytest.raises(error):
            Editor.from_pretrained("/there/is/no/model", **given)
    with pytest.raises(ConfigError, match="is a file"):
        Editor.from_pretrained(*tiny_model("gpt2"), cache_dir=tmp_path / "file")


def test_what_happens_to_a_loaded_model_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    # finding 24
    model, tokenizer = tiny_model("gpt2")
    with caplog.at_level(logging.INFO, logger="alphaedit"):
        Editor.from_pretrained(model.train(), tokenizer, progress=False)
    assert "training mode" in caplog.text
    assert "gradients of the parameters of GPT2LMHeadModel are switched off" in caplog.text
    assert not model.training


def test_guards_as_text_and_batches(editor: Editor) -> None:
    # finding 24
    made = editor.edit_batches([F, G], batch_size=1, **SETTINGS)
    assert [edit.facts for edit in made] == [(F,), (G,)]
    assert editor.ask([F.text, G.text], 4) == [editor.ask(F.text, 4), editor.ask(G.text, 4)]
    assert editor.model is editor.handle.model
    assert editor.tokenizer is editor.handle.tokenizer


def test_progress_as_one_wants_it(capsys: pytest.CaptureFixture[str]) -> None:
    # findings 22 and 24
    assert as_progress(False) is silent
    assert as_progress(None) is silent  # no terminal here
    assert isinstance(as_progress(True), Bars)
    bars = Bars()
    bars("targets", 0, 2)
    bars("layers", 1, 2)
    assert bars._shown is not None
    bars("targets", 2, 2)
    bars("layers", 2, 2)
    assert bars._shown is None
    bars("targets", 0, 2)
    bars.close()
    assert bars._shown is None


def test_bars_end_with_an_edit_that_fails(tmp_path: Path) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    bars = Bars()

    def broken(*args: Any) -> Any:
        bars("targets", 0, 2)
        raise ModelError("broken")

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 10), encoding="utf-8")
    statistics = ModelStatistics(handle, str(text), tokens=400, cache_dir=tmp_path / "cache")
    editor = Editor(handle, statistics, progress=bars)
    editor._edit = broken  # type: ignore[method-assign]
    with pytest.raises(ModelError):
        editor.edit(F, **SETTINGS)
    assert bars._shown is None


def test_time_is_told_by_phase_and_logged(editor: Editor, caplog: pytest.LogCaptureFixture) -> None:
    # finding 22
    with caplog.at_level(logging.INFO, logger="alphaedit"):
        edit = editor.edit(F, **SETTINGS)
    assert {"choice", "second moments", "null space", "answers", "targets"} <= set(edit.seconds)
    assert edit.id in caplog.text
    assert "second moments" in edit.summary()
