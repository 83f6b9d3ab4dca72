"""Editors that are trained: runs that are killed, files of others, facts that cannot be used."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.learned import untrained
from tests.tiny import tiny_model
from torch import Tensor

from alphaedit import Editor, Fact
from alphaedit.bench.sources import records_of, training_facts
from alphaedit.core.errors import (
    AlphaEditError,
    ConfigError,
    DataError,
    EditFileError,
    FingerprintError,
    NonFiniteError,
    ResourceError,
)
from alphaedit.jobs.cancel import Cancel
from alphaedit.jobs.train import TrainRequest, check_folder
from alphaedit.jobs.train import run as train
from alphaedit.methods.learned import asset
from alphaedit.methods.learned.examples import Rows, Split, chosen
from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.record import ABOUT, TENSORS, of_facts
from alphaedit.methods.learned.training import BYTES_EACH, Trainer, TrainSettings, check_memory
from alphaedit.methods.registry import get_method, methods
from alphaedit.methods.zoo.instructedit import InstructNetwork
from alphaedit.model.handle import ModelHandle
from alphaedit.model.memory import SHARE
from alphaedit.model.scoring import score

NAMES = sorted(name for name, method in methods().items() if isinstance(method, LearnedMethod))
SUBJECTS = ("France", "Spain", "Oslo", "Paris", "Berlin", "Norway", "Moscow", "Warsaw", "Madrid")
FACTS = tuple(
    Fact(
        "The capital of {} is",
        subject,
        target,
        truth="Paris",
        paraphrases=("{} has the capital", "It is known that the capital of {} is"),
        neighborhood=tuple(f"The capital of {other} is" for other in SUBJECTS if other != subject),
    )
    for subject, target in zip(SUBJECTS, (*SUBJECTS[1:], SUBJECTS[0]), strict=True)
)
QUICK: dict[str, Any] = {
    "layers": (1, 2),
    "rank": 3,
    "steps": 6,
    "every": 2,
    "batch": 3,
    "held_out": 2,
    "rate": 0.01,
}


def quick(name: str, **over: Any) -> dict[str, Any]:
    return {**QUICK, **({"sequence": 2} if name == "rledit" else {}), **over}


def kind_of(name: str) -> Any:
    method = get_method(name)
    assert isinstance(method, LearnedMethod)
    return method.network


def trainer(handle: ModelHandle, name: str = "mend", **over: Any) -> Trainer:
    method = get_method(name)
    assert isinstance(method, LearnedMethod)
    trainee = method.trainee(handle, FACTS, method.train_settings(**quick(name, **over)), 0)
    assert isinstance(trainee, Trainer)
    return trainee


@pytest.fixture(scope="module")
def handle() -> ModelHandle:
    return ModelHandle(*tiny_model("llama"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny model on disk, with facts beside it."""
    model, tokenizer = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path


def request(folder: Path, **over: Any) -> TrainRequest:
    settings = quick(over.get("method", "mend"), **over.pop("settings", {}))
    given: dict[str, Any] = {"method": "mend", "facts": FACTS, "settings": settings, **over}
    return TrainRequest(model=str(folder / "model"), out=folder / "editor", **given)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_step_is_the_numeric_one(name: str) -> None:
    """Of the whole: tokens, network, change, edited model, both losses."""
    model, tokenizer = tiny_model("gpt2")
    exact = ModelHandle(model.double(), tokenizer)
    made = trainer(exact, name, rate=1e-3)
    made.network.double()
    made.warm()
    # Away from where a new network's units stand, at the kink of their ReLU.
    generator = torch.Generator().manual_seed(7)
    for parameter in made.network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.05 * parameter.data.abs().mean().clamp_min(0.1) * noise
    made.network.begin_at(1e-3)
    if isinstance(made.network, InstructNetwork):  # which draws its words anew in training
        made.network.instruction = "The capital is a city."
    facts = list(made.split.train[:3])
    rows = Rows.drawn(facts, 2, random.Random(0))

    def loss(*, back: bool = False) -> float:
        made.network.train(back)
        proposal = made.network.propose(exact, facts)
        if not back:
            proposal = type(proposal)(proposal.changes, lambda gradients: None)
        edit, locality = made._losses(proposal, rows, facts)
        return made.settings.edit_weight * edit + made.settings.locality_weight * locality

    frozen = {n: b.clone() for n, b in made.network.named_buffers()}
    loss(back=True)
    for buffer_name, buffer in made.network.named_buffers():
        buffer.copy_(frozen[buffer_name])
    made.adam.zero_grad(set_to_none=True)
    # Statistics take the facts in, too: they stand still here.
    for module in made.network.modules():
        if hasattr(module, "update"):
            module.update = lambda x: None
    loss(back=True)
    for parameter_name, parameter in made.network.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, parameter_name
        place = int(gradient.abs().argmax())
        flat, step = parameter.data.view(-1), 1e-6 * max(1.0, float(parameter.data.abs().max()))
        flat[place] += step
        above = loss()
        flat[place] -= 2 * step
        numeric = (above - loss()) / (2 * step)
        flat[place] += step
        ours = float(gradient.view(-1)[place])
        assert ours == pytest.approx(numeric, rel=2e-4, abs=1e-9), parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(handle: ModelHandle, name: str) -> None:
    over = {
        "rate": 1e-3,
        "learning_rate": 3e-2 if name == "ke" else 3e-3,
        "edit_weight": 1.0,
        "locality_weight": 0.1,
    }
    made = trainer(handle, name, batch=7, steps=80, **over)
    made.warm()
    losses = []
    for number in range(40):
        losses.append(made.step(number).edit)
    assert sum(losses[-8:]) < 0.95 * sum(losses[:8])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(folder: Path, name: str) -> None:
    whole = train(request(folder, method=name))
    expected = load_file(folder / "editor" / TENSORS)
    shutil.rmtree(folder / "editor")
    stop = Cancel()

    def at_third(phase: str, done: int, total: int) -> None:
        if phase == "training" and done == 3:
            stop.set()

    with pytest.raises(AlphaEditError, match="cancelled"):
        train(request(folder, method=name), progress=at_third, cancel=stop)
    place = json.loads((folder / "editor/training/progress.json").read_text())
    assert place["step"] == 2
    with pytest.raises(EditFileError, match="not finished"):
        asset.read_about(folder / "editor", name)
    # With other settings it is another training.
    with pytest.raises(ConfigError, match="differs in settings"):
        train(request(folder, method=name, settings={"rank": 2}))
    again = train(request(folder, method=name))
    assert again.place.curve == whole.place.curve
    found = load_file(folder / "editor" / TENSORS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert not (folder / "editor/training").exists()
    with pytest.raises(ConfigError, match="finished"):
        train(request(folder, method=name))


def test_a_trained_editor_edits_by_its_path(folder: Path) -> None:
    found = train(request(folder))
    assert found.place.curve[0]["step"] == 0
    assert [row["step"] for row in found.place.curve] == [0, 2, 4, 6]
    assert found.to_json()["best"]["score"] == max(row["score"] for row in found.place.curve)
    editor = Editor.from_pretrained(str(folder / "model"), progress=False)
    edit = editor.edit(FACTS[0], "mend", editor=str(folder / "editor"))
    assert set(edit.patch.weights) == {editor.handle.edited_name(layer) for layer in (1, 2)}
    assert edit.hyperparameters["layers"] == [1, 2]
    about = asset.read_about(folder / "editor", "mend")
    assert edit.patch.metadata["editor"]["sha256"] == about.sha256
    assert about.data == of_facts(FACTS)
    assert "until" not in edit.hyperparameters
    # A second edit starts from the edited weights, and still knows its base.
    editor.edit(FACTS[1], "mend", editor=str(folder / "editor"))
    for wrong, said in (({"layers": (0,)}, "changes layers 1, 2"), ({"editor": "x"}, "no trained")):
        with pytest.raises(AlphaEditError, match=said):
            editor.edit(FACTS[3], "mend", **{"editor": str(folder / "editor"), **wrong})


def test_an_editor_is_used_as_it_was_trained(folder: Path) -> None:
    place = train(request(folder, settings={"until": 3.0, "tokens": "subject"}))
    assert place.place.key["settings"]["until"] == 3.0
    editor = Editor.from_pretrained(str(folder / "model"), progress=False)
    edit = editor.edit(FACTS[0], "mend", editor=str(folder / "editor"))
    assert edit.hyperparameters["until"] == 3.0
    weight = editor.handle.edited_name(1)
    # One column for each token of the subject.
    tokens = editor.handle.tokens.encode_with_subject(FACTS[0].text, FACTS[0].subject_span)
    assert edit.patch.weights[weight].rank == tokens.subject_last - tokens.subject_first + 1
    editor.set_edits([])
    plain = editor.edit(FACTS[0], "mend", editor=str(folder / "editor"), until=0)
    ratio = edit.patch.weights[weight].matrix() / plain.patch.weights[weight].matrix()
    assert float(ratio.std()) < 1e-3 * float(ratio.mean())


def test_it_ends_where_nothing_gets_better(folder: Path) -> None:
    over = {"patience": 2, "steps": 100, "every": 1, "learning_rate": 1e-12}
    found = train(request(folder, settings=over))
    assert found.place.step == found.place.best + 2 < 100


def test_editors_that_cannot_be_used(handle: ModelHandle, tmp_path: Path) -> None:
    place = untrained(handle, "mend", FACTS, tmp_path / "editor")
    other = Editor(*_parts(tiny_model("llama", seed=1)))
    with pytest.raises(FingerprintError, match="another model"):
        other.edit(FACTS[0], "mend", editor=str(place))
    assert other.edits == []
    editor = Editor(*_parts(tiny_model("llama")))
    with pytest.raises(EditFileError, match="none is here for this model"):
        editor.edit(FACTS[0], "mend")
    with pytest.raises(EditFileError, match="of method mend, not of malmen"):
        editor.edit(FACTS[0], "malmen", editor=str(place))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EditFileError, match="no trained editor"):
        editor.edit(FACTS[0], "mend", editor=str(tmp_path / "empty"))
    with pytest.raises(EditFileError, match="There is no trained editor"):
        editor.edit(FACTS[0], "mend", editor=str(tmp_path / "nowhere"))


def _parts(made: tuple[Any, Any]) -> tuple[Any, Any]:
    loaded = Editor.from_pretrained(*made, progress=False)
    return loaded.handle, loaded.statistics


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about.update(format=99), "has format 99"),
        (lambda about: about.pop("base"), "'base' is missing"),
        (lambda about: about["shape"].update(rank=9), "not as it should be"),
        (lambda about: about.update(matrices=["a.weight"]), "which this model does not have"),
        (lambda about: about.update(matrices=[]), "do not fit"),
        (lambda about: about.update(sha256="0" * 64), "not the file"),
    ],
)
def test_broken_editors(handle: ModelHandle, tmp_path: Path, change: Any, said: str) -> None:
    place = untrained(handle, "mend", FACTS, tmp_path / "editor")
    about = json.loads((place / ABOUT).read_text())
    change(about)
    (place / ABOUT).write_text(json.dumps(about))
    editor = Editor(*_parts(tiny_model("llama")))
    with pytest.raises(AlphaEditError, match=said):
        editor.edit(FACTS[0], "mend", editor=str(place))
    assert editor.edits == []


def test_numbers_that_are_none(handle: ModelHandle, tmp_path: Path) -> None:
    place = untrained(handle, "mend", FACTS, tmp_path / "editor")
    tensors: dict[str, Tensor] = load_file(place / TENSORS)
    tensors["rate"][0] = float("nan")
    save_file(tensors, place / TENSORS)
    about = json.loads((place / ABOUT).read_text())
    about["sha256"] = __import__("hashlib").sha256((place / TENSORS).read_bytes()).hexdigest()
    (place / ABOUT).write_text(json.dumps(about))
    with pytest.raises(EditFileError, match="NaN or infinity"):
        asset.load(place, asset.read_about(place, "mend"), kind_of("mend"))


def test_half_is_half_and_edits_alike(handle: ModelHandle, tmp_path: Path) -> None:
    made = trainer(handle)
    made.warm()
    made.step(0)
    method = get_method("mend")
    assert isinstance(method, LearnedMethod)
    about = {"base": handle.fingerprint(), "data": of_facts(FACTS), "facts": 9, "steps": 1}
    made.keep()
    found = {}
    for half in (False, True):
        place = tmp_path / str(half)
        method.write(made, place, about, half=half)
        network = asset.load(place, asset.read_about(place, "mend"), method.network).eval()
        left, right = network.propose(handle, FACTS[:1]).changes[1].joined()
        found[half] = left @ right
    apart = (found[True] - found[False]).norm() / found[False].norm()
    assert 0 < float(apart.detach()) < 1e-2
    sizes = [(tmp_path / str(half) / TENSORS).stat().st_size for half in (True, False)]
    assert sizes[0] < 0.75 * sizes[1]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (FACTS[:3], "about 8 subjects at least; these are about 3"),
        (tuple(Fact(f.prompt, f.subject, f.target) for f in FACTS), "9 of 9 facts have no paraphr"),
        (
            tuple(Fact(f.prompt, f.subject, f.target, paraphrases=f.paraphrases) for f in FACTS),
            "have no neighborhood",
        ),
        (
            (
                *FACTS,
                Fact("{} is", "Rome", "long " * 200, paraphrases=("{}",), neighborhood=("A",)),
            ),
            "about 'Rome' has a prompt of .* and the model reads 128",
        ),
    ],
)
def test_facts_that_cannot_be_trained_on(handle: ModelHandle, facts: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Trainer(handle, kind_of("mend"), facts, TrainSettings(**QUICK))


def test_what_blows_up_or_does_not_move_is_told(handle: ModelHandle) -> None:
    made = trainer(handle, rate=3e38)
    made.warm()
    with pytest.raises(NonFiniteError, match="blew up in step 1"):
        made.step(0)
    # A head that hears nothing: whatever is changed before it, no target gets nearer.
    model, tokenizer = tiny_model("llama")
    deaf = ModelHandle(model, tokenizer)
    model.get_output_embeddings().weight.data.zero_()
    still = trainer(deaf)
    still.warm()
    with pytest.raises(DataError, match="gradient of the training loss is zero"):
        still.step(0)


def test_a_rank_that_does_not_fit(handle: ModelHandle) -> None:
    made = trainer(handle, rank=30)
    free = 0.7 * BYTES_EACH * kind_of("mend").size(made.shape) / SHARE
    with pytest.raises(ResourceError, match=r"Give --set rank=\d+ or less") as told:
        check_memory(kind_of("mend"), made.shape, handle, free=free)
    assert told.value.remedy is not None
    rank = int(told.value.remedy.split("=")[1].split()[0])
    assert 1 <= rank < 30
    check_memory(kind_of("mend"), trainer(handle, rank=rank).shape, handle, free=free)
    with pytest.raises(ResourceError, match="fewer layers"):
        check_memory(kind_of("mend"), made.shape, handle, free=100)


def test_what_is_measured_is_not_trained_on() -> None:
    split = Split.of(FACTS, 2, 0)
    assert {f.subject for f in split.train}.isdisjoint(f.subject for f in split.held_out)
    assert len(split.train) + len(split.held_out) == len(FACTS)
    assert split.held_out


def test_all_facts_take_their_turn() -> None:
    seen = [fact for step in range(6) for fact in chosen(FACTS, step, 3, seed=0)]
    assert set(seen[:9]) == set(seen[9:]) == set(FACTS)
    assert seen[:9] != seen[9:]
    assert len(chosen(FACTS, 1, 100, seed=0)) == len(FACTS)


def test_folders_of_others(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt"):
        check_folder(tmp_path, anew=True)
    with pytest.raises(ConfigError, match="is a file"):
        check_folder(tmp_path / "notes.txt", anew=False)


def test_methods_without_training(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"memit has nothing to train.*ke, malmen, mend"):
        train(request(folder, method="memit"))
    with pytest.raises(ConfigError, match=r"Unknown hyperparameter.*'stepps'"):
        train(request(folder, settings={"stepps": 3}))
    with pytest.raises(DataError, match="for bundled models"):
        train(request(folder, facts=None))


@pytest.mark.parametrize("model", ["bundled-small", "bundled"])
def test_editors_that_come_with_the_package_edit_unseen_subjects(model: str) -> None:
    """At once, without a path; skipped where the model's weights are newer than its editor."""
    editor = Editor.from_pretrained(model, progress=False)
    found = {name: asset.read_about(place, "mend") for name, place in asset.shipped("mend").items()}
    if editor.base not in {about.base for about in found.values()}:
        pytest.skip(f"no trained editor of these weights of {model}")
    records = records_of(editor.handle, "world", 6, 0)
    seen = {fact.subject for fact in training_facts(editor.handle)}
    assert seen.isdisjoint(record.subject for record in records)
    hits = []
    for record in records:
        editor.edit(record.fact, "mend")
        new, true = score(
            editor.handle,
            [(record.rewrite, record.target_new), (record.rewrite, record.target_true)],
        )
        hits.append(new.mean_logprob > true.mean_logprob)
        editor.revert()
    assert sum(hits) >= 5 if model == "bundled" else sum(hits) >= 3
