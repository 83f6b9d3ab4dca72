"""Tell what edits will take, from a model's config alone: no weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from alphaedit.core import defaults
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.opening import quiet_libraries
from alphaedit.methods.config import Hyperparameters, build
from alphaedit.methods.presets import matching, preset

if TYPE_CHECKING:
    from alphaedit.editor.plan import Lengths, Machine, Phase
    from alphaedit.model.shape import Shape


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """Edits by AlphaEdit that are thought of.

    Attributes:
        model: a directory, a .gguf file, a hub name, or a bundled model.
        facts: the facts.
        on: names of GPUs, besides this machine.
        batch_size: facts of a batch; all of them by default.
        preset: name of a preset; by default the one that fits the model.
        hyperparameters: single values in place of the preset's.
        tokens: token budget of the second moments.
        trust_remote_code: run code that comes with the model.
    """

    model: str
    facts: Sequence[Fact]
    on: Sequence[str] = ()
    batch_size: int | None = None
    preset: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """What they will take.

    Attributes:
        request: what was asked for.
        shape: of the model.
        hyperparameters: as they will be, as far as that is known.
        chosen: where the layers come from, in words.
        lengths: tokens of a row.
        plans: each machine, and the phases on it.
    """

    request: PlanRequest
    shape: Shape
    hyperparameters: Hyperparameters
    chosen: str
    lengths: Lengths
    plans: Sequence[tuple[Machine, Sequence[Phase]]]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "model": self.request.model,
            "shape": {**vars(self.shape), "dtype": str(self.shape.dtype).removeprefix("torch.")},
            "facts": len(self.request.facts),
            "layers": list(self.hyperparameters.layers),
            "layers_from": self.chosen,
            "tokens_a_row": asdict(self.lengths),
            "machines": {
                machine.name: {
                    "rate": machine.rate,
                    "memory": machine.memory,
                    "measured": machine.measured,
                    "peak": _peak(phases),
                    "fits": _peak(phases) < machine.memory,
                    "phases": [asdict(phase) for phase in phases],
                }
                for machine, phases in self.plans
            },
        }


def run(
    request: PlanRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> PlanResult:
    """Count operations and memory, and measure the rate of this machine.

    Args:
        request: what to do.
        progress: is told nothing, as this takes little.
        cancel: stops it before it begins.
        wrote: nothing is written.

    Raises:
        UnknownNameError: no such GPU or preset.
        ModelError: the config cannot be read.
    """
    from alphaedit.editor.plan import gpu, here, lengths, plan
    from alphaedit.model.load import read_tokenizer
    from alphaedit.model.shape import shape_of
    from alphaedit.model.tokens import Tokens

    machines = [gpu(name) for name in request.on]
    if cancel is not None:
        cancel.check()
    quiet_libraries()
    shape = shape_of(request.model, trust_remote_code=request.trust_remote_code)
    tokenizer = read_tokenizer(request.model, trust_remote_code=request.trust_remote_code)
    hp, chosen = _hyperparameters(request, shape)
    rows = lengths(
        Tokens(tokenizer, shape.vocabulary), request.facts, hp.contexts, hp.context_tokens
    )
    count = len(request.facts)
    sizes: dict[str, Any] = {"batch": request.batch_size, "tokens": request.tokens}
    plans = [
        (machine, plan(shape, hp, machine, facts=count, rows=rows, **sizes))
        for machine in (here(shape), *machines)
    ]
    return PlanResult(
        request=request, shape=shape, hyperparameters=hp, chosen=chosen, lengths=rows, plans=plans
    )


def _hyperparameters(request: PlanRequest, shape: Shape) -> tuple[Hyperparameters, str]:
    """As they will be, and where the layers come from: measured ones are guessed."""
    over, chosen = dict(request.hyperparameters), "given"
    if "layers" not in over:
        name = request.preset or matching(
            shape.facts, method=defaults.WEIGHTS, edits=len(request.facts)
        )
        chosen = f"preset {name}" if name else "a guess; the edit itself measures"
        middle = max(1, shape.layers // 2)
        guess = {"layers": tuple(range(max(0, middle - 5), middle))}
        over = {**(preset(name, "alphaedit") if name else guess), **over}
    return build(over, f"hyperparameters of {request.model}"), chosen


def _peak(phases: Sequence[Phase]) -> float:
    weights = next(p.memory for p in phases if p.name == "weights")
    copies = next(p.memory for p in phases if p.name == "apply")
    return float(
        weights + copies + max(p.memory for p in phases if p.name not in ("weights", "apply"))
    )
