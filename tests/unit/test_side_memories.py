"""Side memories: TIES, margins, masks, and what several edits make together."""

from typing import Any

import pytest
import torch
from tests.tiny import tiny_model
from tests.unit.test_fit import FACTS

from alphaedit.core.change import HookChange
from alphaedit.core.errors import EditFileError
from alphaedit.linalg.ties import largest, ties
from alphaedit.methods.steps import side
from alphaedit.methods.steps.margins import Margins, other_prompts
from alphaedit.methods.steps.rest_pass import prepare
from alphaedit.methods.steps.top_mask import permutation_of, top_masks
from alphaedit.methods.zoo.memoir import Memory
from alphaedit.methods.zoo.wise import memories
from alphaedit.model.handle import ModelHandle


def test_ties_by_hand() -> None:
    one = torch.tensor([[4.0, -3.0, 0.5, 0.0]])
    two = torch.tensor([[2.0, 5.0, 0.0, -1.0]])
    # Of each the largest three; 4 and 2 agree, 5 outvotes -3.
    assert torch.equal(ties([one, two], 0.75), torch.tensor([[3.0, 5.0, 0.5, -1.0]]))
    assert torch.equal(largest(one, 0.5), torch.tensor([[4.0, -3.0, 0.0, 0.0]]))
    assert torch.equal(ties([one], 1.0), one)


def test_bits_come_back() -> None:
    masks = torch.rand(5, 13, generator=torch.Generator().manual_seed(0)) < 0.4
    bits = side.packed(masks)
    assert (bits.dtype, tuple(bits.shape)) == (torch.uint8, (5, 2))
    assert torch.equal(side.unpacked(bits, 13), masks)


def test_margins_by_hand() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    clean = prepare(handle, FACTS, 1, contexts=("It is. ",)).clean
    others = torch.randn(7, handle.d_in(1), generator=torch.Generator().manual_seed(0))
    margins = Margins(clean, others, [], (1.0, 3.0, 2.0), unit=0.5)
    delta = 0.1 * torch.randn(handle.d_out(1), handle.d_in(1), generator=torch.Generator())
    rows = torch.cat([one.at_ends() for one in clean])
    inside = [float((delta @ row).norm()) / 0.5 for row in rows]
    outside = [float((delta @ row).norm()) / 0.5 for row in others]
    terms = [
        [out - 1.0 for out in outside],
        [3.0 - own for own in inside],
        [2.0 - own + out for own in inside for out in outside],
    ]
    wanted = 0.0
    for term in terms:
        above = [value for value in term if value > 0]
        wanted += sum(above) / len(above) if above else 0.0
    assert wanted > 0.1
    assert float(margins.loss(delta)) == pytest.approx(wanted, rel=1e-4)
    assert len(margins.bare) == len(FACTS)


def test_others_do_not_name_the_subjects() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    texts = other_prompts(handle, FACTS, 200)
    assert len(texts) > 20
    assert not any(fact.subject in text for fact in FACTS for text in texts)


def test_masks_and_their_exchange() -> None:
    features = torch.tensor([[0.1, -5.0, 2.0, 0.0], [3.0, 0.0, -0.2, 1.0]])
    plain = top_masks(features, 2, permutation_of(4, 0, permute=False))
    assert plain.tolist() == [[False, True, True, False], [True, False, False, True]]
    order = permutation_of(4, 3, permute=True)
    moved = top_masks(features, 2, order)
    assert torch.equal(moved[:, order], plain)
    assert torch.equal(order, permutation_of(4, 3, permute=True))


def memory_change(mask: list[int], delta: float, **options: Any) -> HookChange:
    masks = torch.zeros(1, 4, dtype=torch.bool)
    masks[0, mask] = True
    shared = {
        "columns": torch.tensor(mask),
        "delta": torch.full((3, len(mask)), delta),
        "mean": torch.zeros(4),
    }
    about = {"layer": 0, "k": 2, "overlap": 0.5, "seed": 0, "permute": False, **options}
    rows = {"mask": side.packed(masks)}
    return HookChange("memoir", torch.zeros(1, dtype=torch.int64), rows, shared, options=about)


def test_edits_add_up_in_shared_columns() -> None:
    changes = [memory_change([0, 1], 1.0), memory_change([1, 2], 10.0)]
    memory = Memory.of(changes, (3, 4), torch.device("cpu"))
    assert memory.matrix[0].tolist() == [1.0, 11.0, 10.0, 0.0]
    keys = torch.tensor([[[5.0, 4.0, 0.0, 0.0]], [[0.0, 4.0, 5.0, 0.0]], [[0.0, 0.0, 0.0, 9.0]]])
    prompt = torch.ones(3, 1, dtype=torch.bool)
    # The third has entry 3 and one that is 0: no overlap with the second, half with none.
    assert memory.decide(keys, prompt)[:2].tolist() == [0, 1]
    assert memory.add(keys[0], 0)[0].tolist() == [5.0 + 44.0] * 3
    # The same mask twice: the later fact counts.
    twice = Memory.of([changes[0], changes[0]], (3, 4), torch.device("cpu"))
    assert twice.decide(keys[:1], prompt[:1]).tolist() == [1]
    with pytest.raises(EditFileError, match="4 columns"):
        Memory.of(changes, (3, 5), torch.device("cpu"))


def test_memories_merge_in_groups() -> None:
    changes = []
    for number in range(3):
        mask = torch.zeros(2, 4, dtype=torch.bool)
        mask[:, number] = True
        key = torch.zeros(1, 4)
        key[0, number] = 2.0
        shared = {"mask": side.packed(mask.flatten()), "values": torch.full((2,), number + 1.0)}
        owner = torch.zeros(1, dtype=torch.int64)
        changes.append(HookChange("wise", owner, {"key": key}, shared))
    alone = memories(changes, (2, 4), 1, 0.5, 0.5)
    assert [delta[0].tolist() for delta, _ in alone] == [
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 2.0, 0.0, 0.0],
        [0.0, 0.0, 3.0, 0.0],
    ]
    assert [limit for _, limit in alone] == pytest.approx([2**0.5 * i for i in (1, 2, 3)])
    pairs = memories(changes, (2, 4), 2, 0.5, 0.5)
    assert pairs[0][0][0].tolist() == [1.0, 2.0, 0.0, 0.0]
    assert pairs[0][1] == pytest.approx(2**0.5)
    assert torch.equal(pairs[1][0], alone[2][0])
