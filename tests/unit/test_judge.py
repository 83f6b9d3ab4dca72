"""Judges of free answers, against a server of our own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from tests.tiny import save_tiny, tiny_model

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.judge import EndpointJudge, LocalJudge, judged_metrics, open_judge
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.model.handle import ModelHandle


class Server(HTTPServer):
    """Replies with what is queued, then with `say`."""

    queue: list[int]
    say: str
    asked: list[dict[str, Any]]
    keys: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.asked.append(json.loads(self.rfile.read(length)))
        self.server.keys.append(self.headers.get("Authorization"))
        code = self.server.queue.pop(0) if self.server.queue else 200
        content = self.server.say if "Oslo" in str(self.server.asked[-1]) else "No."
        body = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.send_response(code if self.path == "/v1/chat/completions" else 404)
        self.end_headers()
        self.wfile.write(body if code == 200 else b"{}")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.queue, made.say, made.asked, made.keys = [], "Yes", [], []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def judge_at(server: Server, **options: Any) -> EndpointJudge:
    return EndpointJudge(f"http://127.0.0.1:{server.server_port}/v1/", "m", wait=0.0, **options)


def test_it_is_asked_and_understood(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_JUDGE_KEY", "secret")
    judge = judge_at(server)
    assert judge.agrees("The capital is", "Oslo", "Oslo, of course")
    assert not judge.agrees("The capital is", "Rome", "who knows")
    request = server.asked[0]
    assert request["temperature"] == 0
    assert request["model"] == "m"
    assert "Oslo, of course" in request["messages"][0]["content"]
    assert server.keys[0] == "Bearer secret"
    assert "secret" not in repr(judge)


def test_it_is_asked_again_when_busy(server: Server) -> None:
    server.queue = [500, 429, 503]
    assert judge_at(server).agrees("p", "Oslo", "s")
    assert len(server.asked) == 4
    server.queue = [500] * 4
    with pytest.raises(ResourceError, match="HTTP 500"):
        judge_at(server).agrees("p", "Oslo", "s")


def test_a_refusal_is_final(server: Server) -> None:
    server.queue = [401]
    with pytest.raises(ResourceError, match="HTTP 401") as caught:
        judge_at(server).agrees("p", "Oslo", "s")
    assert "ALPHAEDIT_JUDGE_KEY" in str(caught.value.remedy)
    assert len(server.asked) == 1
    server.say = "Perhaps"
    with pytest.raises(ResourceError, match="neither yes nor no"):
        judge_at(server).agrees("p", "Oslo", "s")


def test_nobody_there() -> None:
    judge = EndpointJudge("http://127.0.0.1:9", "m", tries=2, wait=0.0, timeout=2)
    with pytest.raises(ResourceError, match="does not answer"):
        judge.agrees("p", "a", "s")


def test_metrics(server: Server) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    probe = Probe("portability", "Reasoning", "Norway's capital is", ("Rome", "Oslo"))
    records = [
        EditRecord("0", "", "The capital of {} is", "France", "Oslo", "Paris", probes=(probe,)),
        EditRecord("1", "", "The capital of {} is", "Spain", "Madrid", "Paris"),
    ]
    found = judged_metrics(handle, records, judge_at(server))
    assert found["edit_success_judge"] is not None
    assert found["edit_success_judge"].value == 50
    assert found["generalization_judge"] is None
    assert found["portability_judge"] is not None
    assert found["portability_judge"].value == 100


def test_a_model_as_judge(tmp_path: Any) -> None:
    handle = ModelHandle.load(*tiny_model("llama", max_position_embeddings=512))
    judge = LocalJudge(handle)
    assert judge.agrees("p", "a", "s") == judge.agrees("p", "a", "s")
    opened = open_judge(str(save_tiny("llama", tmp_path / "model")))
    assert isinstance(opened, LocalJudge)
    assert isinstance(open_judge("https://x/v1", "m"), EndpointJudge)
    with pytest.raises(ConfigError, match="address"):
        open_judge("https://x/v1")
