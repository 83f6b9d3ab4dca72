"""What a method is: a name, a paper, and a function from facts to a Patch."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self

from torch import Tensor
from typing_extensions import TypeVar

from alphaedit.core.change import Change
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.neurons import Neurons
from alphaedit.core.patch import Patch
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.core.site import Site
from alphaedit.linalg.subspace import Spectrum
from alphaedit.methods.config import Hyperparameters, Settings, build
from alphaedit.methods.state import SequentialState
from alphaedit.methods.systems import Systems
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.corpus import Corpus

if TYPE_CHECKING:
    from alphaedit.methods.steps.target_value import Targets

Config = TypeVar("Config", bound=Settings, default=Hyperparameters)
"""Class of a method's settings."""


Install = Callable[[ModelHandle, Sequence[Change]], Callable[[], None]]
"""Brings changes of one name into force, those of all edits in their order, and gives what undoes
it. The model must then be what it was, bit for bit."""
Write = Callable[
    [ModelHandle, Corpus, Sequence[tuple[Change, Sequence[Fact]]], Progress], Mapping[int, Neurons]
]
"""Makes neurons of MLPs, by block, of changes of one name in the order of their edits, each with
its edit's facts. The corpus is ordinary text."""


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
        layers: how many layers it edits: "several" that follow one another, "one", "all", or
            "none". Where no preset knows a model, several and one are found by trial edits.
        second_moments: of the keys of the edited layers.
        null_space: a null space of them in which it solves.
        weights: it changes some; plug-ins that change what is solved or written are for it.
        target_search: it searches target values by gradient steps, so that what presets say of
            such searches is for it.
        linear_system: it solves one, so that plug-ins that change it fit.
        moment: the second moment stands in that system with a weight that may be tuned.
        ridge: the identity does.
        whole_model: all weights lie in this process.
        chat_template: the tokenizer has one.
        trained_network: one that `alphaedit train` made for the model.
    """

    layers: Literal["several", "one", "all", "none"] = "several"
    second_moments: bool = True
    null_space: bool = False
    weights: bool = True
    target_search: bool = True
    linear_system: bool = True
    moment: bool = False
    ridge: bool = False
    whole_model: bool = False
    chat_template: bool = False
    trained_network: bool = False


NO_WEIGHTS = Needs(layers="none", second_moments=False, target_search=False, linear_system=False)
"""Of methods that leave the weights alone."""


@dataclass(frozen=True)
class Problem(Generic[Config]):
    """All a method may use to compute one batch of edits.

    Attributes:
        hyperparameters: of the method's own `config`.
        statistics: of the unedited model, prepared as the method's `needs` say.
        state: what earlier batches of the run taught.
        base: fingerprint of the unedited model.
        changes: those of the edits in force that are not changes of weights, in their order.
        kl: KL divergence of the model as it is now from the unedited one on held-out text, nats a
            token; None where nobody measures it.
        targets: target values of the facts at the last layer, if they are known; else, and where
            targets are reached through a norm or factor, they are searched.
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
    base: str = ""
    changes: Sequence[Change] = ()
    kl: Callable[[], float] | None = None
    targets: Targets | None = None


@dataclass(frozen=True)
class Solution:
    """A method's answer: the patch, the state after it, and seconds by phase."""

    patch: Patch
    state: SequentialState
    seconds: Mapping[str, float] = field(default_factory=dict)


class _SignatureOfSettings:
    """What `inspect.signature`, and with it a notebook's help, shows of a method: its settings."""

    def __get__(self, method: Method | None, owner: type[Method]) -> Signature:
        if method is None:  # of the class itself it is that of its fields
            raise AttributeError("__signature__")
        fields = method.config.model_fields
        # "..." stands for what is found by looking at the model.
        known = {name: ... if f.is_required() else f.get_default() for name, f in fields.items()}
        known |= {**method.defaults, **method.always, **method.given}
        settings = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=known[name], annotation=f.annotation)
            for name, f in fields.items()
        ]
        return Signature(settings, return_annotation=type(method))


@dataclass(frozen=True)
class Method(ABC):
    """An editing method, as an object that says of itself all that others ask.

    Called with settings it gives a copy that has them: ``AlphaEdit(ridge=5.0)``.

    Attributes:
        installs: what brings its changes into force, by their name; see `Install`.
        writes: what makes weights of them, of those that can be; see `Write`.
        config: class of its settings, see `methods.config.Settings`.
        defaults: values that are other than in `config`, weaker than a preset's.
        always: values that are the method's own, stronger than a preset's and weaker than a call's.
        given: settings that this object was called with, stronger than a preset's.
        plugins: plug-ins that are part of the method, after those asked for.
        suggests: version of the way `suggest` looks at a model; what another one found, and was
            kept on disk, is not used.
    """

    name: str
    title: str
    paper: str
    summary: str
    installs: Mapping[str, Install] = field(default_factory=dict, kw_only=True)
    writes: Mapping[str, Write] = field(default_factory=dict, kw_only=True)
    config: type[Settings] = field(default=Hyperparameters, kw_only=True)
    defaults: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    always: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    given: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    plugins: tuple[str, ...] = field(default=(), kw_only=True)

    __signature__ = _SignatureOfSettings()

    def __call__(self, **settings: Any) -> Self:
        """This method with settings; those of an earlier call stay unless given anew.

        Args:
            settings: fields of `config`. Plug-ins may be objects, and are kept as texts.

        Raises:
            ConfigError: a name that is no setting of this method, an impossible value, or a plug-in
                that does not fit it.
        """
        from alphaedit.methods.given import settings_given

        given = settings_given(self, settings)
        build({"layers": (0,), **given}, f"hyperparameters of {self.name}", self.config)
        return replace(self, given=given)

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.given.items())
        return f"{self.object_name}({settings})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In notebooks: as it is written, not all that it is made of."""
        printer.text(str(self))

    @property
    def object_name(self) -> str:
        """What it is called in Python: "memit-history" is `MemitHistory`.

        Capitals inside a word are the title's: "alphaedit" is `AlphaEdit`.
        """
        titled = {word.casefold(): word for word in re.findall(r"\w+", self.title)}
        words = [titled.get(word.casefold(), word) for word in re.findall(r"\w+", self.name)]
        return "".join(w.capitalize() if w.isupper() else w[:1].upper() + w[1:] for w in words)

    suggests: int = field(default=1, kw_only=True)

    @property
    def needs(self) -> Needs:
        """What must be there before it can solve."""
        return Needs()

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings that it finds by looking at a model which no preset knows.

        Layers and the scales of a target search are not its business unless it edits no MLP
        matrices: trial edits choose them. JSON values; they are kept on disk for the next process.

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
