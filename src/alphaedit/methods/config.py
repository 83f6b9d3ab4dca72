"""Hyperparameters of the editing methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, TypeVar, overload, runtime_checkable

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from alphaedit.core.errors import ConfigError, unknown_name

MOST = 2**31 - 1
"""Largest whole number."""


@runtime_checkable
class Spelled(Protocol):
    """What a text stands for, such as a plug-in."""

    @property
    def spec(self) -> str:
        """The text: "sphere:strength=0.8"."""


def as_specs(plugins: Any) -> Any:
    """Plug-ins as the texts that stand for them, wherever they are objects in a list."""
    if not isinstance(plugins, (list, tuple)):
        return plugins
    return tuple(
        plugin.spec if isinstance(plugin, Spelled) and not isinstance(plugin, type) else plugin
        for plugin in plugins
    )


TUNED = "tuned"


def tuned(by: float) -> dict[str, Any]:
    """Marks a number that `alphaedit tune` searches: `Field(..., json_schema_extra=tuned(1.5))`.

    Args:
        by: factor of one step up; a step down divides by it. Whole numbers are rounded.
    """
    return {TUNED: by}


def tuned_fields(config: type[BaseModel]) -> dict[str, float]:
    """Fields of a class of settings that are marked so, with the factor of a step."""
    marked = {}
    for name, field in config.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and isinstance(extra.get(TUNED), (int, float)):
            marked[name] = float(str(extra[TUNED]))
    return marked


class Settings(BaseModel):
    """What a method can be told, as fields of a class of its own; unknown names are refused.

    A method outside the package derives from this, or from `Hyperparameters`, and adds its fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    layers: tuple[int, ...] = Field((), description="edited layers, counted from 0")
    plugins: tuple[str, ...] = Field((), description='plug-ins, as "name:option=value"')
    project: bool = Field(False, description="the plug-in `project`, for short")

    @field_validator("plugins", mode="before")
    @classmethod
    def _as_texts(cls, plugins: Any) -> Any:
        return as_specs(plugins)

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        for name, value in self:
            if isinstance(value, int) and value > MOST:
                raise ValueError(f"{name} must be at most {MOST}")
        if len(set(self.layers)) != len(self.layers) or min(self.layers, default=0) < 0:
            raise ValueError("layers must be different and not negative")
        if list(self.layers) != sorted(self.layers):
            raise ValueError("layers must be in ascending order")
        return self


class Hyperparameters(Settings):
    """What methods that change weights have in common; unknown names are refused."""

    layers: tuple[int, ...] = Field(min_length=1, description="edited layers, counted from 0")
    steps: int = Field(25, ge=1, description="most gradient steps of the target search")
    learning_rate: float = Field(0.5, gt=0, description="Adam's rate in the target search")
    optimizer: Literal["adam", "lbfgs"] = Field(
        "adam",
        description="how the target search goes downhill: as published code does, or by "
        "quasi-Newton steps, which need no learning rate and a third as many",
    )
    weight_decay: float = Field(
        0.5, ge=0, description="times |delta| / |h|^2, as published code has it"
    )
    kl_factor: float = Field(0.0625, ge=0, description="weight of KL on '{subject} is a'")
    clamp: float = Field(0.75, gt=0, description="largest |delta| as a share of |h|")
    stop_loss: float = Field(0.05, ge=0, description="a fact below this loss is done")
    contexts: int = Field(5, ge=0, description="generated texts put before each prompt")
    end_of_text: bool = Field(
        False,
        description="targets end with the end-of-text token, so that an answer ends there too",
    )
    turns: int = Field(
        1,
        ge=1,
        description="a step of Adam's reads one part in so many of a fact's prompts, in turns",
    )
    context_tokens: int = Field(10, ge=1, description="length of each, in tokens")
    moment_weight: float = Field(
        15_000.0, ge=0, description="weight of the second moment C in the system (MEMIT's lambda)"
    )
    ridge: float = Field(10.0, ge=0, description="weight of the identity (AlphaEdit's L2)")
    ridge_share: float | None = Field(
        None,
        gt=0,
        description="in place of ridge: weight of the identity as a share of the mean squared norm "
        "of the facts' projected keys, at each layer",
    )
    conditioning: float = Field(
        1e-4, ge=0, description="added to C as a share of its mean diagonal where C is inverted"
    )
    layer_shares: Literal["even", "reach"] = Field(
        "even",
        description="how what is missing is spread over the layers: evenly (MEMIT), or more of a "
        "fact to where a change reaches further for it than for others of its batch",
    )
    threshold: float | None = Field(
        None, gt=0, description="eigenvalues of C below this span the null space"
    )
    energy: float | None = Field(
        None, gt=0, lt=1, description="share of C's trace kept out of the null space, scale-free"
    )
    search_dtype: Literal["bfloat16", "float16"] | None = Field(
        None,
        description="dtype in which the target search runs the layers behind the edited ones; by "
        "default the model's",
    )
    top1_steps: int | None = Field(
        None, ge=1, description="end a search once the target was most likely for so many steps"
    )
    kl_budget: float | None = Field(
        None,
        gt=0,
        description="most KL divergence from the unedited model on held-out text, nats a token; "
        "the system's weights are scaled up as far as that needs",
    )
    least_change: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the system's weights are scaled up as far as this share of the probability "
        "stays that the batch's targets have with the weights as they are, also in contexts",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.threshold is not None and self.energy is not None:
            raise ValueError("give either a threshold or an energy, not both")
        if self.kl_budget is not None and self.least_change is not None:
            raise ValueError("give either a kl_budget or least_change, not both")
        return self


IN_EASYEDIT = {
    "v_lr": "learning_rate",
    "v_num_grad_steps": "steps",
    "num_steps": "steps",
    "v_weight_decay": "weight_decay",
    "clamp_norm_factor": "clamp",
    "mom2_update_weight": "moment_weight",
    "L2": "ridge",
    "nullspace_threshold": "threshold",
}
"""What EasyEdit calls hyperparameters, by what they are called here."""

Kind = TypeVar("Kind", bound=BaseModel)


@overload
def build(values: Mapping[str, Any], where: str) -> Hyperparameters: ...
@overload
def build(values: Mapping[str, Any], where: str, config: type[Kind]) -> Kind: ...
def build(
    values: Mapping[str, Any], where: str, config: type[BaseModel] = Hyperparameters
) -> BaseModel:
    """A method's configuration from plain values.

    Raises:
        ConfigError: an unknown name (with the nearest known one) or a value out of range; `where`
            names the source.
    """
    known = list(config.model_fields)
    for key in values:
        if key not in known:
            error = unknown_name(f"hyperparameter in {where}", key, known)
            if IN_EASYEDIT.get(key) in known:
                error.remedy = f"EasyEdit's {key} is called {IN_EASYEDIT[key]} here."
            raise error
    try:
        return config(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "hyperparameters"
        raise ConfigError(
            f"{where}: {field}: {first['msg']}.",
            remedy=f"Known fields: {', '.join(known)}.",
        ) from None


EITHER = (("threshold", "energy"), ("ridge", "ridge_share"))


def overridden(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those of `over` in their place, and without what these stand instead of."""
    given = {name for name, value in over.items() if value is not None}
    gone = {a for pair in EITHER for a, b in (pair, pair[::-1]) if b in given and a not in given}
    return {**{name: value for name, value in values.items() if name not in gone}, **over}
