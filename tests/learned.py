"""Trained editors for tests: new networks, whose statistics are of a few facts."""

from collections.abc import Sequence
from pathlib import Path

import torch

from alphaedit import Fact
from alphaedit.methods.learned import asset
from alphaedit.methods.learned.editor import EditorShape
from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.record import of_facts
from alphaedit.methods.registry import get_method
from alphaedit.model.handle import ModelHandle


def untrained(
    handle: ModelHandle,
    name: str,
    facts: Sequence[Fact],
    folder: Path,
    *,
    layers: Sequence[int] = (1,),
    rate: float = 1e-2,
) -> Path:
    """A new editor of method `name` in a folder: the identity, which edits by bare gradients."""
    method = get_method(name)
    assert isinstance(method, LearnedMethod)
    shape = EditorShape.of(handle, layers, rank=4, blocks=2, rate=rate, floor=0.05)
    network = method.network(shape, torch.Generator().manual_seed(0))
    network.warm(handle, facts)
    about = {
        "method": name,
        "base": handle.fingerprint(),
        "matrices": [handle.edited_name(layer) for layer in layers],
        "data": of_facts(facts),
        "facts": len(facts),
        "steps": 0,
    }
    return asset.write(folder, network, shape, about)
