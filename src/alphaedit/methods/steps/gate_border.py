"""Where a gate looks, how like a key must be, and which tokens must open none: measured.

Well-known subjects and texts about other things are the same whatever is about to be edited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from alphaedit.core.errors import SubjectError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.linalg.solve import RomeSystem
from alphaedit.methods.steps.gate import Entries, likeness, same
from alphaedit.methods.steps.keys import prompts_in_context
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_input, stoppable
from alphaedit.model.passes.capture import keys_at
from alphaedit.model.route import plain
from alphaedit.stats.corpus import open_corpus
from alphaedit.stats.phrasings import Phrasing, phrasings

ASKED, TEXTS, LENGTH = 200, 400, 32
"""Phrasings, texts and their length in tokens."""
TAKEN = 0.97
"""Share of the other phrasings that must be taken for what they are."""
LOWEST, HIGHEST = 0.3, 0.95
ROWS, ENTRIES = 32, 4096
"""Texts of a pass, and entries that are compared at once."""
Read = Callable[[Sequence[Sequence[int]], Sequence[int]], Mapping[int, Tensor]]
"""From rows of ids and a position in each to what is compared there, [n, d] by layer."""


@dataclass(frozen=True, eq=False)
class Others:
    """Keys at all tokens of texts that are about other things.

    Attributes:
        texts: running text, and prompts about neighbors.
        keys: [m, d_in] by layer.
        text: number of the text that each token is of, [m] int64.
        first: those that begin a text, [m] bool.
    """

    texts: Sequence[str]
    keys: dict[int, Tensor]
    text: Tensor
    first: Tensor

    @classmethod
    def of(cls, handle: ModelHandle, layers: Sequence[int]) -> Others:
        """Of the unedited model, keys of its edited matrices; kept with it for the next edit."""
        name = f"gate {' '.join(map(str, layers))}"
        if name not in handle.composed:
            modules = {layer: handle.edited_module(layer) for layer in layers}
            handle.composed[name] = cls.entering(handle, modules)
        known: Others = handle.composed[name]
        return known

    @classmethod
    def entering(cls, handle: ModelHandle, modules: Mapping[int, nn.Module]) -> Others:
        """What enters modules, one of each layer, in ascending order."""
        corpus = open_corpus("bundled" if handle.is_bundled else "general", handle)
        asked = phrasings(handle, count=ASKED)
        prompts = [prompt for phrasing in asked for prompt in phrasing.neighbors[:1]]
        every = dict.fromkeys([*islice(corpus.texts(), TEXTS), *prompts])
        longest = min(LENGTH, handle.max_positions or LENGTH)
        encoded = {text: handle.tokens.encode(text)[:longest] for text in every}
        rows = {text: row for text, row in encoded.items() if row}
        with plain():
            keys = tokens_entering(handle, list(rows.values()), modules)
        at = [(n, not place) for n, row in enumerate(rows.values()) for place in range(len(row))]
        text, first = zip(*at, strict=True)
        device = next(iter(keys.values())).device
        places = torch.tensor(text, device=device), torch.tensor(first, device=device)
        return cls(list(rows), keys, *places)

    def naming(self, subjects: Sequence[str]) -> Tensor:
        """Which tokens [m, n] bool are of texts that name which subjects."""
        named = [[subject in text for subject in subjects] for text in self.texts]
        return torch.tensor(named, dtype=torch.bool, device=self.text.device)[self.text]

    def worst(self, layer: int, entries: Entries, subjects: Sequence[str]) -> Tensor:
        """How like each entry [m] is to the token that is most like it, of texts not naming it.

        First tokens are told in another way.
        """
        parts = []
        for at in range(0, len(entries.rows), ENTRIES):
            of = entries.of[at : at + ENTRIES].tolist()
            like = likeness(self.keys[layer][~self.first], entries.rows[at : at + ENTRIES])
            parts.append(self.highest(like, [subjects[number] for number in of]))
        return torch.cat(parts)

    def highest(self, like: Tensor, subjects: Sequence[str]) -> Tensor:
        """The greatest of each column of [tokens but first ones, m], in texts not naming it."""
        about = self.naming(subjects)[~self.first]
        return like.masked_fill(about.to(like.device), -1.0).amax(0)


def measured(
    handle: ModelHandle,
    layers: Sequence[int],
    contexts: Sequence[str],
    system: Callable[[int], RomeSystem],
    *,
    progress: Progress = silent,
) -> tuple[int, float]:
    """The layer whose keys tell subjects best from all other tokens, and the likeness that does.

    Of each subject the keys are those of facts. The likeness is what all but a few of its other
    phrasings reach; the layer is the one at which fewest entries are opened by a token of another
    text or prompt.

    Args:
        layers: to choose from.
        contexts: texts in front of prompts, as facts have them.
        system: gives that of a layer's second moment.
    """
    asked = well_known(handle)
    subjects = [phrasing.subject for phrasing in asked]
    with plain():
        read = partial(keys_at, handle, layers=layers)
        own, phrased, of = keys_of_phrasings(handle, asked, contexts, read)
    progress("gate", 1, 2)
    others = Others.of(handle, layers)
    progress("gate", 2, 2)
    best = (float("inf"), 0.0, layers[0], HIGHEST)
    for layer in layers:
        entries = Entries.made(system(layer), *own[layer])
        first = entries.first
        foreign = (entries.of != of[:, None]) | first
        like = likeness(phrased[layer], entries.rows)
        like = like.masked_fill(foreign.to(like.device), -1.0).amax(1)
        least = float(like.double().quantile(1 - TAKEN).clamp(LOWEST, HIGHEST))
        worst = others.worst(layer, entries, subjects).cpu()[~first]
        taken = same(others.keys[layer][others.first], entries.rows[first]).cpu()
        about = others.naming([subjects[number] for number in entries.of[first].tolist()])
        opened = int((worst > least).sum() + (taken & ~about[others.first].cpu()).any(0).sum())
        # Of layers at which equally many are opened, the one that leaves most room.
        best = min(best, (opened, float(worst.max()) - least, layer, least))
    return best[2], round(best[3], 3)


def well_known(handle: ModelHandle) -> list[Phrasing]:
    """One phrasing for each subject, of those that name it once."""
    asked = phrasings(handle, count=ASKED)
    by_subject = {
        phrasing.subject: phrasing
        for phrasing in reversed(asked)
        if _fact(phrasing.prompt, phrasing.subject)
    }
    return [phrasing for phrasing in asked if by_subject.get(phrasing.subject) is phrasing]


def _fact(text: str, subject: str) -> Fact | None:
    """A fact that says nothing, for its subject's place; None where that is not to be told."""
    fact = Fact(text, subject, ".")
    try:
        _ = fact.subject_span
    except SubjectError:
        return None
    return fact


def keys_of_phrasings(
    handle: ModelHandle, asked: Sequence[Phrasing], contexts: Sequence[str], read: Read
) -> tuple[dict[int, tuple[Tensor, Tensor, list[int]]], dict[int, Tensor], Tensor]:
    """What `Entries.made` asks for, by layer; keys of other phrasings, too; and whose those are."""
    facts = [fact for p in asked if (fact := _fact(p.prompt, p.subject)) is not None]
    ids, lasts = prompts_in_context(handle, facts, contexts)
    each = 1 + len(contexts)
    own = {
        at: (keys[::each], keys.view(len(facts), each, -1)[:, 1:], lasts[::each])
        for at, keys in read(ids, lasts).items()
    }
    phrased = [
        (fact, number)
        for number, phrasing in enumerate(asked)
        for text in phrasing.paraphrases
        for asks in (text, f"{phrasing.neighbors[-1] if phrasing.neighbors else 'So'}. {text}")
        if (fact := _fact(asks, phrasing.subject)) is not None
    ]
    ids, lasts = prompts_in_context(handle, [fact for fact, _ in phrased], ())
    # A first token is told in another way.
    inside = torch.tensor(lasts) > 0
    of = torch.tensor([number for _, number in phrased])
    keys_of = read(ids, lasts)
    return own, {at: keys[inside.to(keys.device)] for at, keys in keys_of.items()}, of[inside]


def tokens_entering(
    handle: ModelHandle, rows: Sequence[Sequence[int]], modules: Mapping[int, nn.Module]
) -> dict[int, Tensor]:
    """What enters modules, one of each layer in ascending order, at all tokens of rows.

    Returns:
        [tokens, d] float32 by layer.
    """
    seen: dict[int, list[Tensor]] = {layer: [] for layer in modules}
    last = max(modules)
    for at in range(0, len(rows), ROWS):
        ids, mask = handle.tokens.pad(rows[at : at + ROWS], "right")
        with ExitStack() as looking:
            looking.enter_context(stoppable())
            for layer, module in modules.items():
                see = _keeper(seen[layer], mask, stop=layer == last)
                looking.enter_context(on_input(module, see))
            handle.forward(ids, mask)
    return {layer: torch.cat(parts) for layer, parts in seen.items()}


def _keeper(seen: list[Tensor], mask: Tensor, *, stop: bool) -> Callable[[Tensor], None]:
    """Keeps what enters a module at tokens that are no padding."""

    def keep(keys: Tensor) -> None:
        shaped = keys.reshape(*mask.shape, -1)
        seen.append(shaped[mask.bool().to(shaped.device)].float())
        if stop:
            raise StopForward

    return keep
