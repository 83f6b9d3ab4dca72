"""What a method is: a name, a paper, and a function from facts to a Patch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol

from torch import Tensor
from typing_extensions import TypeVar

from alphaedit.core.change import Change
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.core.site import Site
from alphaedit.linalg.subspace import Spectrum
from alphaedit.methods.config import Hyperparameters, Settings
from alphaedit.methods.state import SequentialState
from alphaedit.methods.systems import Systems
from alphaedit.model.handle import ModelHandle

Config = TypeVar("Config", bound=Settings, default=Hyperparameters)
"""Class of a method's settings."""


Install = Callable[[ModelHandle, Sequence[Change]], Callable[[], None]]
"""Brings changes of one name into force, those of all edits in their order, and gives what undoes
it. The model must then be what it was, bit for bit."""


class Statistics(Protocol):
    """Where a method gets what is known of the preserved keys."""

    def second_moment(self, site: Site) -> Tensor:
        """C = E[k k^T] at a layer or expert, [d_in, d_in] float32 or float64."""

    def spectrum(self, site: Site) -> Spectrum:
        """Eigendecomposition of C at a layer or expert."""


@dataclass(frozen=True)
class Needs:
    """What a method must have before it can solve; nothing else is prepared for it.

    Attributes:
        layers: how many layers it edits: "several" that follow one another, "one", or "none".
            Where no preset knows a model, they are found by trial edits.
        second_moments: of the keys of the edited layers.
        null_space: a null space of them in which it solves.
        target_search: it searches target values by gradient steps, so that what presets say of
            such searches is for it.
        linear_system: it solves one, so that plug-ins that change it fit.
        moment: the second moment stands in that system with a weight that may be tuned.
        ridge: the identity does.
        whole_model: all weights lie in this process.
        chat_template: the tokenizer has one.
    """

    layers: Literal["several", "one", "none"] = "several"
    second_moments: bool = True
    null_space: bool = False
    target_search: bool = True
    linear_system: bool = True
    moment: bool = False
    ridge: bool = False
    whole_model: bool = False
    chat_template: bool = False


NO_WEIGHTS = Needs(layers="none", second_moments=False, target_search=False, linear_system=False)
"""Of methods that leave the weights alone."""


@dataclass(frozen=True)
class Problem(Generic[Config]):
    """All a method may use to compute one batch of edits.

    Attributes:
        hyperparameters: of the method's own `config`.
        statistics: of the unedited model, prepared as the method's `needs` say.
        state: what earlier batches of the run taught.
        changes: those of the edits in force that are not changes of weights, in their order.
    """

    handle: ModelHandle
    facts: Sequence[Fact]
    hyperparameters: Config
    statistics: Statistics
    state: SequentialState
    seed: int = 0
    progress: Progress = silent
    ranks: Ranks = ALONE
    systems: Systems = field(default_factory=Systems)
    changes: Sequence[Change] = ()


@dataclass(frozen=True)
class Solution:
    """A method's answer: the patch, the state after it, and seconds by phase."""

    patch: Patch
    state: SequentialState
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Method(ABC):
    """An editing method, as an object that says of itself all that others ask.

    Attributes:
        installs: what brings its changes into force, by their name; see `Install`.
        config: class of its settings, see `methods.config.Settings`.
        defaults: values that are other than in `config`, weaker than a preset's.
    """

    name: str
    title: str
    paper: str
    summary: str
    installs: Mapping[str, Install] = field(default_factory=dict, kw_only=True)
    config: type[Settings] = field(default=Hyperparameters, kw_only=True)
    defaults: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def needs(self) -> Needs:
        """What must be there before it can solve."""
        return Needs()

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings that it finds by looking at a model which no preset knows.

        Layers and the scales of a target search are not its business unless it edits no MLP
        matrices: trial edits choose them.

        Args:
            over: settings that are given.
        """
        return {}

    @abstractmethod
    def solve(self, problem: Problem[Any]) -> Solution:
        """Compute the patch for a batch of facts; the model is left as it was, bit for bit."""


def one_layer(problem: Problem[Any], method: str) -> int:
    """The layer of a method that edits one.

    Raises:
        ConfigError: several are given, or none.
    """
    layers: tuple[int, ...] = problem.hyperparameters.layers
    if len(layers) != 1:
        raise ConfigError(f"{method} edits one layer.", remedy="Give one layer.")
    return layers[0]
