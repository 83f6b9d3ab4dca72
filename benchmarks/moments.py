"""Second moments of five layers of a model of GPT-2-small's shape: the plain way against ours.

    python -m benchmarks.moments [--quick]

The plain way runs the whole model once for each layer over padded batches of texts, as published
code does; ours runs packed text once, up to the last of the layers. Both see the same texts.
Writes results/moments.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from torch import Tensor

from alphaedit.model.handle import ModelHandle
from alphaedit.stats.corpus import open_corpus
from alphaedit.stats.second_moment import collect
from benchmarks.gpt2_small import LAYERS, model
from benchmarks.machine import measured, write

BATCH, LONGEST = 16, 256


def batches(handle: ModelHandle, texts: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Padded batches of texts, in their order."""
    for at in range(0, len(texts), BATCH):
        yield handle.tokens.pad(texts[at : at + BATCH], "right")


@torch.no_grad()
def plain(handle: ModelHandle, texts: list[list[int]]) -> dict[int, Tensor]:
    """C of each layer, by whole passes for each."""
    found = {}
    for layer in LAYERS:
        d = handle.d_in(layer)
        total, tokens = torch.zeros(d, d), 0
        seen: list[Tensor] = []
        hook = handle.edited_module(layer).register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        for ids, mask in batches(handle, texts):
            handle.model(input_ids=ids, attention_mask=mask)
            keys = seen.pop()[mask.bool()]
            total += keys.T @ keys
            tokens += len(keys)
        hook.remove()
        found[layer] = total / tokens
    return found


def main() -> None:
    """Time both and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow model, 2,000 tokens")
    quick = parser.parse_args().quick
    budget = 2_000 if quick else 10_000
    handle = model(quick)
    corpus = open_corpus("bundled", ModelHandle.load("bundled"), seed=0, model="")
    texts: list[list[int]] = []
    for text in corpus.texts():
        texts.append(handle.tokens.encode(text)[:LONGEST])
        if sum(map(len, texts)) >= budget:
            break
    tokens = sum(map(len, texts))
    collect(handle, corpus, LAYERS, tokens=500)
    with measured() as ours:
        fast = collect(handle, corpus, LAYERS, tokens=tokens)
    with measured() as theirs:
        slow = plain(handle, texts)
    gap = max(float((fast[i].matrix - slow[i]).norm() / slow[i].norm()) for i in LAYERS)
    result = {
        "layers": LAYERS,
        "tokens": tokens,
        "texts": len(texts),
        "plain_seconds": theirs.seconds,
        "seconds": ours.seconds,
        "ratio": theirs.seconds / ours.seconds,
        "relative_difference_packing_included": gap,
        "peak_bytes": ours.peak_bytes,
    }
    print(result)
    write("moments", result, quick=quick)


if __name__ == "__main__":
    main()
