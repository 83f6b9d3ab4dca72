"""The honest yardstick: causal tracing with one forward pass for each (noise, layer, token).

Every pass runs all layers over all tokens of one row, as the published code's inner loop does
(which batches the noises; see `batched`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alphaedit.core.fact import Fact
from alphaedit.model.handle import ModelHandle


def _first(output: Any) -> Tensor:
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, Tensor)
    return tensor


@torch.no_grad()
def plain_trace(
    handle: ModelHandle,
    fact: Fact,
    noise: Tensor,
    modules: Sequence[nn.Module],
    windows: Sequence[Sequence[int]],
    *,
    batched: bool = False,
) -> tuple[float, float, Tensor]:
    """Trace one fact.

    Args:
        handle: The model.
        fact: The fact.
        noise: [samples, subject tokens, width], added to the subject's embeddings.
        modules: Of each layer, what is restored: the block, or a part of it.
        windows: For each layer of the trace, the layers whose module is restored.
        batched: Run all noises in one pass.

    Returns:
        Clean and corrupted probability of the model's own answer, and the probability with one
        state restored, [layers, tokens from the subject's first on].
    """
    encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
    first, last = encoded.subject_first, encoded.subject_last
    ids = torch.tensor([encoded.ids], device=handle.device)
    clean: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Any) -> None:
            clean[layer] = _first(output).detach().clone().view(*ids.shape, -1)[0]

        return hook

    hooks = [m.register_forward_hook(keep(i)) for i, m in enumerate(modules)]
    logits = handle.model(input_ids=ids).logits[0, -1]
    for hook in hooks:
        hook.remove()
    answer = int(logits.argmax())

    def run(part: Tensor, layers: Sequence[int], place: int) -> Tensor:
        """Probability of the answer for each noise of `part`, with `layers` restored."""

        def corrupt(module: nn.Module, args: object, output: Tensor) -> Tensor:
            output = output.clone()
            output[:, first : last + 1] += part.to(output)
            return output

        def restore(layer: int) -> Callable[..., Any]:
            def hook(module: nn.Module, args: object, output: Any) -> Any:
                tensor = _first(output).clone()
                tensor.view(len(part), ids.shape[1], -1)[:, place] = clean[layer][place]
                return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

            return hook

        hooks = [handle.embed.register_forward_hook(corrupt)]
        hooks += [modules[layer].register_forward_hook(restore(layer)) for layer in layers]
        try:
            out = handle.model(input_ids=ids.expand(len(part), -1)).logits[:, -1]
        finally:
            for hook in hooks:
                hook.remove()
        return out.to(handle.wide).softmax(-1)[:, answer]

    parts = [noise] if batched else list(noise.split(1))
    corrupted = torch.cat([run(part, [], first) for part in parts]).mean()
    places = range(first, len(encoded.ids))
    restored = torch.zeros(len(windows), len(places), dtype=torch.float64)
    for number, layers in enumerate(windows):
        for i, place in enumerate(places):
            restored[number, i] = torch.cat([run(part, layers, place) for part in parts]).mean()
    return float(logits.to(handle.wide).softmax(-1)[answer]), float(corrupted), restored
