"""A gate: at which tokens something is known of the subject that ends there, and what is added.

A token is taken for an entry's subject if its key is like the subject's in the metric in which the
keys of other text are alike in all directions: cos(C^-1 k*, k), scaled to be 1 at k* itself. What
a linear change adds a little of to every token is added wholly here, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from alphaedit.core.change import Change
from alphaedit.core.errors import EditFileError, SubspaceError
from alphaedit.core.fact import Fact
from alphaedit.linalg.solve import RomeSystem
from alphaedit.methods.steps.codebook import Rows
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import hidden_of, output_of
from alphaedit.model.route import Route, current

ALIKE = 0.7
"""How like a subject's key in a bare prompt must be to those in contexts to be put into one."""
FIRST = 0.03
"""Largest distance from a first token's key, as a share of its length, to be the same token: at
that place only rounding is between two of them."""
ROOM, HARDEST = 0.03, 0.98
"""How much more than the token that is most like it a key must be like an entry, and the most that
is ever asked.
"""
BLOCK = 1 << 26
"""Most likenesses that are held at once."""


@dataclass(frozen=True, eq=False)
class Entries:
    """Rows [m, d_in] float32 that stand for keys, whose each is [m], and if of a first token [m].

    A row is C^-1 k |k| / (k^T C^-1 k): its product with a key of length 1 is how like that is, 1
    for k itself. The first token of a text is unlike all others, whatever it is, and stands for
    itself.
    """

    rows: Tensor
    of: Tensor
    first: Tensor

    def apart_from(self, worst: Tensor, least: float) -> Entries:
        """Entries that a likeness of `least` opens, and none of the tokens that open none.

        Args:
            worst: how like each is to the token most like it of those that must not open it, [m].
        """
        own = (worst.to(self.rows) + ROOM).clamp(least, HARDEST)
        own = torch.where(self.first.to(own.device), least, own)
        return replace(self, rows=self.rows * (least / own)[:, None])

    @classmethod
    def made(
        cls, system: RomeSystem, bare: Tensor, inside: Tensor, lasts: Sequence[int]
    ) -> Entries:
        """Of subjects: the mean of the bare prompt's key (weight 1/2) and those in contexts.

        Where those are not alike, as where attention finds little in front of it, and at first
        tokens, either is an entry by itself.

        Args:
            system: of the second moment at the layer whose keys these are.
            bare: [n, d_in] float32 or float64.
            inside: [n, contexts, d_in]; there may be none.
            lasts: where the subject ends in each bare prompt.

        Raises:
            SubspaceError: a key is zero.
        """
        alone = (torch.tensor(lasts) == 0).to(bare.device)
        keys = bare.double()
        through = system.direction(keys.T).T
        rows = torch.where(alone[:, None], keys, _scaled(keys, through))
        of, no = torch.arange(len(bare), device=bare.device), torch.zeros_like(alone)
        if not inside.shape[1]:
            return cls(rows.float(), of.cpu(), alone.cpu())
        mean = inside.double().mean(1)
        through_mean = system.direction(mean.T).T
        apart = alone | ((rows * mean).sum(1) / mean.norm(dim=1) < ALIKE)
        merged = _scaled((keys + mean) / 2, (through + through_mean) / 2)
        pairs = torch.stack(
            [torch.where(apart[:, None], rows, merged), _scaled(mean, through_mean)], 1
        )
        counted = torch.stack([~no, apart], 1)
        first = torch.stack([alone, no], 1)[counted]
        return cls(pairs[counted].float(), of[:, None].expand(-1, 2)[counted].cpu(), first.cpu())


def _scaled(keys: Tensor, through: Tensor) -> Tensor:
    """The rows [n, d_in] of keys, from what C^-1 makes of them; see `Entries`."""
    scale = (keys * through).sum(1, keepdim=True)
    if not bool((scale > 0).all()):
        raise SubspaceError("A key is zero: there is nothing to tell its subject by at this layer.")
    rows: Tensor = through * keys.norm(dim=1, keepdim=True) / scale
    return rows


def same(keys: Tensor, rows: Tensor) -> Tensor:
    """Which keys [m, d_in] of first tokens are those in the rows [n, d_in], [m, n] bool."""
    near: Tensor = torch.cdist(keys.to(rows), rows) < FIRST * rows.norm(dim=1)
    return near


def likeness(keys: Tensor, rows: Tensor) -> Tensor:
    """How like keys [m, d_in] are to what the rows [n, d_in] of a gate stand for, [m, n]."""
    keys = keys.to(rows)
    alike: Tensor = (keys / keys.norm(dim=1, keepdim=True).clamp_min(1e-12)) @ rows.T
    return alike


def numbered(text: str) -> int:
    """A number for a text, the same everywhere: 63 bits of its SHA-256."""
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


class Gate:
    """Entries of all edits, composed in their order.

    All that is known of a subject is added together; of entries for the same prompt the last
    counts.
    """

    def __init__(self) -> None:
        self._keys, self._values, self._sums = Rows(), Rows(), Rows()
        self._subject: list[int] = []
        self._first: list[bool] = []
        self._numbers: dict[int, int] = {}
        self._rows: list[dict[int, tuple[int, list[int]]]] = []

    def take(self, change: Change) -> None:
        """Put the entries of one more edit behind the others."""
        start = len(self._keys)
        self._first += change.rows["first"].tolist()
        self._keys.add(change.rows["key"].clone())
        self._values.add(change.rows["value"])
        parts = [change.rows[name].tolist() for name in ("subject", "prompt")]
        entries = zip(*parts, change.owner.tolist(), strict=True)
        for row, (subject, prompt, fact) in enumerate(entries, start):
            number = self._numbers.setdefault(subject, len(self._numbers))
            if number == len(self._rows):
                self._rows.append({})
                self._sums.add(torch.zeros_like(self._values.tensor[:1]))
            known = self._rows[number]
            before, rows = known.pop(prompt, (-1, []))
            if rows and before != start + fact:
                # Nothing is like a key of zeros.
                self._keys.tensor[rows] = 0
                rows = []
            known[prompt] = (start + fact, [*rows, row])
            self._subject.append(number)
            own = [rows[0] for _, rows in known.values()]
            self._sums.tensor[number] = self._values.tensor[own].sum(0)

    def on(self, device: torch.device) -> Look:
        """How keys on a device are looked up."""
        subject, first = torch.tensor(self._subject), torch.tensor(self._first)
        keys = self._keys.tensor
        inside = (keys[~first], subject[~first])
        at_front = (keys[first], subject[first])
        parts = [part.to(device) for part in (*inside, *at_front)]
        return Look(parts[0], parts[1], parts[2], parts[3])

    def values(self, device: torch.device) -> Tensor:
        """What is added for each subject, [s, d]."""
        return self._sums.tensor.to(device)


@dataclass(frozen=True, eq=False)
class Look:
    """Rows [n, d_in] and whose they are [n], of tokens inside of texts and of first ones."""

    rows: Tensor
    subject: Tensor
    first_rows: Tensor
    first_subject: Tensor

    def inside(self, keys: Tensor, least: float) -> Tensor:
        """The number of the subject that each key [..., d_in] is most like; -1 below `least`."""
        flat = keys.reshape(-1, keys.shape[-1])
        if not len(self.rows):
            return flat.new_full((len(flat),), -1, dtype=torch.int64).view(keys.shape[:-1])
        parts = []
        for part in flat.split(max(1, BLOCK // len(self.rows))):
            like, entry = likeness(part, self.rows).max(1)
            parts.append(torch.where(like > least, self.subject[entry], -1))
        return torch.cat(parts).view(keys.shape[:-1])

    def in_request(self, keys: Tensor, route: Route, least: float) -> Tensor:
        """The same for keys [rows (*) length, d_in] of a pass; first tokens open but their own."""
        chosen = self.inside(keys, least)
        if route.ends is None:
            return chosen
        rows = torch.arange(len(route.ends), device=keys.device)
        starts = 0 * rows if route.starts is None else route.starts.to(keys.device)
        shaped = chosen.reshape(len(rows), -1).clone()
        shaped[rows, starts] = -1
        if len(self.first_rows):
            first = keys.reshape(*shaped.shape, -1)[rows, starts]
            fits = same(first, self.first_rows)
            own = self.first_subject[fits.int().argmax(1)]
            shaped[rows, starts] = torch.where(fits.any(1), own, -1)
        return shaped.view(chosen.shape)


@dataclass(frozen=True)
class Place:
    """Where a gate looks, and where what it adds goes.

    Attributes:
        look: layer whose keys are compared.
        layers: behind which values are added, or of whose matrices' outputs they are parts.
        outputs: values are added to the outputs of the edited matrices, layer by layer.
        least: how like a key must be.
    """

    look: int
    layers: tuple[int, ...]
    outputs: bool
    least: float

    @classmethod
    def of(cls, change: Change) -> Place:
        """The place that a change's options say.

        Raises:
            EditFileError: they say none.
        """
        about = change.options
        try:
            look, least = int(about["look"]), float(about["gate"])
            return cls(look, tuple(map(int, about["layers"])), bool(about["outputs"]), least)
        except (KeyError, TypeError, ValueError) as error:
            raise EditFileError(
                f"A change called {change.name!r} does not say where it acts.",
                remedy="Edit its facts again, or take the edit from a backup.",
            ) from error

    def options(self) -> dict[str, Any]:
        """As options of a change."""
        layers = list(self.layers)
        return {"look": self.look, "layers": layers, "outputs": self.outputs, "gate": self.least}

    def modules(self, handle: ModelHandle) -> list[nn.Module]:
        """The modules to whose outputs values are added, each its own part of them."""
        pick = handle.edited_module if self.outputs else handle.block
        return [pick(layer) for layer in self.layers]

    def width(self, handle: ModelHandle) -> int:
        """Of a value."""
        return sum(handle.d_out(layer) for layer in self.layers)


def gated(handle: ModelHandle, place: Place, gate: Gate) -> Callable[[], None]:
    """Add each subject's value at tokens that end it; at others nothing is touched, not a bit.

    Returns:
        What undoes it.
    """
    key, device = id(gate), handle.weight_device(place.look)
    known, values = gate.on(device), gate.values(device)
    parts = values.chunk(len(place.layers), dim=1)

    def see(module: object, args: Any, kwargs: dict[str, Any]) -> None:
        route, keys = current(), hidden_of(args, kwargs)
        if route is not None and keys is not None:
            route.decided[key] = known.in_request(keys.detach(), route, place.least)

    def adding(part: Tensor) -> Callable[..., Any]:
        def add(module: object, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
            route, states = current(), output_of(output)
            chosen = None if route is None else route.decided.get(key)
            if states is None or chosen is None or not bool((chosen >= 0).any()):
                return None
            chosen = chosen.reshape(states.shape[:-1])
            more = part[chosen.clamp_min(0)].to(states.device, handle.wide)
            fired = (chosen >= 0)[..., None].to(states.device)
            new = torch.where(fired, (states + more).to(states), states)
            return new if isinstance(output, Tensor) else (new, *output[1:])

        return add

    undo = ExitStack()
    hook = handle.edited_module(place.look).register_forward_pre_hook(see, with_kwargs=True)
    undo.callback(hook.remove)
    for module, part in zip(place.modules(handle), parts, strict=True):
        undo.callback(module.register_forward_hook(adding(part), with_kwargs=True).remove)
    before, handle.rewritten = handle.rewritten, True

    def undo_all() -> None:
        undo.close()
        handle.rewritten = before

    return undo_all


def rows_of(facts: Sequence[Fact], entries: Entries, values: Tensor) -> dict[str, Tensor]:
    """Rows of a change: what subjects are told by, what is added, and which subjects they are.

    Args:
        values: of the facts, [n, d].
    """
    subject = torch.tensor([numbered(fact.subject.casefold()) for fact in facts])
    prompt = torch.tensor([numbered(fact.text) for fact in facts])
    return {
        "key": entries.rows.cpu().contiguous(),
        "value": values.float().cpu()[entries.of].contiguous(),
        "first": entries.first,
        "subject": subject[entries.of],
        "prompt": prompt[entries.of],
    }
