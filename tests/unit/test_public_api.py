"""The flat API: its names, and methods and plug-ins as objects beside the texts for them."""

import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model
from tests.unit.test_third_party import EXAMPLE

import alphaedit
from alphaedit import Edit, Editor, Fact, errors, get_method, get_plugin
from alphaedit.core import errors as tree
from alphaedit.core.errors import ConfigError, DataError, FactError, UnknownNameError
from alphaedit.core.patch import Patch
from alphaedit.methods import AlphaEdit, Emmet, Grace, Memit, MemitHistory, UltraEdit, plugin
from alphaedit.methods import registry as known
from alphaedit.methods.base import Method, Problem, Solution
from alphaedit.methods.plugin import Plugin, make, options_of
from alphaedit.plugins import EarlyStop, Project, Queue, Rect, Ridge, Sphere

QUICK: dict[str, Any] = {"layers": (1,), "steps": 2, "contexts": 1}
FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} is a city in", "Oslo", "Spain"),
]


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return Editor.from_pretrained(
        *tiny_model("gpt2"), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the example package were installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    points = {
        known.ENTRY_POINTS: EntryPoint("half-memit", "half_memit:METHOD", known.ENTRY_POINTS),
        plugin.ENTRY_POINTS: EntryPoint("half", "half_memit:Half", plugin.ENTRY_POINTS),
    }
    for module in (known, plugin):
        monkeypatch.setattr(module, "entry_points", lambda group: [points[group]])
    yield
    sys.modules.pop("half_memit", None)


@pytest.fixture
def unsolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever computes anything fails."""

    def no(*args: object, **named: object) -> None:
        raise AssertionError("computed")

    for name in ("_choose", "_prepare", "_solved", "asked"):
        monkeypatch.setattr(Editor, name, no)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names_are_there_and_sorted() -> None:
    assert alphaedit.__all__ == sorted(alphaedit.__all__)
    assert set(alphaedit.__all__) <= set(dir(alphaedit))
    for name in alphaedit.__all__:
        thing = getattr(alphaedit, name)
        assert inspect.getdoc(thing), name
        assert thing is getattr(alphaedit, name)
    with pytest.raises(AttributeError, match="'Edditor'"):
        _ = alphaedit.Edditor


def test_importing_is_quick() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)"
    code = (
        "import sys, alphaedit, alphaedit.errors, alphaedit.methods, alphaedit.plugins\n"
        "from alphaedit import errors, methods, plugins\n"
        f"dir(alphaedit); errors.FactError; print({heavy})"
    )
    assert run_python(code) == "set()"


@pytest.mark.parametrize(
    "first",
    ["import alphaedit.methods.registry", "from alphaedit import Editor", "alphaedit.methods()"],
)
def test_a_module_and_a_function_of_one_name_are_one_thing(first: str) -> None:
    code = (
        f"import alphaedit\n{first}\nfrom alphaedit import methods\n"
        "import alphaedit.methods.zoo.rome as rome, alphaedit.methods as again\n"
        "from alphaedit.methods import Rome\nfrom alphaedit.methods.registry import get_method\n"
        "assert methods is alphaedit.methods is again and methods.zoo.rome is rome\n"
        "print(methods()['rome'] == Rome == rome.METHOD)"
    )
    assert run_python(code) == "True"


def test_all_errors_are_on_one_page() -> None:
    defined = {
        name
        for name, kind in vars(tree).items()
        if inspect.isclass(kind)
        and issubclass(kind, (errors.AlphaEditError, errors.AlphaEditWarning))
    }
    assert set(errors.__all__) == defined
    for source in (Path(alphaedit.__file__).parent).rglob("*.py"):
        for name in re.findall(r"^class (\w+)\(\w+\):", source.read_text("utf-8"), re.MULTILINE):
            elsewhere = name.endswith(("Error", "Warning")) and source.name != "errors.py"
            assert not elsewhere, f"{name} of {source} belongs to core/errors.py"
    assert alphaedit.AlphaEditError is errors.AlphaEditError is tree.AlphaEditError


def test_every_method_and_plugin_is_an_object() -> None:
    listed = alphaedit.methods()
    assert list(listed) == list(known.methods())
    assert {method.name for method in known.method_objects().values()} == set(listed)
    for name, method in listed.items():
        thing = getattr(alphaedit.methods, method.object_name)
        assert thing == method == get_method(name) == get_method(method)
        assert getattr(alphaedit.methods, method.object_name.upper()) == method
        assert method.object_name in dir(alphaedit.methods)
        assert list(inspect.signature(thing).parameters) == list(method.config.model_fields)
    for name, kind in alphaedit.plugins().items():
        assert getattr(alphaedit.plugins, kind.__name__) is kind is get_plugin(name)
        assert kind.__name__ in dir(alphaedit.plugins)
    assert (Memit.name, MemitHistory.name, AlphaEdit.name) == (
        "memit",
        "memit-history",
        "alphaedit",
    )
    with pytest.raises(AttributeError, match=r"'Memitt'.*Did you mean 'Memit'"):
        _ = alphaedit.methods.Memitt
    with pytest.raises(AttributeError, match="has no attribute 'memit'"):
        _ = alphaedit.methods.memit


def test_a_method_with_settings() -> None:
    one = MemitHistory(clamp=0.5)
    assert str(one) == "MemitHistory(clamp=0.5)"
    assert one == get_method("memit_history")(clamp=0.5) != MemitHistory
    assert MemitHistory.given == {}
    shown_by_a_notebook: list[str] = []
    one._repr_pretty_(types.SimpleNamespace(text=shown_by_a_notebook.append), False)
    assert shown_by_a_notebook == ["MemitHistory(clamp=0.5)"]
    assert one(clamp=0.6, steps=3).given == {"clamp": 0.6, "steps": 3}
    shown = inspect.signature(one).parameters
    assert shown["clamp"].default == 0.5
    assert shown["layers"].default is ...
    assert inspect.signature(UltraEdit).parameters["ridge"].default == 1.0
    # What stands in place of another goes with it.
    assert AlphaEdit(threshold=0.1)(energy=0.9).given == {"energy": 0.9}
    assert inspect.signature(type(Grace)).parameters["name"]


@pytest.mark.parametrize(
    ("make_it", "error", "said"),
    [
        (lambda: MemitHistory(clampp=1), UnknownNameError, "memit-history 'clampp'.*'clamp'"),
        (lambda: MemitHistory(clamp=-1), ConfigError, "memit-history: clamp: .*greater than 0"),
        (lambda: Grace(radius="far"), ConfigError, "grace: radius: .*number"),
        (lambda: Grace(ridge=1.0), UnknownNameError, "grace 'ridge'"),
        (lambda: AlphaEdit(threshold=1, energy=0.5), ConfigError, "not both"),
        (lambda: AlphaEdit(v_lr=0.1), UnknownNameError, "EasyEdit's v_lr is called learning_rate"),
        (lambda: AlphaEdit(plugins=["sphre"]), UnknownNameError, "Did you mean 'sphere'"),
        (lambda: AlphaEdit(plugins=[Sphere]), ConfigError, r"as its class. Write Sphere\(\)"),
        (lambda: AlphaEdit(plugins=[3]), ConfigError, "A plug-in is 3"),
        (lambda: AlphaEdit(plugins="sphere"), ConfigError, "plugins: .*tuple"),
        (
            lambda: AlphaEdit(plugins=[Project()], project=True),
            ConfigError,
            "project is given twice",
        ),
        (
            lambda: UltraEdit(plugins=[EarlyStop()]),
            ConfigError,
            "early-stop does not fit ultraedit",
        ),
        (lambda: Grace(plugins=[Rect()]), ConfigError, "rect does not fit grace"),
        (lambda: Sphere(strength=9), ConfigError, "strength is 9"),
    ],
)
def test_settings_are_checked_when_they_are_given(make_it: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        make_it()


def test_plugins_have_texts_that_make_them_again() -> None:
    for name, kind in alphaedit.plugins().items():
        assert kind().spec == name
        for option, default in options_of(kind).items():
            changed = make(f"{name}:{option}={default / 2 if isinstance(default, float) else 7}")
            assert make(changed.spec) == changed
            assert changed.spec.startswith(f"{name}:{option}=")
    assert Sphere(strength=0.8).spec == "sphere:strength=0.8"
    assert Sphere(0.25, 1).spec == "sphere:energy=0.25,strength=1"
    assert make(Ridge(weight=1e-7).spec) == Ridge(weight=1e-7)


PAIRS: list[tuple[Any, dict[str, Any], str, dict[str, Any]]] = [
    (Memit(clamp=0.5, **QUICK), {}, "memit", {"clamp": 0.5, **QUICK}),
    (AlphaEdit, {"energy": 0.5, **QUICK}, "alphaedit", {"energy": 0.5, **QUICK}),
    (
        Emmet(**QUICK),
        {"plugins": [Sphere(strength=0.8), Rect(), "prune:base=2.0"]},
        "emmet",
        {**QUICK, "plugins": ["sphere:strength=0.8", "rect", "prune:base=2.0"]},
    ),
    (
        Memit(plugins=[Ridge(weight=5.0)], **QUICK),
        {"clamp": 0.25},
        "memit",
        {**QUICK, "plugins": ("ridge:weight=5.0",), "clamp": 0.25},
    ),
    (
        Grace(layers=(1,), radius=0.5)(steps=2, clamp=20.0),
        {},
        "grace",
        {"layers": (1,), "radius": 0.5, "steps": 2, "clamp": 20.0},
    ),
]


def recorded(edit: Edit) -> dict[str, Any]:
    """What is kept of an edit, but for times."""
    drop = ("created", "seconds")
    return {name: value for name, value in edit.to_dict().items() if name not in drop}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "options", "name", "texts"), PAIRS)
def test_objects_and_texts_are_the_same_bit_for_bit(
    editor: Editor, method: Any, options: dict[str, Any], name: str, texts: dict[str, Any]
) -> None:
    by_text = editor.edit(FACTS, name, **texts)
    editor.revert()
    by_object = editor.edit(FACTS, method, **options)
    assert recorded(by_object) == recorded(by_text)
    editor.revert()
    given, typed = editor.hyperparameters(method, **options), editor.hyperparameters(name, **texts)
    assert given == typed
    with editor.preview(FACTS, method, **options) as previewed:
        assert previewed.id == by_text.id
    (first, second) = editor.edit_batches(FACTS, method, batch_size=1, **options)
    editor.set_edits([])
    again = [batch.edit for batch in editor.edit_in_batches([FACTS[:1], FACTS[1:]], name, **texts)]
    assert [edit.id for edit in again if edit] == [first.id, second.id]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("others")
def test_objects_of_other_packages(editor: Editor, tmp_path: Path) -> None:
    half = alphaedit.plugins.Half(factor=0.25)
    assert alphaedit.methods.HalfMemit(scale=2.0).given == {"scale": 2.0}
    editor.track(tmp_path / "ledger")
    by_text = editor.edit(FACTS, "half-memit", scale=2.0, **QUICK)
    editor.revert()
    method = get_method("half-memit")(scale=2.0, **QUICK)
    assert editor.edit(FACTS, method).id == by_text.id
    editor.revert()
    by_text = editor.edit(FACTS, "memit", plugins=["half:factor=0.25"], **QUICK)
    editor.revert()
    by_object = editor.edit(FACTS, Memit(**QUICK), plugins=[half])
    assert recorded(by_object) == recorded(by_text)
    assert editor.ledger is not None
    ((kept, _),) = editor.ledger.edits()
    assert kept.hyperparameters["plugins"] == ["half:factor=0.25"]
    with pytest.raises(ConfigError, match="half is given twice"):
        editor.edit(FACTS, method, plugins=[half])


@dataclass(frozen=True)
class Unknown(Plugin):
    """Of no package."""

    name, title, paper, summary = "unknown", "Unknown", "none", "Nothing."


@dataclass(frozen=True)
class Worded(Sphere):
    """One whose name is another's."""

    word: str = "a"


@pytest.mark.usefixtures("unsolved")
@pytest.mark.parametrize(
    ("method", "plugin", "said"),
    [
        ("ultraedit", EarlyStop(), "Plug-in early-stop does not fit ultraedit.*target search"),
        ("ft", Queue(), "Plug-in queue does not fit ft.*linear system"),
        ("rome", Ridge(), "Plug-in ridge does not fit rome.*linear system"),
        (Grace, Rect(), "Plug-in rect does not fit grace, which leaves the weights alone"),
        ("ike", "rect", "Plug-in rect does not fit ike, which leaves the weights alone"),
        ("memit", Unknown(), "Unknown cannot be kept with an edit: Unknown plug-in 'unknown'"),
        ("memit", Worded(), r"'sphere' stands for Sphere\("),
        ("memit", Worded(word="b"), "cannot be kept with an edit: Unknown option .*'word'"),
        ("memit", Sphere, "given as its class"),
        ("memit", object(), "A plug-in is <object"),
    ],
)
def test_plugins_that_do_not_fit_are_refused_before_anything_is_computed(
    editor: Editor, method: Any, plugin: Any, said: str
) -> None:
    for call in (editor.edit, editor.edit_batches):
        with pytest.raises(ConfigError, match=said):
            call(FACTS, method, plugins=[plugin])
    with pytest.raises(ConfigError, match=said):
        editor.hyperparameters(method, plugins=[plugin])
    assert editor.edits == []


@dataclass(frozen=True)
class Nothing(Method):
    """Solves nothing."""

    def solve(self, problem: Problem[Any]) -> Solution:
        """See Method."""
        return Solution(Patch(), problem.state)


@pytest.mark.usefixtures("unsolved")
@pytest.mark.parametrize(
    ("method", "said"),
    [
        (replace(Memit, ridge=True), "'memit' that is given is not the one"),
        (Nothing("grace", "GRACE", "none", "none"), "'grace' that is given is not the one"),
        (replace(Grace, name="mine", installs={"mine": print}), "makes changes called 'mine'"),
        (type(Grace), "The method is <class"),
        (3, r"The method is 3 \(int\)"),
    ],
)
def test_methods_that_nobody_would_understand_are_refused(
    editor: Editor, method: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        editor.edit(FACTS, method)


@pytest.mark.filterwarnings("ignore")
def test_a_method_of_ones_own_needs_no_package(editor: Editor, tmp_path: Path) -> None:
    mine = replace(Memit, name="my-memit", title="Mine", ridge=True)
    edit = editor.edit(FACTS, mine(ridge=3.0, **QUICK))
    assert (edit.method, edit.hyperparameters["ridge"]) == ("my-memit", 3.0)
    weight = editor.handle.weight(1)
    folder = editor.save(tmp_path / "ledger")
    editor.set_edits([])
    editor.load(folder)
    assert torch.equal(editor.handle.weight(1), weight)


def test_keywords_of_easyedit(editor: Editor) -> None:
    capital = ("The capital of {} is", "France", "Madrid")
    own = Fact(*capital, truth="Paris", paraphrases=("France's capital is", "Of France, it is"))
    names = {"prompts": capital[0], "subject": capital[1], "target_new": capital[2]}
    listed = {name: [value] for name, value in names.items()}
    more = ["France's capital is", "Of France, it is"]
    calls: list[dict[str, Any]] = [
        {**names, "ground_truth": "Paris", "rephrase_prompts": more},
        {**listed, "ground_truth": ["Paris"], "rephrase_prompts": [more]},
        {**names, "ground_truth": "Paris", "rephrase_prompts": [more]},
    ]
    quick = {"energy": 0.5, **QUICK}
    for call in calls:
        assert editor.edit(**call, **quick).facts == (own,)
        editor.revert()
    (edit,) = editor.edit_batches(**names, ground_truth=None, rephrase_prompts=None, **quick)
    assert edit.facts == (Fact(*capital),)
    editor.revert()
    refused: list[tuple[dict[str, Any], Any, str]] = [
        ({**names, "locality_inputs": {}}, ConfigError, "EasyEdit.*evaluate"),
        ({**names, "keep_original_weight": True}, ConfigError, "EasyEdit.*revert"),
        ({**names, "sequential_edit": True}, ConfigError, "follow one another"),
        ({"requests": [names]}, ConfigError, "as the first argument"),
        ({**names, "verbose": True}, ConfigError, "progress="),
        ({**names, "mom2_update_weight": 3}, UnknownNameError, "called moment_weight here"),
        ({"prompts": capital[0], "target_new": "x"}, FactError, "subject"),
        ({**names, "prompt": "x {}"}, FactError, "both give prompt"),
        ({**names, "ground_truth": 3}, FactError, "ground_truth is 3"),
        ({**listed, "rephrase_prompts": more}, FactError, "2 of paraphrases"),
        ({"target_new": None}, ConfigError, "No facts are given"),
    ]
    for call, error, said in refused:
        for edit_them in (editor.edit, editor.edit_batches):
            with pytest.raises(error, match=said):
                edit_them(**call)
    with pytest.raises(ConfigError, match="Facts are given twice"):
        editor.edit_batches(FACTS, **names)
    assert editor.edits == []


def test_edits_are_shown_in_words_and_notebooks(editor: Editor) -> None:
    edit = editor.edit(FACTS, Memit(**QUICK))
    assert edit.summary().startswith(f"Edit {edit.id} by memit: 2 facts")
    assert edit.id in edit._repr_html_()
    assert "<table>" in edit._repr_html_()
    assert edit.id in editor._repr_html_()


RECORDS = [
    {
        "case_id": 1,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "subject": "France",
            "target_new": {"str": "Madrid"},
            "target_true": {"str": "Paris"},
        },
        "paraphrase_prompts": ["France's capital is"],
        "neighborhood_prompts": ["The capital of Spain is"],
    },
]


def test_evaluate(editor: Editor, tmp_path: Path) -> None:
    import json

    file = tmp_path / "records.json"
    file.write_text(json.dumps(RECORDS * 2), encoding="utf-8")
    records = alphaedit.load_records(file, limit=1)
    assert [record.subject for record in records] == ["France"]
    found = alphaedit.evaluate(editor, records)
    rate = found["efficacy"]
    assert rate is not None
    assert rate.n == 1
    assert found == editor.evaluate(file, limit=1)
    assert alphaedit.evaluate(editor.model, records, tokenizer=editor.tokenizer) == found
    for call, error, said in (
        (lambda: alphaedit.evaluate(editor, records, device="cpu"), ConfigError, "has loaded"),
        (lambda: alphaedit.evaluate(editor, []), DataError, "no records"),
        (lambda: alphaedit.load_records("world"), DataError, "Give an editor"),
        (lambda: alphaedit.load_records(3), ConfigError, "The data set is 3"),
        (lambda: alphaedit.load_records(file, limit=0), ConfigError, "limit is 0"),
        (lambda: alphaedit.load_records(file, "zsree"), UnknownNameError, "Did you mean 'zsre'"),
    ):
        with pytest.raises(error, match=said):
            call()


PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_page_has_every_name() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page[: page.index("## ")]
    for name in alphaedit.__all__:
        assert f"`{name}`" in table or f"`{name}()`" in table, name
    drawn = re.findall(r"^[│├└─ ]*(\w+)(?: {2}|$)", page[page.index("## Errors") :], re.MULTILINE)
    assert set(errors.__all__) <= set(drawn)


@pytest.mark.parametrize("page", [pytest.param("index", marks=pytest.mark.slow), "from-easyedit"])
def test_examples_of_short_pages_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.with_stem(page).read_text("utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, page, "exec"), names)
    assert names["edit"].fails == ()
    assert names["editor"].edits == []
    if page == "index":
        assert capsys.readouterr().out.endswith(" English\n")


def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    said = capsys.readouterr().out
    for words in (
        "1 of 1 hold",
        " English\n1 of 1\n0\n",
        "Did you mean 'clamp'",
        "['init', 'edit', 'edit', 'revert']",
        "['Steve Jobs']",
        "nats a token",
        "mlp.down_proj.weight 1",
    ):
        assert words in said, words
    assert names["rates"]["efficacy"].value > 50
    assert (tmp_path / "edited-model" / "config.json").is_file()


def test_modules_stay_modules() -> None:
    assert isinstance(alphaedit.methods, types.ModuleType)
    assert isinstance(alphaedit.plugins, types.ModuleType)
