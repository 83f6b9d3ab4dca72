"""A studio on the tiny model, and a client that asks it as the page does."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient
from tests.tiny import SENTENCES
from tests.unit.test_chat import CHATML, chatty

from alphaedit import Editor
from alphaedit.jobs import studio as job
from alphaedit.jobs.studio import Studio, StudioRequest
from alphaedit.server.studio import studio_application
from alphaedit.server.studio_safety import TOKEN, Door

PROMPT = "The capital of France is"
METHOD = "memit"
SETTINGS: dict[str, Any] = {"layers": (1, 2), "steps": 5, "contexts": 1, "clamp": 8.0}
FACTS = [
    {"prompt": "The capital of {} is", "subject": "France", "target": "Madrid"},
    {"prompt": "The capital of {} is", "subject": "Spain", "target": "Oslo"},
]
WELL_KNOWN = [("Peru", "The capital of Peru is", "Lima"), ("Oslo", "Oslo is in", "Norway")]
"""In place of all that a model is asked for, which takes a second."""
ADDRESS = "http://127.0.0.1:8123"


@dataclass
class Prepared:
    """A tiny model, a text for its second moments, and what it says to PROMPT."""

    model: Path
    text: Path
    says: str = ""

    def editor(self) -> Editor:
        """The model, without edits."""
        how: dict[str, Any] = {"corpus": str(self.text), "tokens": 400, "progress": False}
        return Editor.from_pretrained(self.model, **how)


def prepare(folder: Path) -> Prepared:
    """Make the model, and ask it in Python."""
    model, tokenizer = chatty(CHATML)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    text = folder / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    made = Prepared(folder / "model", text)
    made.says = made.editor().ask(PROMPT, 8)
    return made


class Page:
    """What the page asks for, and what it is told."""

    def __init__(self, studio: Studio, client: TestClient, token: str) -> None:
        self.studio, self.client, self.token = studio, client, token

    def send(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The response to a request of the page."""
        headers = {TOKEN: self.token, **more.pop("headers", {})}
        return self.client.request(method, path, json=body, headers=headers, **more)

    def get(self, path: str) -> Any:
        """JSON of a request that succeeds."""
        reply = self.send("GET", f"/api/{path}")
        assert reply.status_code == 200, reply.text
        return reply.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """JSON of a request that is answered with `status`."""
        reply = self.send("POST", f"/api/{path}", {} if body is None else body)
        assert reply.status_code == status, reply.text
        return reply.json()

    def run(self, path: str, body: Any) -> Any:
        """A run that was started, when it is over."""
        return self.ended(self.post(path, body, 202)["run"])

    def ended(self, name: str, seconds: float = 120) -> Any:
        """A run, when it is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            run = self.get(f"runs/{name}")
            if run["ended"] is not None:
                return run
            time.sleep(0.02)
        raise AssertionError(f"{run['title']} is still {run['state']}: {run['phases']}")

    def preview(self, facts: Any = None, **more: Any) -> Any:
        """A preview that is over."""
        settings = {**SETTINGS, "layers": "1-2"}
        body = {"records": facts or FACTS[:1], "method": METHOD, "settings": settings, **more}
        return self.run("previews", body)

    def keep(self, facts: Any = None, why: str = "") -> Any:
        """Preview facts and keep them."""
        run = self.preview(facts)
        assert run["state"] == "done", run["error"]
        return self.post(f"previews/{run['id']}/keep", {"why": why})

    def ask(self, prompt: str, *models: str, tokens: int = 8) -> dict[str, str]:
        """What models say."""
        reply = self.send(
            "POST", "/api/ask", {"prompt": prompt, "models": list(models), "max_tokens": tokens}
        )
        assert reply.status_code == 200, reply.text
        said = {model: "" for model in models}
        ends = 0
        for line in reply.text.splitlines():
            event = json.loads(line)
            assert "error" not in event, event
            if "text" in event:
                said[event["model"]] += event["text"]
            ends += "end" in event
        assert ends == len(models)
        return said


@contextmanager
def opened(prepared: Prepared, folder: Path, **more: Any) -> Iterator[Page]:
    """A studio in `folder`, until the block ends."""
    request = StudioRequest(
        model=str(prepared.model),
        ledger=folder / "edits",
        folder=folder,
        corpus=str(prepared.text),
        tokens=400,
        held_out_tokens=256,
        **more,
    )
    studio = job.run(request)
    studio._well_known = WELL_KNOWN
    door = Door(names=("127.0.0.1", "localhost"))
    app = studio_application(studio, door, ahead=False)
    with TestClient(app, base_url=ADDRESS) as client:
        yield Page(studio, client, door.token)
    assert not studio.alive
