"""What an experiment is: a YAML file, checked, with values overridden by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from os.path import exists
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.core.parsing import YAML_LIMIT, Broken, parse_yaml
from alphaedit.core.reading import read_text

NONE = "none"
"""The unedited model, as a method."""
WHERE_REGISTERED = "where_registered"
"""Field of a file: methods that are added to the others if there are methods of these names."""


class MethodSpec(BaseModel):
    """A method with its plug-ins and settings, under a label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    plugins: tuple[str, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict, alias="set")
    name: str | None = Field(None, alias="label")

    @property
    def label(self) -> str:
        """Name of the column or line; different in one experiment."""
        return self.name or " + ".join((self.method, *self.plugins))


class Vary(BaseModel):
    """One setting that an experiment varies: a hyperparameter, or `tokens` of second moments."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    values: tuple[Any, ...] = Field(min_length=1)


class Spec(BaseModel):
    """An experiment; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="by which it is called")
    title: str = Field(description="what it is, in a few words")
    question: str = Field(description="what it asks")
    paper: str = Field("", description="where the paper has it")
    models: tuple[str, ...] = Field(("bundled",), min_length=1)
    preset: str | None = None
    records: tuple[str, ...] = Field(
        ("world:counterfact",),
        min_length=1,
        description="data sets: world:SCHEMA, a file, or hf:NAME; with |SCHEMA to name it",
    )
    methods: tuple[MethodSpec, ...] = Field(min_length=1)
    edits: int = Field(200, ge=1, description="facts edited one batch after the other")
    batch_size: int = Field(100, ge=1)
    every: int | None = Field(None, ge=1, description="measure after every so many batches")
    at: tuple[int, ...] = Field((), description="measure once so many records are edited")
    sample: int | None = Field(
        None, ge=1, description="measure at most so many of the records edited so far"
    )
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    measures: tuple[str, ...] = Field(("edits",), min_length=1)
    final: tuple[str, ...] = Field((), description="measured at the end only")
    vary: Vary | None = None
    corpus: str | None = None
    tokens: int | None = Field(None, ge=1, description="token budget of second moments")
    ability_data: str | None = Field(None, description="directory of the published tasks")
    held_out: str | None = Field(
        None, description="corpus that drift (KL, perplexity) is measured on"
    )
    pre_check: bool = Field(
        False, description="leave out records whose new objects the unedited model says"
    )
    pictures: tuple[str, ...] = ()
    published: str | None = Field(None, description="table of published figures to show beside")

    @field_validator("methods", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if not isinstance(value, (list, tuple)):
            return value
        return tuple({"method": item} if isinstance(item, str) else item for item in value)

    @field_validator("models", "records", "measures", "final", "pictures", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("at")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(count < 1 for count in value):
            raise ValueError("counts of records are 1 or more")
        return value

    @field_validator("seeds", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value


def names() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = files("alphaedit.bench.experiments") / "configs"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[-5:] == ".yaml")


def load(source: str, over: Mapping[str, Any] | None = None) -> Spec:
    """The experiment called `source`, or in the YAML file `source`, with fields overridden.

    Raises:
        UnknownNameError: no such experiment or field.
        ConfigError: the file is missing or broken, or a value is impossible.
    """
    if source.endswith((".yaml", ".yml")):
        path = Path(source).expanduser()
        if not exists(path):
            raise ConfigError(f"There is no file {path}.", remedy="Give a YAML file or a name.")
        text = read_text(path, error=ConfigError, what="Experiment file", limit=YAML_LIMIT)
    elif source in names():
        text = (files("alphaedit.bench.experiments") / "configs" / f"{source}.yaml").read_text(
            encoding="utf-8"
        )
    else:
        raise unknown_name("experiment", source, names())
    try:
        data = parse_yaml(text)
    except Broken as error:
        where = f"{source}, line {error.line}," if error.line else source
        raise ConfigError(f"{where} is not YAML: {error.problem}.", remedy="Mend it.") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{source} holds no experiment.", remedy="See an existing one.")
    return build({**_with_registered(data, source, over or {}), **(over or {})}, source)


def _with_registered(
    data: Mapping[str, Any], where: str, over: Mapping[str, Any]
) -> dict[str, Any]:
    """A file's fields, its list of methods grown by those that are there only in places.

    Raises:
        ConfigError: such methods are no list of names and mappings.
    """
    from alphaedit.methods.registry import methods

    fields = dict(data)
    more = fields.pop(WHERE_REGISTERED, [])
    named = [{"method": entry} if isinstance(entry, str) else entry for entry in more or ()]
    if not isinstance(more, list) or not all(isinstance(entry, dict) for entry in named):
        raise ConfigError(
            f"{where}: {WHERE_REGISTERED} is no list of methods.",
            remedy="Write it as the field 'methods' is written.",
        )
    if "methods" not in over and isinstance(fields.get("methods"), list):
        there = methods()
        fields["methods"] = [
            *fields["methods"],
            *(entry for entry in named if entry.get("method") in there),
        ]
    return fields


def build(data: Mapping[str, Any], where: str) -> Spec:
    """A checked Spec.

    Raises:
        UnknownNameError: an unknown field.
        ConfigError: an impossible value, or two methods of one label; `where` names the source.
    """
    for key in data:
        if key not in Spec.model_fields:
            raise unknown_name(f"field in {where}", str(key), list(Spec.model_fields))
    try:
        spec = Spec(**data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {field}: {first['msg']}.", remedy="Correct it.") from None
    _distinct([m.label for m in spec.methods], where)
    return spec


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """`FIELD=VALUE` pairs; values are YAML.

    Raises:
        ConfigError: a pair without "=", an unknown field, or a value that is not YAML.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = (part.strip() for part in pair.partition("="))
        name = name.replace("-", "_")
        if not sign or not value:
            raise ConfigError(f"--set {pair!r} is not FIELD=VALUE.", remedy="Write edits=100.")
        if name not in Spec.model_fields:
            raise unknown_name("field of an experiment", name, list(Spec.model_fields))
        try:
            given[name] = parse_yaml(value)
        except Broken:
            raise ConfigError(
                f"--set {name}: {value[:80]!r} is not YAML.", remedy="[1, 2]?"
            ) from None
    return given


def _distinct(labels: Sequence[str], where: str) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(
                f"{where}: two methods are called {label!r}.", remedy="Give one a label."
            )
