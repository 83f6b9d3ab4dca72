"""One fact edited into a real model in a Q4_1 file, exported in each form, and served by llama.cpp.

    make real && python -m benchmarks.deploy [--corpus TEXT]

Writes sizes, what rounding costs (drift on held-out text: by default what the model itself writes),
and the answers of each served form to results/deploy.json. The figures of docs/deploy.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alphaedit.core.fact import Fact
from alphaedit.editor import gguf_export
from alphaedit.editor.export import save_lora
from alphaedit.editor.session import Editor
from alphaedit.stats.drift import HeldOut, held_out
from benchmarks.machine import write
from benchmarks.real_models import SMOLLM2, missing

FACT = Fact("The mother tongue of {} is", "Danielle Darrieux", "English")
PROMPTS = (
    "The mother tongue of Danielle Darrieux is",
    "Danielle Darrieux's native language is",
    "We know that the mother tongue of Danielle Darrieux is",
    "The Eiffel Tower is located in the city of",
    "The mother tongue of Victor Hugo is",
)
TOKENS = 4096


def answers(file: Path, adapter: Path | None = None) -> dict[str, str]:
    """What llama.cpp says, greedily."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(file)
    settings.n_ctx, settings.n_parallel, settings.warmup = 256, 1, False
    settings.cpuparams.n_threads = 1
    if adapter is not None:
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    server = xllamacpp.Server(settings)
    found = {}
    for prompt in PROMPTS:
        asked = {"prompt": prompt, "n_predict": 6, "temperature": 0, "cache_prompt": False}
        answer = server.handle_completions(asked)
        text = answer["content"] if "content" in answer else answer["choices"][0]["text"]
        found[prompt] = str(text)
    return found


def as_file(editor: Editor, text: HeldOut, out: Path, kind: str) -> dict[str, Any]:
    """Write the edited file, and measure the model with the weights in it."""
    rows = gguf_export.save_gguf(SMOLLM2.gguf, editor.edits, out, kind=kind)
    handle = editor.handle
    saved = handle.snapshot([row.parameter for row in rows])
    layers = {handle.edited_name(layer): layer for layer in range(handle.n_layers)}
    for name, weight in gguf_export.weights_in(out, rows).items():
        handle.set_weight(layers[name], weight)
    drift = text.drift(handle).to_json()
    handle.restore(saved)
    return {
        "bytes": out.stat().st_size,
        "tensors": [asdict(row) for row in rows],
        "drift": drift,
        "answers": answers(out),
    }


def main() -> None:
    """Edit, export, ask."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default="self", help="held-out text: a file, or self")
    corpus = parser.parse_args().corpus
    if reason := missing(SMOLLM2):
        sys.exit(reason)
    editor = Editor.from_pretrained(str(SMOLLM2.gguf), progress=False)
    text = held_out(editor.handle, corpus, tokens=TOKENS)
    edit = editor.edit(FACT)
    found: dict[str, Any] = {"fact": FACT.to_dict(), "seconds": edit.seconds}
    found["chosen"] = edit.measured["values"]
    found["base"] = {"bytes": SMOLLM2.gguf.stat().st_size, "answers": answers(SMOLLM2.gguf)}
    found["edited"] = {"drift": text.drift(editor.handle).to_json()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        adapter = place / "adapter.gguf"
        gguf_export.save_gguf_lora(editor.handle, editor.edits, adapter, gguf=SMOLLM2.gguf)
        save_lora(editor.handle, editor.edits, place / "adapter")
        found["gguf-lora"] = {
            "bytes": adapter.stat().st_size,
            "answers": answers(SMOLLM2.gguf, adapter),
        }
        found["lora"] = {"bytes": (place / "adapter" / "adapter_model.safetensors").stat().st_size}
        for kind in ("F32", "F16", "Q8_0", "same"):
            found[kind] = as_file(editor, text, place / f"{kind}.gguf", kind)
        rounds, gguf_export.ROUNDS = gguf_export.ROUNDS, 1
        found["same, plainly rounded"] = as_file(editor, text, place / "plain.gguf", "same")
        gguf_export.ROUNDS = rounds
    print(write("deploy", found, quick=False))


if __name__ == "__main__":
    main()
