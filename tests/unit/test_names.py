"""Second moments over the ends of names, and methods that preserve those besides running text."""

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit.core.errors import AlphaEditWarning, FingerprintError
from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.corpus import Corpus
from alphaedit.stats.names import ends_of_names
from alphaedit.stats.second_moment import collect, packed
from alphaedit.stats.statistics import ModelStatistics

TEXTS = [
    "The mother tongue of Danielle Darrieux is French.",
    "Paris is large. In the north, Ludwig van Beethoven wrote it for the University of Bonn.",
    "nothing here has a name",
]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("The mother tongue of Danielle Darrieux is French.", ["Danielle Darrieux", "French"]),
        ("We saw Paris. London was far", ["Paris"]),
        (
            "the University of California in Los Angeles",
            ["University of California", "Los Angeles"],
        ),
        ("by Ludwig van Beethoven of Bonn, and", ["Ludwig van Beethoven of Bonn"]),
        ("it is O'Brien's house near Aix-en-Provence", ["O'Brien's", "Aix-en-Provence"]),
        ("von Émile Zola und Ærø", ["Émile Zola", "Ærø"]),
        ("a King of the", ["King"]),
        ("no names; none.", []),
        ("東京は日本の首都", []),
        ("", []),
    ],
)
def test_names_by_capital_letters(text: str, names: list[str]) -> None:
    ends = ends_of_names(text)
    assert len(ends) == len(names)
    at = 0
    for name, end in zip(names, ends, strict=True):
        at = text.index(name, at) + len(name)
        assert end == at - 1


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_tokens_that_cover_characters(kind: str) -> None:
    tokens = ModelHandle.load(*tiny_model(kind)).tokens
    text = TEXTS[1]
    ends = ends_of_names(text)
    ids, marked = tokens.encode_marked(text, ends)
    assert ids == tokens.encode(text)
    for end, token in zip(ends, marked, strict=True):
        start = end
        # The subject finder is right for all tokenizers; both must agree.
        assert token == tokens.encode_with_subject(text, (start, end + 1)).subject_last


def corpus() -> Corpus:
    return Corpus("names", "test", lambda: iter(TEXTS * 8))


def test_equals_a_plain_average_over_the_ends_of_names() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    made = collect(handle, corpus(), [0, 1], tokens=300, sequence=32, batch_tokens=96, names=True)
    seen: list[torch.Tensor] = []
    hook = handle.edited_module(1).register_forward_pre_hook(lambda m, a: seen.append(a[0][0]))
    rows, counted = list(packed(handle, corpus(), 32, names=True)), 0
    total = torch.zeros(handle.d_in(1), handle.d_in(1), dtype=torch.float64)
    tokens = 0
    for row in rows:
        if tokens >= 300:
            break
        tokens += len(row.ids)
        ids = torch.tensor([row.ids])
        handle.forward(ids, torch.ones_like(ids))
        assert row.marked is not None
        keys = seen[-1][row.marked].double()
        total += keys.T @ keys
        counted += len(keys)
    hook.remove()
    assert made[1].tokens == counted > 10
    torch.testing.assert_close(made[1].matrix.double(), total / counted, rtol=1e-5, atol=1e-7)


def test_a_mixture_of_both(tmp_path: object) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    text = ModelStatistics(handle, "general", tokens=300, cache_dir=str(tmp_path))
    text.corpus = corpus()
    mixed = text.with_names(0.25)
    assert mixed is text.with_names(0.25)
    mixed.prepare([0, 1])
    own = collect(handle, corpus(), [0, 1], tokens=300)[1].matrix
    names = collect(handle, corpus(), [0, 1], tokens=300, names=True)[1].matrix
    torch.testing.assert_close(mixed.second_moment(1), 0.75 * own + 0.25 * names)
    torch.testing.assert_close(text.second_moment(1), own)
    values = mixed.spectrum(1).values
    torch.testing.assert_close(
        values, torch.linalg.eigvalsh(mixed.second_moment(1)), atol=1e-5, rtol=1e-4
    )
    # Kept on disk under keys of their own.
    again = ModelStatistics(handle, "general", tokens=300, cache_dir=str(tmp_path))
    again.corpus = corpus()
    torch.testing.assert_close(again.with_names(0.25).second_moment(1), mixed.second_moment(1))
    torch.testing.assert_close(again.spectrum(1).values, text.spectrum(1).values)


def test_text_without_names_is_told() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    text = ModelStatistics(handle, "general", tokens=60, cache_dir=None)
    text.on_disk = False
    text.corpus = Corpus("plain", "plain", lambda: iter(["nothing here has a name"] * 50))
    with pytest.warns(AlphaEditWarning, match="no names in the text 'plain'"):
        mixed = text.with_names(0.5).second_moment(0)
    assert mixed.equal(text.second_moment(0))


def test_an_edited_model_is_not_asked() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    text = ModelStatistics(handle, "general", tokens=60, cache_dir=None)
    text.on_disk = False
    text.corpus = corpus()
    text.prepare([0, 1])
    mixed = text.with_names(0.5)
    with torch.no_grad():
        handle.edited_module(0).weight.add_(1.0)
    with pytest.raises(FingerprintError, match="has been edited"):
        mixed.prepare([1])


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor.from_pretrained("bundled-small", seed=0, progress=False)


def test_a_method_with_names(editor: Editor) -> None:
    fact = Fact("The mother tongue of {} is", "Danielle Darrieux", "English")
    made = {}
    for name, method, plugins in (
        ("history", "memit-history", ()),
        ("none", "memit-history", ("names:share=0",)),
        ("asked", "memit-history", ("names",)),
        ("own", "memit-names", ()),
    ):
        over = {"moment_weight": 33.0, "steps": 20, "plugins": plugins}
        edit = editor.edit(fact, method, **over)
        made[name] = {k: v.matrix() for k, v in edit.patch.weights.items()}
        editor.revert()
    for matrix, left in made["none"].items():
        assert left.equal(made["history"][matrix])
    for matrix, left in made["own"].items():
        assert left.equal(made["asked"][matrix])
        assert not left.allclose(made["history"][matrix], rtol=1e-3)
