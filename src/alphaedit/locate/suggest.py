"""Which layers to edit: a stretch by depth, or by a causal trace."""

from __future__ import annotations

from alphaedit.core.errors import ConfigError, DataError
from alphaedit.locate.trace import LAST, LAST_SUBJECT, Trace

READ = 0.8
"""A layer is early enough if this share of the strongest effect still comes after it."""
ARRIVED = 0.2
"""A layer is too late if more than this share of the strongest effect is at the last token."""
MOST_LAYERS = 5


def window(last: int, n_layers: int) -> tuple[int, ...]:
    """Layers to edit: a stretch that ends at `last`, 2 to 5 long by the depth of the model."""
    length = min(5, max(2, round(0.12 * n_layers) + 2))
    return tuple(range(max(0, last - length + 1), last + 1))


def suggest_layers(traced: Trace) -> tuple[int, ...]:
    """Layers to edit, from a trace of hidden states: a stretch of at most five.

    It ends at the last layer at which the effect at the subject's last token is still high, and
    that at the prompt's last token is still low: what has been read from the subject by then, no
    later edit of it changes. It goes back as long as the former stays high.

    Raises:
        ConfigError: other states than hidden ones were traced.
        DataError: the trace shows no such layer.
    """
    if traced.kind != "hidden":
        raise ConfigError(
            f"Layers are suggested from a trace of hidden states, not of {traced.kind}.",
            remedy="Trace kind 'hidden'.",
        )
    effect = traced.indirect_effect.nan_to_num(0.0)
    subject, last = effect[LAST_SUBJECT], effect[LAST]
    high = subject >= READ * subject.max()
    early = last <= ARRIVED * last.max()
    candidates = (high & early).nonzero()[:, 0].tolist()
    if not subject.max() > 0 or not last.max() > 0 or not candidates:
        raise DataError(
            "The trace shows no layer at which the answer is still at the subject's last token.",
            remedy="Trace more facts, such as the model knows, with prompts that go on after the "
            "subject.",
        )
    stretch = [candidates[-1]]
    while stretch[0] > 0 and bool(high[stretch[0] - 1]) and len(stretch) < MOST_LAYERS:
        stretch.insert(0, stretch[0] - 1)
    return tuple(stretch)
