"""What hooks and memories do and cost: where they fire, what they keep, and the time they take.

All numbers are of the edits in force. Shares are of prompts on which anything acts
(`model.acting.acted`); sizes are bytes in memory for each fact; times are in percent of those of
the same model with hooks and memories silent, measured in turns in one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from alphaedit.bench.data import EditRecord
from alphaedit.bench.intervals import Rate, mean, percent
from alphaedit.bench.metrics import Metrics
from alphaedit.core.errors import DataError
from alphaedit.core.patch import Patch
from alphaedit.core.progress import Progress, silent
from alphaedit.editor.session import Editor
from alphaedit.methods.state import SequentialState
from alphaedit.model.acting import acted
from alphaedit.model.generate import generate, generate_ids
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import plain

REQUESTS = 6
"""Prompts whose answers are timed."""
REPEATS = 3
TOKENS = 8
"""Of an answer whose time by token is measured."""


def has_routers(editor: Editor) -> bool:
    """Whether edits in force have changes besides those of weights."""
    return any(edit.patch.changes for edit in editor.edits)


def routing_metrics(
    editor: Editor,
    records: Sequence[EditRecord],
    *,
    timed: bool = True,
    progress: Progress = silent,
) -> Metrics:
    """Where routers fire, what they keep and what time they take; nothing without any.

    - fired_edits, fired_paraphrases, fired_neighbors: share of rewrite prompts, of paraphrases and
      of prompts about other things (neighborhood and locality) on which something acts.
    - bytes_per_edit, state_bytes_per_edit: see `memory_metrics`.
    - request_time, request_time_neighbors, token_time: see `time_metrics`.

    Args:
        editor: the model with its edits.
        records: what it was edited with, or a sample.
        timed: also measure times.
        progress: is told how far it is.
    """
    if not has_routers(editor):
        return {}
    handle, out = editor.handle, Metrics()
    edits, paraphrases, neighbors = prompts_of(records)
    asked = {"edits": edits, "paraphrases": paraphrases, "neighbors": neighbors}
    for number, (kind, prompts) in enumerate(asked.items()):
        progress("routing", number, len(asked))
        out[f"fired_{kind}"] = percent(acted(handle, prompts))
    progress("routing", len(asked), len(asked))
    out |= memory_metrics(editor)
    if timed:
        out |= time_metrics(handle, edits, neighbors, progress=progress)
    return out


def prompts_of(records: Sequence[EditRecord]) -> tuple[list[str], list[str], list[str]]:
    """Rewrite prompts, paraphrases, and prompts about other things."""
    # Not by the facts: what a model said, and stands as the truth, may be no text that facts take.
    edits = [t for r in records for t in (r.rewrite, *(fact.text for fact in r.more))]
    paraphrases = [prompt for record in records for prompt in record.paraphrase_prompts]
    neighbors = [prompt for record in records for prompt in record.neighborhood_prompts]
    neighbors += [p.prompt for record in records for p in record.probes if p.kind == "locality"]
    return edits, paraphrases, neighbors


def memory_metrics(editor: Editor) -> Metrics:
    """Bytes for each fact edited: of the patches in force, and of the state of the run.

    - bytes_per_edit: factors of weights, rows of hooks and memories, their texts.
    - state_bytes_per_edit: what the next batch needs besides (keys of earlier ones, contexts).
    """
    facts = sum(len(edit.facts) for edit in editor.edits)
    if not facts:
        return {}
    patches = sum(patch_bytes(edit.patch) for edit in editor.edits)
    return {
        "bytes_per_edit": _exactly(patches / facts, facts),
        "state_bytes_per_edit": _exactly(state_bytes(editor.state) / facts, facts),
    }


def patch_bytes(patch: Patch) -> int:
    """Bytes of a patch in memory: its tensors as they are stored, and its texts in UTF-8."""
    factors = sum(f.left.nbytes + f.right.nbytes for f in patch.weights.values())
    rows = sum(t.nbytes for change in patch.changes for t in change.tensors().values())
    texts = sum(len(text.encode()) for change in patch.changes for text in change.texts)
    return factors + rows + texts


def state_bytes(state: SequentialState) -> int:
    """Bytes of the state of a sequential run in memory."""
    tensors = (*state.past_keys.values(), *state.memory.values())
    return sum(t.nbytes for t in tensors) + sum(len(t.encode()) for t in state.contexts or ())


def time_metrics(
    handle: ModelHandle,
    prompts: Sequence[str],
    others: Sequence[str] = (),
    *,
    requests: int = REQUESTS,
    repeats: int = REPEATS,
    tokens: int = TOKENS,
    progress: Progress = silent,
) -> Metrics:
    """Time of requests one by one, in percent of the same with hooks and memories silent.

    - request_time: of the first token after a prompt that was edited, look-up and what a memory
      puts in front included. request_time_neighbors: after one about something else.
    - token_time: of each further token.

    Each time is the median of several, measured in turns with its counterpart, after one that does
    not count. A value is the mean of the prompts' ratios, its interval a bootstrap's over prompts.

    Args:
        handle: the model with edits in force.
        prompts: of what was edited; some of them, evenly spread, are used.
        others: of something else.
        requests: how many of each.
        repeats: how often each is timed.
        tokens: length of the answers whose tokens are timed, two at least.
        progress: is told how far it is.

    Raises:
        DataError: an impossible number.
    """
    if requests < 1 or repeats < 1 or tokens < 2:
        raise DataError(
            f"{requests} requests, {repeats} repeats and {tokens} tokens cannot be timed.",
            remedy="Give at least one request, one repeat and two tokens.",
        )
    out: Metrics = {}
    for name, asked in (("request_time", prompts), ("request_time_neighbors", others)):
        ratios = []
        for number, prompt in enumerate(_spread(asked, requests)):
            progress(name.replace("_", " "), number, min(requests, len(asked)))
            silent_now, acting = _in_turns(partial(_first_token, handle, prompt), repeats)
            ratios.append(100 * acting / silent_now)
        out[name] = mean(ratios)
    if getattr(handle, "routed", None) is None:
        out["token_time"] = mean(_token_ratios(handle, _spread(prompts, requests), repeats, tokens))
    return out


def _token_ratios(
    handle: ModelHandle, prompts: Sequence[str], repeats: int, tokens: int
) -> list[float]:
    ratios = []
    for prompt in prompts:

        def decode(count: int, prompt: str = prompt) -> int:
            """Tokens whose passes were run."""
            (row,) = [handle.tokens.encode(text) for text in handle.rendered([prompt])]
            (new,) = generate_ids(handle, [row], count)
            return min(count, len(new) + 1)

        with plain():
            steps_silent = decode(tokens)
        steps = decode(tokens)
        if min(steps, steps_silent) < 2:
            continue  # it ends at once: there is no further token
        first, first_acting = _in_turns(partial(decode, 1), repeats)
        whole, whole_acting = _in_turns(partial(decode, tokens), repeats)
        base = (whole - first) / (steps_silent - 1)
        now = (whole_acting - first_acting) / (steps - 1)
        if base > 0 and now > 0:
            ratios.append(100 * now / base)
    return ratios


def _first_token(handle: ModelHandle, prompt: str) -> object:
    return generate(handle, [prompt], 1)


def _in_turns(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds with routers silent and acting."""
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(repeats + 1):
        # Who goes first changes from turn to turn.
        for acting in (False, True) if turn % 2 else (True, False):
            context: AbstractContextManager[None] = nullcontext() if acting else plain()
            began = time.perf_counter()
            with context:
                run()
            if turn:
                spent[acting].append(time.perf_counter() - began)
    return statistics.median(spent[0]), statistics.median(spent[1])


def _spread(prompts: Sequence[str], count: int) -> list[str]:
    """At most `count` of them, evenly spread."""
    distinct = list(dict.fromkeys(prompts))
    return distinct[:: max(1, -(-len(distinct) // count))][:count]


def _exactly(value: float, n: int) -> Rate:
    return Rate(value, value, value, n)
