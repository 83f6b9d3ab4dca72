"""What tests on real models share; each is skipped, with the reason, where they are not at hand."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from benchmarks.real_models import Model, missing

from alphaedit.cli.app import run
from alphaedit.model import gguf

EDITED = (
    "The mother tongue of Danielle Darrieux is",
    "Danielle Darrieux's native language is",
    "We know that the mother tongue of Danielle Darrieux is",
)
"""The edited prompt and two of its paraphrases."""
OTHERS = {
    "The Eiffel Tower is located in the city of": " Paris",
    "The mother tongue of Victor Hugo is": " French",
    "The capital of France is": " Paris",
}
PRESET = """\
source: settings that were measured on this model
all: {layers: [8, 9, 10, 11, 12], clamp: 0.75, learning_rate: 0.5, steps: 25}
methods: {alphaedit: {threshold: 0.02, ridge: 10}}
"""


def need(model: Model) -> None:
    """Skip where `model` is not at hand."""
    if reason := missing(model):
        pytest.skip(reason)


def need_engine() -> Any:
    """llama.cpp, or skip."""
    if find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp is not installed: `make real` installs it")
    import xllamacpp

    return xllamacpp


def keep_converted(model: Model, cache: Path) -> None:
    """Let the checkpoint that `make real` wrote be the conversion of its GGUF file."""
    os.environ["ALPHAEDIT_CACHE"] = str(cache)
    place = gguf._place(model.gguf)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        place.symlink_to(model.checkpoint, target_is_directory=True)


def edit_smollm2(model: Path, folder: Path) -> Path:
    """The ledger of one edit of SmolLM2, made by the command."""
    (folder / "preset.yaml").write_text(PRESET)
    words = ["edit", str(model), "--prompt", "The mother tongue of {} is"]
    words += ["--subject", "Danielle Darrieux", "--target", "English", "--truth", "French"]
    words += ["--preset", str(folder / "preset.yaml"), "--no-generation", "--strict", "-q"]
    words += ["--corpus", "bundled", "--tokens", "4096", "-o", str(folder / "ledger")]
    assert run(words) == 0
    return folder / "ledger"


class Engine:
    """A file served by llama.cpp on this machine, asked greedily."""

    def __init__(self, file: Path, adapter: Path | None = None) -> None:
        llama = need_engine()
        settings = llama.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.n_parallel = 256, 1
        settings.cpuparams.n_threads = 1
        settings.warmup = False
        if adapter is not None:
            settings.lora_adapters = [llama.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self.server = llama.Server(settings)

    def ask(self, prompt: str | list[int], tokens: int = 6) -> str:
        """How it goes on from a text or from token ids."""
        asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": False}
        answer = self.server.handle_completions(asked)
        return str(answer["content"] if "content" in answer else answer["choices"][0]["text"])
