"""Codebooks and clusters against plain loops, grown or made at once, small and large."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import EXPERTS, KINDS, SENTENCES, tiny_model
from torch import Tensor

from alphaedit import Edit, Editor, Fact
from alphaedit.core.change import HookChange
from alphaedit.core.errors import AlphaEditError, ConfigError, EditFileError
from alphaedit.methods.registry import get_method
from alphaedit.methods.steps import codebook, nearest, router
from alphaedit.methods.steps.clusters import Clusters
from alphaedit.methods.steps.codebook import Balls, composed
from alphaedit.methods.steps.nearest import NEVER, Nearest, Sketch
from alphaedit.methods.zoo.grace import Codebook
from alphaedit.model.handle import ModelHandle
from alphaedit.model.mlp import mlp_of
from alphaedit.stats.phrasings import phrasings, texts_of

FRANCE = Fact("The capital of {} is", "France", "Madrid")
GRACE: dict[str, Any] = {"layers": (1,), "radius": 0.5, "steps": 30, "clamp": 20.0}
MELO: dict[str, Any] = {"layers": (1,), "radius": 0.5, "steps": 40}
PATCHER: dict[str, Any] = {"layers": (3,), "steps": 40, "quiet_weight": 30.0}


def entries(count: int, kinds: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Keys on a plane, so close that many meet; some are there twice."""
    generator = torch.Generator().manual_seed(seed)
    keys = 6 * torch.rand(count, 2, generator=generator)
    keys[count // 2] = keys[0]
    targets = torch.randint(kinds, (count, 1), generator=generator)
    targets[count // 2] = (targets[0] + 1) % kinds
    return (
        keys,
        torch.full((count,), 0.7),
        torch.cat([targets, targets.new_full((count, 1), -1)], 1),
    )


def plain_share(keys: Tensor, radii: Tensor, targets: Tensor) -> list[float]:
    found = radii.tolist()
    for i in range(len(keys)):
        nearest = found[i]
        for j in range(i):
            way = math.dist(keys[i].double(), keys[j].double())
            if (
                torch.equal(targets[i], targets[j])
                or found[j] == NEVER
                or way > found[j] + radii[i]
            ):
                continue
            if way == 0:
                found[j] = NEVER
            else:
                found[j] = min(found[j], way / 2 - 1e-5)
                nearest = min(nearest, way / 2)
        found[i] = nearest
    return found


def plain_coverage(keys: Tensor, radii: Tensor, targets: Tensor) -> list[float]:
    """The published rule."""
    found: list[float] = []
    for i in range(len(keys)):
        ways = [
            math.dist(keys[i].double(), keys[j].double()) if found[j] != NEVER else math.inf
            for j in range(i)
        ]
        near = min(range(i), key=ways.__getitem__, default=-1)
        found.append(float(radii[i]))
        if near < 0 or ways[near] > found[near] + float(radii[i]):
            continue
        if torch.equal(targets[i], targets[near]):
            found[near], found[i] = max(found[near], ways[near]), NEVER
        elif ways[near] == 0:
            found[near] = NEVER
        else:
            found[near], found[i] = ways[near] / 2 - 1e-5, ways[near] / 2
    return found


@pytest.mark.parametrize(("rule", "plain"), [("share", plain_share), ("coverage", plain_coverage)])
@pytest.mark.parametrize("seed", range(4))
def test_radii_are_those_of_a_plain_loop(rule: Any, plain: Any, seed: int) -> None:
    given = entries(120, 3, seed)
    whole, grown = Balls(rule), Balls(rule)
    whole.add(*given)
    for i in range(0, 120, 7):
        grown.add(*(part[i : i + 7] for part in given))
    wanted = torch.tensor(plain(*given))
    assert torch.equal(whole.radii, grown.radii)
    torch.testing.assert_close(whole.radii, wanted, rtol=0, atol=1e-5)
    assert (whole.radii != given[1]).any()
    assert (whole.radii == NEVER).any()


def test_blocks_of_entries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = entries(90, 3)
    whole = Balls()
    whole.add(*given)
    monkeypatch.setattr(codebook, "BLOCK", 16)
    parts = Balls()
    parts.add(*given)
    assert torch.equal(whole.radii, parts.radii)


def test_the_nearest_answers_within_its_radius() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = 40 + torch.randn(300, 24, generator=generator)
    radii = 4 + torch.rand(300, generator=generator)
    radii[::3] = NEVER
    queries = torch.cat([keys + 0.5 * torch.randn(300, 24, generator=generator), keys])
    apart = torch.cdist(queries.double(), keys.double())
    apart[:, ::3] = math.inf
    way, near = apart.min(1)
    wanted = torch.where(way <= radii[near], near, -1)
    look = Nearest(keys, radii)
    assert torch.equal(look(queries), wanted)
    assert torch.equal(torch.cat([look(row[None]) for row in queries]), wanted)
    assert 0 < int((wanted < 0).sum()) < len(wanted)


@pytest.mark.parametrize("spread", [0.02, 0.3, 3.0])
def test_a_sketch_of_wide_keys_changes_nothing(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(1)
    # As keys are: much in few directions, the rest in all of them.
    plane = torch.randn(12, 512, generator=generator)
    keys = 3 + torch.randn(900, 12, generator=generator) @ plane
    keys += spread * torch.randn(900, 512, generator=generator)
    radii = 2 * spread * 22 * torch.rand(900, generator=generator)
    radii[::5] = NEVER
    queries = torch.cat([keys[:200] + spread * torch.randn(200, 512, generator=generator), keys])
    plain = Nearest(keys, radii)
    monkeypatch.setattr(nearest, "WIDE", 1)
    quick = Nearest(keys, radii)
    assert plain._sketch is None
    assert quick._sketch is not None
    few = quick._few(queries[:1])
    assert few is not None
    assert few.shape[1] < 300
    assert quick._few(queries) is None  # for so many all are ranked
    assert torch.equal(quick(queries), plain(queries))
    for row in (*queries[:40], *keys[:10]):
        assert torch.equal(quick(row[None]), plain(row[None]))
    exact = torch.cdist(queries[:200].double(), keys.double())
    exact[:, ::5] = math.inf
    way, near = exact.min(1)
    assert torch.equal(quick(queries[:200]), torch.where(way <= radii[near], near, -1))


def test_a_sketch_never_says_too_little() -> None:
    generator = torch.Generator().manual_seed(2)
    keys = torch.randn(500, 400, generator=generator) * torch.logspace(0, -4, 400)
    sketch = Sketch(keys)
    products = sketch.of(keys).double() @ sketch.keys.double().T
    assert bool((products >= keys.double() @ keys.double().T * (1 - 1e-6)).all())


def test_ten_thousand_entries() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(10_000, 64, generator=generator)
    targets = torch.arange(10_000)[:, None] % 50
    balls = Balls()
    balls.add(keys, torch.full((10_000,), 7.0), targets)
    assert int((balls.radii < 7).sum()) > 5_000
    assert torch.equal(Nearest(balls.keys, balls.radii)(keys), torch.arange(10_000))
    clusters = Clusters()
    block = torch.arange(500)
    rows = {"key": keys[:500], "radius": torch.full((500,), 4.0), "target": targets[:500]}
    shared = {"down": torch.zeros(500, 1, 1)}
    clusters.take(HookChange("melo", block, {**rows, "block": block}, shared))
    assert torch.equal(clusters.on(torch.device("cpu"))(keys[:500]), block)


def change(key: list[float], target: int, radius: float = 1.0) -> HookChange:
    rows = {
        "key": torch.tensor([key]),
        "radius": torch.tensor([radius]),
        "target": torch.tensor([[target]]),
        "block": torch.tensor([0]),
        "value": torch.tensor([key]),
    }
    return HookChange("melo", torch.tensor([0]), rows, {"down": torch.zeros(1, 1, 1)})


def asked(changes: list[HookChange], queries: list[list[float]], **options: Any) -> list[int]:
    clusters = Clusters(**options)
    for one in changes:
        clusters.take(one)
    return clusters.on(torch.device("cpu"))(torch.tensor(queries)).tolist()


def test_clusters_join_part_and_let_points_go() -> None:
    first, same = change([0.0, 0.0], 5), change([1.6, 0.0], 5)
    # Together their centre is at 0.8, with the least radius; each point leads to its own block.
    assert asked([first, same], [[0.1, 0.0], [1.5, 0.0], [0.8, 0.9], [2.0, 0.0]]) == [0, 1, 0, -1]
    other = change([2.0, 0.0], 6)
    # Half the way to the new one is 0.6: the points at 0.8 from the centre are outside.
    near = [[0.0, 0.0], [1.6, 0.0], [2.0, 0.0]]
    assert asked([first, same, other], near, astray=False) == [-1, 2, 2]
    assert asked([first, same, other], near) == [0, 1, 2]
    # Of two with the same key the later stays.
    assert asked([first, change([0.0, 0.0], 6)], [[0.0, 0.0]]) == [1]


def test_composing_goes_on_from_where_it_stood() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    taken: list[HookChange] = []

    class Counting(Codebook):
        def take(self, one: Any) -> None:
            taken.append(one)
            super().take(one)

    changes = [change([float(i), 0.0], i) for i in range(50)]
    for count in range(1, 51):
        book = composed(handle, "test", changes[:count], Counting)
    assert len(taken) == 50
    assert len(book) == 50
    # Without the last one, or with another first one, it is made anew.
    assert len(composed(handle, "test", changes[:49], Counting)) == 49
    assert len(composed(handle, "test", changes[1:], Counting)) == 49
    assert len(taken) == 50 + 49 + 49


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    return opened(tmp_path)


def opened(tmp_path: Path, kind: str = "llama", seed: int = 0) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    cache = tmp_path / "cache"
    model = tiny_model(kind, seed=seed)
    return Editor.from_pretrained(*model, corpus=str(text), tokens=400, cache_dir=cache)


def says(editor: Editor, fact: Fact) -> bool:
    return bool(editor.ask(fact.text, 6).strip().startswith(fact.target))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["grace", "melo"])
def test_the_same_key_and_another_target(editor: Editor, name: str) -> None:
    over = GRACE if name == "grace" else MELO
    sooner = Fact(FRANCE.prompt, FRANCE.subject, "the")
    first = editor.edit(sooner, name, **over)
    later = Fact(FRANCE.prompt, FRANCE.subject, "in")
    editor.edit(later, name, **over)
    assert says(editor, later)
    editor.revert()
    assert says(editor, sooner)
    assert [edit.id for edit in editor.edits] == [first.id]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "over"), [("grace", GRACE), ("melo", MELO), ("t-patcher", PATCHER)]
)
def test_rows_of_another_model_are_refused(
    editor: Editor, tmp_path: Path, name: str, over: dict[str, Any]
) -> None:
    folder = editor.edit(FRANCE, name, **over).save(tmp_path / "edit")
    stranger = opened(tmp_path, seed=1)
    with pytest.raises(AlphaEditError, match="fingerprint"):
        stranger.apply(Edit.load(folder))
    assert stranger.edits == []
    (rows,) = editor.edits[0].patch.changes
    narrow = HookChange(
        rows.name,
        rows.owner,
        {**rows.rows, "key": rows.rows["key"][:, :-1]},
        rows.shared,
        options=rows.options,
    )
    install = get_method(name).installs[name]
    with pytest.raises(EditFileError, match="Rows 'key'"):
        install(editor.handle, [narrow])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("places", ["last", "from_last", "prompt", "all"])
@pytest.mark.parametrize("site", ["block", "projection"])
def test_values_say_the_target_wherever_they_stand(
    tmp_path: Path, kind: str, places: str, site: str
) -> None:
    editor = opened(tmp_path, kind)
    one_token = Fact(FRANCE.prompt, FRANCE.subject, " the")
    over = {**GRACE, "clamp": 60.0, "steps": 60, "replace": places, "site": site}
    edit = editor.edit(one_token, "grace", **over)
    (loss,) = edit.patch.metadata["losses"]
    assert editor.handle.rewritten == (places in ("prompt", "all"))
    p_before, p_after = edit.before[0].p_target, edit.after[0].p_target
    assert p_after > p_before
    # What was searched is what a request gives.
    assert -math.log(p_after) == pytest.approx(loss, abs=2e-3)


@pytest.mark.filterwarnings("ignore")
def test_equal_targets_widen_a_radius(editor: Editor) -> None:
    first, again = (Fact("The capital of {} is", name, "the") for name in ("France", "Italy"))
    over = {**GRACE, "radius": 50.0, "rule": "coverage", "clamp": 60.0}
    editor.edit(first, "grace", **over)
    editor.edit(again, "grace", **over)
    ((_, kept),) = editor.handle.composed.items()
    assert kept.made.radii[1] == NEVER
    assert kept.made.radii[0] >= 50.0
    editor.forget_facts([first])
    ((_, kept),) = editor.handle.composed.items()
    assert kept.made.radii.tolist() == [50.0]
    assert says(editor, again)


def test_places_that_cannot_be(editor: Editor, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Layer 3 is the last"):
        editor.edit(FRANCE, "grace", replace="prompt", radius=1.0, layers=(3,))
    routed = opened(tmp_path, "mixtral")
    for name, over in (
        ("grace", {"site": "projection", "radius": 1.0}),
        ("melo", {"radius": 1.0}),
        ("t-patcher", {}),
    ):
        with pytest.raises(ConfigError, match="mixture of experts"):
            routed.edit(FRANCE, name, layers=(1,), **over)
        assert routed.edits == []


@pytest.mark.filterwarnings("ignore")
def test_what_is_measured_is_kept_for_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {name: opened(tmp_path).hyperparameters(name) for name in ("grace", "melo")}
    assert first["grace"].radius > 0  # type: ignore[attr-defined]

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("looked again")

    monkeypatch.setattr(router, "best_block", never)
    again = {name: opened(tmp_path).hyperparameters(name) for name in ("grace", "melo")}
    assert again == first
    # Of another model, of other settings, or another way to look, nothing is kept.
    with pytest.raises(AssertionError, match="looked again"):
        opened(tmp_path, seed=1).hyperparameters("grace")
    with pytest.raises(AssertionError, match="looked again"):
        opened(tmp_path).hyperparameters("grace", layers=(1, 2))
    monkeypatch.setattr("alphaedit.locate.preset.VERSION", "next")
    with pytest.raises(AssertionError, match="looked again"):
        opened(tmp_path).hyperparameters("grace")


@pytest.mark.filterwarnings("ignore")
def test_a_neuron_that_is_never_off_is_never_silent(editor: Editor) -> None:
    def logits() -> Tensor:
        ids = torch.tensor([editor.handle.tokens.encode("Birds can sing in")])
        with torch.no_grad():
            return torch.as_tensor(editor.model(input_ids=ids).logits[0, -1])

    before = logits()
    editor.edit(FRANCE, "t-patcher", **PATCHER)
    assert says(editor, FRANCE)
    assert torch.equal(logits(), before)
    editor.revert()
    editor.edit(FRANCE, "t-patcher", off_below=None, **PATCHER)
    assert says(editor, FRANCE)
    # As published: what it adds here is small, and not nothing.
    assert not torch.equal(logits(), before)
    torch.testing.assert_close(logits(), before, rtol=0, atol=2.0)
    editor.revert()
    assert torch.equal(logits(), before)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(EXPERTS)))
def test_the_mlp_of_every_family(kind: str) -> None:
    handle = ModelHandle.load(*tiny_model(kind))
    mlp = mlp_of(handle, 1)
    assert mlp.leaves is handle.edited_module(1)
    assert mlp.enters is not mlp.leaves
    tried = torch.tensor([-3.0, 0.0, 3.0])
    low, zero, high = mlp.activation(tried).tolist()
    assert abs(low) < 0.2
    assert zero == 0
    assert high > 2.5


def test_phrasings_of_a_bundled_model_are_of_what_it_knows() -> None:
    from alphaedit.world.facts import World

    handle = ModelHandle.load("bundled-small")
    known = World.load().largest(handle.model.config.alphaedit_subjects)
    names = set(known.subjects)
    asked_of = phrasings(handle, count=20)
    assert all(any(name in one.prompt for name in names) for one in asked_of)
    assert len(texts_of(asked_of)) > 60
