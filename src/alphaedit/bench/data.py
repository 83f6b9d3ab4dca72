"""CounterFact-schema records (Meng et al. 2022)."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphaedit.core.errors import DataError
from alphaedit.core.fact import Fact

_LISTS = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")


@dataclass(frozen=True, slots=True)
class EditRecord:
    """One counterfactual with the prompts that test it.

    Attributes:
        prompt: rewrite prompt with "{}" for the subject.
        target_new: the counterfactual object.
        target_true: the true object.
        neighborhood_prompts: about other subjects for which `target_true` holds.
        attribute_prompts: about other subjects for which `target_new` holds.
    """

    case_id: str
    relation_id: str
    prompt: str
    subject: str
    target_new: str
    target_true: str
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    attribute_prompts: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()

    @property
    def fact(self) -> Fact:
        """The fact to be edited in."""
        return Fact(
            self.prompt,
            self.subject,
            self.target_new,
            truth=self.target_true,
            paraphrases=self.paraphrase_prompts,
            neighborhood=self.neighborhood_prompts,
            id=self.case_id,
        )

    @property
    def rewrite(self) -> str:
        """The rewrite prompt with its subject."""
        return self.prompt.replace("{}", self.subject, 1)

    @classmethod
    def from_dict(cls, row: Any, where: str) -> EditRecord:
        """Read one record in CounterFact's schema.

        Raises:
            DataError: a field is missing, empty or of another type; `where` names the record.
        """
        if not isinstance(row, Mapping):
            raise DataError(f"{where} is not an object.", remedy=_REMEDY)
        rewrite = row.get("requested_rewrite")
        if not isinstance(rewrite, Mapping):
            raise DataError(f"{where}: field 'requested_rewrite' is missing.", remedy=_REMEDY)

        def text(holder: Mapping[str, Any], name: str, path: str) -> str:
            value = holder.get(name)
            if not isinstance(value, str) or not value.strip():
                what = "is missing" if value is None else "is not a non-empty text"
                raise DataError(f"{where}: field {path!r} {what}.", remedy=_REMEDY)
            return value.strip()

        def target(name: str) -> str:
            holder = rewrite.get(name)
            if not isinstance(holder, Mapping):
                raise DataError(
                    f"{where}: field 'requested_rewrite.{name}' is missing.", remedy=_REMEDY
                )
            return text(holder, "str", f"requested_rewrite.{name}.str")

        prompt = text(rewrite, "prompt", "requested_rewrite.prompt")
        if prompt.count("{}") != 1:
            raise DataError(
                f"{where}: field 'requested_rewrite.prompt' needs one '{{}}' for the subject, "
                f"and is {prompt!r}.",
                remedy=_REMEDY,
            )
        lists = {}
        for name in _LISTS:
            value = row.get(name, [])
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise DataError(f"{where}: field {name!r} is not a list of texts.", remedy=_REMEDY)
            lists[name] = tuple(v.strip() for v in value)
        return cls(
            case_id=str(row.get("case_id", where)),
            relation_id=str(rewrite.get("relation_id", "")),
            prompt=prompt,
            subject=text(rewrite, "subject", "requested_rewrite.subject"),
            target_new=target("target_new"),
            target_true=target("target_true"),
            **lists,
        )


_REMEDY = "Records must follow CounterFact's schema; see `alphaedit world records` for samples."


def load_records(
    path: str | Path, limit: int | None = None, *, seed: int | None = None
) -> list[EditRecord]:
    """Records of a .json (list) or .jsonl file in CounterFact's schema.

    Args:
        limit: how many; the first ones, or a sample by `seed`.

    Raises:
        DataError: the file is missing, broken or empty, or a record is; names record and field.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.", remedy="Give a JSON or JSON Lines file.")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.", remedy="Re-encode it.") from None
    rows: list[tuple[str, Any]] = []
    if path.suffix == ".jsonl":
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                rows.append((f"{path}, line {number}", _parse(line, f"{path}, line {number}")))
    else:
        data = _parse(content, str(path))
        if not isinstance(data, list):
            raise DataError(f"{path} does not hold a list of records.", remedy=_REMEDY)
        rows = [(f"{path}, record {i}", row) for i, row in enumerate(data)]
    if not rows:
        raise DataError(f"{path} holds no records.", remedy=_REMEDY)
    if limit is not None and seed is not None and limit < len(rows):
        rows = random.Random(seed).sample(rows, limit)
    return [EditRecord.from_dict(row, where) for where, row in rows[:limit]]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}.", remedy="Mend the file.") from None
