"""A tiny model with three ledgers, of weights, a hook and a memory, and what it says with each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny import SENTENCES
from tests.unit.test_chat import CHATML, chatty

from alphaedit import Editor, Fact
from alphaedit.jobs.serve import ServeRequest
from alphaedit.model.answering import Question
from alphaedit.model.sampling import Sampling

FACT = Fact("The capital of {} is", "France", "Madrid")
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "weights": ("memit", {"layers": (1, 2), "steps": 15, "contexts": 1, "clamp": 8.0}),
    "hook": ("grace", {"layers": (1,), "radius": 0.5, "steps": 20, "clamp": 20.0}),
    "memory": ("ike", {"demonstrations": 0, "layers": (1,)}),
}
NAMES = ("model", *MADE)
PROMPTS = (
    "The capital of France is",
    "The capital of Spain is",
    "Oslo is the capital of",
    "France",
    "Marie Curie was born in Warsaw and worked in the",
)
TOKENS = 8


@dataclass
class Prepared:
    """Where they are, and what is said: answers by model, prompt, and whether in a conversation."""

    model: Path
    ledgers: dict[str, Path]
    text: Path
    answers: dict[tuple[str, str, bool], str]

    def request(self, **more: Any) -> ServeRequest:
        """All of it, to be served."""
        return ServeRequest(**{"model": str(self.model), "ledgers": self.ledgers, **more})

    def editor(self) -> Editor:
        """The model, without edits."""
        how: dict[str, Any] = {"corpus": str(self.text), "tokens": 400, "progress": False}
        return Editor.from_pretrained(self.model, **how)


def prepare(folder: Path) -> Prepared:
    """Make the model and its ledgers, and ask them in Python."""
    model, tokenizer = chatty(CHATML)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    text = folder / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    ledgers = {name: folder / name for name in MADE}
    made = Prepared(folder / "model", ledgers, text, {})
    editor = made.editor()
    for name in NAMES:
        if name in MADE:
            method, settings = MADE[name]
            editor.edit(FACT, method, **settings)
            editor.save(ledgers[name])
        for chat in (False, True):
            for prompt in PROMPTS:
                made.answers[name, prompt, chat] = editor.ask(prompt, TOKENS, chat=chat)
        if editor.edits:
            editor.revert()
    return made


def question(prompt: str, model: str = "model", **more: Any) -> Question:
    """Greedy, and as long as what `prepare` asked for."""
    how: dict[str, Any] = {"max_tokens": TOKENS, "sampling": Sampling(), **more}
    return Question(model=model, prompt=prompt, **how)
