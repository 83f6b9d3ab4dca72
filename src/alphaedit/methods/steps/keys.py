"""Keys of the facts and the residual stream they give, with the weights as they are now."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from alphaedit.core.errors import AlphaEditWarning, NonFiniteError
from alphaedit.core.fact import Fact
from alphaedit.core.fact_text import short
from alphaedit.methods.base import Problem
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import capture, keys_at
from alphaedit.model.passes.layerwise_keys import LayerwiseKeys
from alphaedit.stats.statistics import ModelStatistics


def prompts_in_context(
    handle: ModelHandle, facts: Sequence[Fact], contexts: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """Every fact's bare prompt, then its prompt after each context, as ids and subject_last.

    Ids are cut after the subject's last token: nothing after it can matter to a causal model.
    """
    ids, lasts = [], []
    for fact in facts:
        start, end = fact.subject_span
        for context in ("", *contexts):
            span = (start + len(context), end + len(context))
            encoded = handle.tokens.encode_with_subject(context + fact.text, span)
            ids.append(encoded.ids[: encoded.subject_last + 1])
            lasts.append(encoded.subject_last)
    return ids, lasts


def keys_and_values(
    handle: ModelHandle,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    layer: int,
    value_layer: int,
) -> tuple[Tensor, Tensor]:
    """Keys at `layer` and hidden states leaving `value_layer`.

    The key is the mean of the bare prompt's (weight 1/2) and the mean over contexts (weight 1/2),
    as in the published implementations; hidden states are the bare prompt's.

    Returns:
        keys [d_in, u] and values [d_out, u], float32.
    """
    ids, lasts = prompts_in_context(handle, facts, contexts)
    each = 1 + len(contexts)
    bare, inside = slice(0, None, each), [i for i in range(len(ids)) if i % each]
    keys, hidden = capture(
        handle, ids[bare], lasts[bare], key_layers=[layer], hidden_layers=[value_layer]
    )
    mean = keys[layer]
    if contexts:
        in_context = keys_at(handle, [ids[i] for i in inside], [lasts[i] for i in inside], [layer])
        mean = 0.5 * mean + 0.5 * in_context[layer].view(len(facts), len(contexts), -1).mean(dim=1)
    return mean.T.contiguous(), hidden[value_layer].T.contiguous()


class BatchKeys:
    """Keys and hidden states of a batch's facts, layer by layer as the layers are edited.

    As `keys_and_values` gives them for each of `layers`, without running again what did not change.
    """

    def __init__(
        self,
        handle: ModelHandle,
        facts: Sequence[Fact],
        contexts: Sequence[str],
        layers: Sequence[int],
    ) -> None:
        ids, lasts = prompts_in_context(handle, facts, contexts)
        each = 1 + len(contexts)
        inside = [i for i in range(len(ids)) if i % each]
        first, last = layers[0], layers[-1]
        self.facts, self.contexts = facts, len(contexts)
        self.bare_keys = torch.empty(0)
        self.bare = LayerwiseKeys(handle, ids[::each], lasts[::each], first, last, hidden=True)
        self.inside: LayerwiseKeys | None = None
        if inside:
            rows, at = [ids[i] for i in inside], [lasts[i] for i in inside]
            self.inside = LayerwiseKeys(handle, rows, at, first, last)

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys [d_in, u] of `layer` and hidden states [d_out, u] that leave the last layer.

        Keys of the bare prompts alone are then in `bare_keys` [u, d_in].
        """
        keys, hidden = self.bare.keys(layer, hidden=True)
        assert hidden is not None
        self.bare_keys = keys
        if self.inside is not None:
            in_context, _ = self.inside.keys(layer)
            keys = 0.5 * keys + 0.5 * in_context.view(len(keys), self.contexts, -1).mean(dim=1)
        return keys.T.contiguous(), hidden.T.contiguous()


def tell_massive(problem: Problem, layer: int, bare: Tensor, facts: Sequence[Fact]) -> None:
    """Warn of facts whose subject has a massive activation in its bare prompt.

    Such a key is that of any first token more than that of the subject.

    Args:
        bare: keys [u, d_in] of the bare prompts.
    """
    statistics = problem.statistics
    if not isinstance(statistics, ModelStatistics) or not statistics.ready([layer]):
        return
    if statistics.sites([layer]) != [layer]:
        return
    massive = statistics.massive(layer)
    if not massive.share:
        return
    affected = (bare.float().square().sum(dim=1) > massive.limit).nonzero().flatten().tolist()
    if affected:
        names = ", ".join(short(facts[i].text) for i in affected[:3])
        warnings.warn(
            AlphaEditWarning(
                f"The subjects of {len(affected)} facts ({names}) stand where layer {layer} has a "
                "massive activation, as at the first token of a text: there the edit may not hold. "
                "Edit earlier layers, or put a word before the subject in the prompt."
            ),
            stacklevel=2,
        )


def check_finite(what: str, tensor: Tensor, facts: Sequence[Fact]) -> None:
    """Refuse non-finite keys or targets, naming the facts.

    Raises:
        NonFiniteError: `tensor` [*, u] has a column that is not finite.
    """
    bad = (~torch.isfinite(tensor)).any(dim=0).nonzero().flatten().tolist()
    if bad:
        names = ", ".join(repr(facts[i].text) for i in bad[:3])
        raise NonFiniteError(
            f"The {what} of {len(bad)} facts are not finite ({names}).",
            remedy="Check the model's weights, or edit in float32. Nothing was changed.",
        )
