"""Trained editors on disk: a folder with editor.safetensors and editor.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from alphaedit.core.fact import Fact

FORMAT = 1
ABOUT, TENSORS = "editor.json", "editor.safetensors"
RETRAIN = "Train one: alphaedit train {method} MODEL DATA -o EDITOR."
ANEW = "Train it again, or take it from a backup."


def of_facts(facts: Sequence[Fact]) -> str:
    """SHA-256 of facts in their order."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(json.dumps(fact.to_dict(), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
