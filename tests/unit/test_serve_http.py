"""The endpoint: the official client, plain HTTP, what is refused, many clients at once, the end."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from tests.served import NAMES, PROMPTS, TOKENS, Prepared, prepare

import alphaedit.server
from alphaedit.cli.app import run
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.jobs import serve as job
from alphaedit.jobs.serve import Service
from alphaedit.ledger.ledger import Ledger
from alphaedit.server import app as routes
from alphaedit.server.app import Limits
from alphaedit.server.listening import Server, address_of, bound

JSON = {"Content-Type": "application/json"}
ASK = {"model": "model", "prompt": PROMPTS[0], "temperature": 0, "max_tokens": TOKENS}


OPEN = Limits()


class Running:
    """A server in a thread of its own."""

    def __init__(self, service: Service, limits: Limits = OPEN, grace: float = 5) -> None:
        self.service = service
        self.listener = bound("127.0.0.1", 0, key=limits.key)
        self.port = self.listener.getsockname()[1]
        self.url = address_of(self.listener)
        self.server = Server(service, limits, grace=grace)
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True
        )
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, **more)

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        connection.request(method, path, data, JSON if headers is None else headers)
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        kind = reply.headers.get("content-type", "")
        return reply.status, dict(reply.headers), json.loads(text) if "json" in kind else text

    def close(self) -> None:
        self.server.end()
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.listener.close()
        assert not self.service.alive


@contextmanager
def running(service: Service, **more: Any) -> Iterator[Running]:
    made = Running(service, **more)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("http"))


@pytest.fixture(scope="module")
def server(prepared: Prepared) -> Iterator[Running]:
    with running(job.run(prepared.request()), limits=Limits(body=4000)) as made:
        yield made


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client() as made:
        yield made


# The official client.


def test_the_client_lists_models(client: openai.OpenAI, prepared: Prepared) -> None:
    listed = client.models.list().data
    assert [model.id for model in listed] == list(NAMES)
    one = client.models.retrieve("hook")
    assert (one.id, one.owned_by) == ("hook", "alphaedit")
    assert one.model_extra is not None
    assert one.model_extra["version"] == Ledger(prepared.ledgers["hook"]).head.id
    with pytest.raises(openai.NotFoundError, match="Unknown model 'nope'"):
        client.models.retrieve("nope")


@pytest.mark.parametrize("name", NAMES)
def test_the_client_asks_and_chats(client: openai.OpenAI, prepared: Prepared, name: str) -> None:
    for prompt in PROMPTS[:3]:
        said = client.completions.create(
            model=name, prompt=prompt, temperature=0, max_tokens=TOKENS
        )
        assert said.choices[0].text == prepared.answers[name, prompt, False]
        assert said.choices[0].finish_reason in ("stop", "length")
        assert said.usage is not None
        assert 0 < said.usage.completion_tokens <= TOKENS
        chat = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": [{"type": "text", "text": prompt}]}],
            temperature=0,
            max_completion_tokens=TOKENS,
        )
        assert chat.choices[0].message.content == prepared.answers[name, prompt, True]
        assert chat.system_fingerprint == said.system_fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_the_client_streams(client: openai.OpenAI, prepared: Prepared, name: str) -> None:
    chunks = list(
        client.completions.create(
            model=name,
            prompt=list(PROMPTS[:2]),
            temperature=0,
            max_tokens=TOKENS,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = {0: "", 1: ""}
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
        assert chunk.usage is None
    assert texts == {i: prepared.answers[name, PROMPTS[i], False] for i in (0, 1)}
    assert len(chunks) > 6
    assert (
        chunks[-1].choices,
        sum(c.choices[0].finish_reason is not None for c in chunks[:-1]),
    ) == (
        [],
        2,
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens <= 2 * TOKENS
    text = ""
    for part in client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": PROMPTS[0]}],
        temperature=0,
        max_tokens=TOKENS,
        stream=True,
    ):
        text += part.choices[0].delta.content or ""
    assert text == prepared.answers[name, PROMPTS[0], True]


def test_what_else_the_client_may_ask_for(client: openai.OpenAI, prepared: Prepared) -> None:
    whole = prepared.answers["model", PROMPTS[0], False]
    echoed = client.completions.create(
        model="model", prompt=PROMPTS[0], temperature=0, max_tokens=TOKENS, echo=True, user="me"
    )
    assert echoed.choices[0].text == PROMPTS[0] + whole
    streamed = client.completions.create(
        model="model", prompt=PROMPTS[0], temperature=0, max_tokens=2, echo=True, stream=True
    )
    assert "".join(c.choices[0].text for c in streamed).startswith(PROMPTS[0] + whole[0])
    rated = client.completions.create(
        model="model", prompt=PROMPTS[0], temperature=0, max_tokens=4, logprobs=2
    ).choices[0]
    assert rated.logprobs is not None
    assert rated.logprobs.tokens is not None
    assert "".join(rated.logprobs.tokens) == rated.text
    assert rated.logprobs.text_offset is not None
    assert rated.logprobs.text_offset[:2] == [0, len(rated.logprobs.tokens[0])]
    assert rated.logprobs.token_logprobs is not None
    assert all(value <= 0 for value in rated.logprobs.token_logprobs)
    turns: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "A city."},
        {"role": "user", "content": "And Paris?"},
    ]
    chat = client.chat.completions.create(
        model="model", messages=turns, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = chat.choices[0].logprobs and chat.choices[0].logprobs.content
    assert content
    assert len(content[0].top_logprobs) == 2
    assert content[0].top_logprobs[0].token == content[0].token
    stop = whole[4:7]
    cut = client.completions.create(
        model="model", prompt=PROMPTS[0], temperature=0, max_tokens=TOKENS, stop=stop
    ).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    drawn = [
        client.completions.create(model="model", prompt=PROMPTS[0], seed=5, top_p=0.9).choices[0]
        for _ in range(2)
    ]
    assert drawn[0].text == drawn[1].text != whole


# What is refused.

BAD: list[tuple[str, Any, int, str, str]] = [
    ("completions", {"model": "modl", "prompt": "x"}, 404, "Did you mean 'model'", "model"),
    ("completions", {"prompt": "x"}, 400, "has no model", "model"),
    ("completions", {"model": "model"}, 400, "has no prompt", "prompt"),
    ("completions", ASK | {"prompt": []}, 400, "has no prompt", "prompt"),
    ("completions", ASK | {"prompt": [1, 2]}, 400, "prompts as tokens are not", "prompt"),
    ("completions", ASK | {"prompt": "so " * 150}, 400, "leaves no room", "prompt"),
    ("completions", ASK | {"prompt": "\ud800"}, 400, "half of a character", "prompt"),
    ("completions", ASK | {"max_tokens": 127}, 400, "reads 128 in all", "max_tokens"),
    ("completions", ASK | {"max_tokens": 0}, 400, "whole number from 1", "max_tokens"),
    ("completions", ASK | {"max_tokens": True}, 400, "max_tokens is True", "max_tokens"),
    ("completions", ASK | {"n": 2}, 400, "n is 2 .*not supported", "n"),
    ("completions", ASK | {"best_of": 3}, 400, "best_of is 3", "best_of"),
    ("completions", ASK | {"suffix": "x"}, 400, "suffix is 'x'", "suffix"),
    ("completions", ASK | {"temprature": 0}, 400, "'temprature' is not known", "temprature"),
    ("completions", ASK | {"temperature": 3}, 400, "from 0 to 2", "temperature"),
    ("completions", ASK | {"top_p": "0.5"}, 400, "top_p is '0.5'", "top_p"),
    ("completions", ASK | {"seed": 0.5}, 400, "seed is 0.5", "seed"),
    ("completions", ASK | {"stop": ["a"] * 5}, 400, "at most 4", "stop"),
    ("completions", ASK | {"stop": ""}, 400, "none empty", "stop"),
    ("completions", ASK | {"logprobs": 6}, 400, "from 0 to 5", "logprobs"),
    ("completions", ASK | {"logprobs": 1, "echo": True}, 400, "echo with logprobs", "echo"),
    ("completions", ASK | {"stream_options": {}}, 400, "without stream", "stream_options"),
    ("completions", b"{", 400, "no JSON object", ""),
    ("completions", b"[1]", 400, "no JSON object", ""),
    ("completions", b'{"n": NaN}', 400, "NaN is no number", ""),
    ("completions", b"\xff", 400, "no JSON object", ""),
    ("completions", b"[" * 3900, 400, "no JSON object", ""),
    ("completions", {"x": "y" * 5000}, 413, "longer than 4,000 bytes", ""),
    ("chat/completions", {"model": "model"}, 400, "has no messages", "messages"),
    ("chat/completions", ASK | {"messages": []}, 400, "has no messages", "messages"),
]
MESSAGE = {"role": "user", "content": "x"}
CHAT: list[tuple[Any, str]] = [
    ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\] has the role 'tool'"),
    ({"messages": [MESSAGE, 5]}, r"messages\[1\] has the role"),
    ({"messages": [{"role": "user"}]}, "is no text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "pictures and sound"),
    ({"top_logprobs": 2}, "without logprobs"),
    ({"max_tokens": 2, "max_completion_tokens": 3}, "and max_completion_tokens 3"),
    ({"tools": [{"type": "function"}]}, "tools is .*not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"prompt": "x"}, "'prompt' is not known"),
]


@pytest.mark.parametrize(("path", "body", "status", "match", "field"), BAD)
def test_bad_requests(
    server: Running, path: str, body: Any, status: int, match: str, field: str
) -> None:
    code, _, reply = server.send("POST", f"/v1/{path}", body)
    error = reply["error"]
    assert code == status, error
    assert set(error) == {"message", "type", "param", "code", "remedy"}
    assert error["type"] == "invalid_request_error"

    assert re.search(match, error["message"]), error["message"]
    assert error["remedy"]
    assert error["message"].endswith(error["remedy"])
    if error["param"]:
        assert error["param"] == field


@pytest.mark.parametrize(("more", "match"), CHAT)
def test_bad_conversations(server: Running, more: Any, match: str) -> None:

    code, _, reply = server.send(
        "POST", "/v1/chat/completions", {"model": "model", "messages": [MESSAGE], **more}
    )
    assert code == 400
    assert re.search(match, reply["error"]["message"]), reply


def test_what_is_wrong_as_http(server: Running) -> None:
    code, _, reply = server.send("GET", "/v1/nothing")
    assert (code, reply["error"]["code"]) == (404, "not_found")
    code, _, reply = server.send("GET", "/v1/completions")
    assert (code, reply["error"]["code"]) == (405, "method_not_allowed")
    code, _, reply = server.send("POST", "/v1/completions", ASK, {"Content-Type": "text/plain"})
    assert (code, reply["error"]["code"]) == (415, "unsupported_media_type")
    foreign = {**JSON, "Origin": "https://elsewhere.example"}
    code, _, reply = server.send("POST", "/v1/completions", ASK, foreign)
    assert (code, reply["error"]["type"]) == (403, "permission_error")
    own = {**JSON, "Origin": f"http://localhost:{server.port}"}
    assert server.send("POST", "/v1/completions", ASK, own)[0] == 200
    # Without a length: a body in parts is counted as it comes.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    parts = (b"x" * 1000 for _ in range(6))
    connection.request("POST", "/v1/completions", parts, JSON, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_that_does_not_come(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "BODY_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        raw.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        assert b"408" in raw.recv(4000).split(b"\r\n")[0]


def test_keys(prepared: Prepared) -> None:
    service = job.run(prepared.request(ledgers={}))
    with running(service, limits=Limits(key="right")) as made:
        with made.client("right") as right:
            assert right.models.list().data[0].id == "model"
        for key in ("wrong", "rightx"):
            with (
                made.client(key) as wrong,
                pytest.raises(openai.AuthenticationError, match="The key is wrong"),
            ):
                wrong.models.list()
        for path in ("/v1/models", "/metrics"):
            code, headers, reply = made.send("GET", path)
            assert (code, reply["error"]["code"]) == (401, "invalid_api_key")
            assert headers["www-authenticate"] == "Bearer"
        assert made.send("GET", "/health")[0] == 200


def test_health_and_metrics(server: Running) -> None:
    server.send("POST", "/v1/completions", ASK)
    while server.service.status()["running"]:
        time.sleep(0.01)
    assert server.send("GET", "/health")[::2] == (200, {"status": "ok"})
    code, _, text = server.send("GET", "/metrics")
    assert code == 200
    values = dict(
        line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")
    )
    assert float(values['alphaedit_requests_total{model="model",outcome="answered"}']) >= 1
    assert float(values['alphaedit_tokens_total{model="model",kind="completion"}']) >= TOKENS
    assert float(values["alphaedit_batches_total"]) >= 1
    assert values["alphaedit_waiting"] == "0"


def test_a_full_queue_is_told(prepared: Prepared) -> None:
    service = job.run(prepared.request(ledgers={}, queue=2))
    with running(service) as made, made.client() as asked:
        with pytest.raises(openai.RateLimitError, match="0 requests wait already, of 2") as caught:
            asked.completions.create(model="model", prompt=list(PROMPTS[:3]))
        assert int(caught.value.response.headers["retry-after"]) >= 1


# Many at once, and those who leave.


def test_soak(server: Running, prepared: Prepared) -> None:
    """Each of 200 requests over 8 connections on two ledgers is answered as if it were alone."""
    asked = [
        (name, prompt, chat, stream)
        for number in range(5)
        for name in ("hook", "memory")
        for prompt in PROMPTS
        for chat in (False, True)
        for stream in (False, True)
    ]
    assert len(asked) == 200

    def ask(client: openai.OpenAI, name: str, prompt: str, chat: bool, stream: bool) -> str:
        how: dict[str, Any] = {"model": name, "temperature": 0, "max_tokens": TOKENS}
        if chat:
            made: Any = client.chat.completions.create(
                messages=[{"role": "user", "content": prompt}], stream=stream, **how
            )
            if stream:
                return "".join(part.choices[0].delta.content or "" for part in made)
            return str(made.choices[0].message.content)
        made = client.completions.create(prompt=prompt, stream=stream, **how)
        if stream:
            return "".join(part.choices[0].text for part in made)
        return str(made.choices[0].text)

    def connection(number: int) -> list[tuple[Any, str]]:
        with server.client() as client:
            return [(one, ask(client, *one)) for one in asked[number::8]]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(connection, range(8)):
            for (name, prompt, chat, _), text in answers:
                assert text == prepared.answers[name, prompt, chat]


def test_a_client_that_leaves_is_not_waited_for(prepared: Prepared) -> None:
    service = job.run(prepared.request(ledgers={}, batch=1, gather=0.0))
    passes: list[int] = []

    def slowly(*args: object) -> None:
        passes.append(1)
        time.sleep(0.05)

    slow = service._handle.model.register_forward_pre_hook(slowly)
    with running(service) as made:
        for stream in (True, False):
            passes.clear()
            with socket.create_connection(("127.0.0.1", made.port), timeout=30) as raw:
                body = json.dumps(ASK | {"max_tokens": 100, "stream": stream, "stop": "never"})
                head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}"
                kind = "Content-Type: application/json"
                raw.sendall(f"{head}\r\n{kind}\r\n\r\n{body}".encode())
                if stream:
                    assert b"200 OK" in raw.recv(100)
                while not service.status()["running"]:
                    time.sleep(0.01)
            while service.status()["running"]:
                time.sleep(0.01)
            assert len(passes) < 100  # as many as the answer would have had tokens
        assert service.counted()["requests", "model", "given up"] == 2
        slow.remove()


def test_a_stop_answers_those_who_wait(prepared: Prepared) -> None:
    service = job.run(prepared.request(ledgers={}, batch=1, gather=0.0))
    service._handle.model.register_forward_pre_hook(lambda *args: time.sleep(0.02))
    made = Running(service, grace=20)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(made.send, "POST", "/v1/completions", ASK) for _ in range(3)]
        while len(service._waiting) < 2:
            time.sleep(0.01)
        made.server.end()
        for future in asked:
            code, _, reply = future.result()
            assert code == 200
            assert reply["choices"][0]["text"] == prepared.answers["model", PROMPTS[0], False]
    made.close()


def test_a_stop_tells_those_it_has_no_time_for(prepared: Prepared) -> None:
    service = job.run(prepared.request(ledgers={}, batch=1, gather=0.0))
    slow = service._handle.model.register_forward_pre_hook(lambda *args: time.sleep(0.3))
    made = Running(service, grace=0)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(made.send, "POST", "/v1/completions", ASK) for _ in range(2)]
        while len(service._waiting) < 1:
            time.sleep(0.01)
        made.server.end()
        for future in asked:
            code, headers, reply = future.result()
            assert (code, reply["error"]["code"]) == (503, "server_stopping")
            assert headers["retry-after"] == "1"
    slow.remove()
    made.close()


# The command.


def test_ports_and_addresses() -> None:
    with bound("127.0.0.1", 0, key=None) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"Port {port} of 127.0.0.1 is in use"):
            bound("127.0.0.1", port, key=None)
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 can be reached from other machines"):
        bound("0.0.0.0", 0, key=None)
    with pytest.raises(ResourceError, match="Cannot listen at nowhere"):
        bound("nowhere.invalid", 0, key="k")
    with bound("localhost", 0, key=None) as made:
        assert address_of(made).startswith("http://")


@pytest.mark.parametrize(
    ("words", "kind", "match"),
    [
        (["--edits", "HOOK", "--edits", "HOOK"], "ConfigError", "Two models would be called"),
        (["--edits", "=x"], "ConfigError", "NAME=LEDGER"),
        (["--edits", "no/ledger"], "LedgerError", "no/ledger"),
        (["--api-key", "ä"], "ConfigError", "cannot be sent"),
        (["--api-key", ""], "ConfigError", "empty"),
        (["--port", "70000"], "UsageError", "65535"),
        (["--host", "0.0.0.0", "--port", "0"], "ConfigError", "no key is asked for"),
    ],
)
def test_wrong_commands(
    prepared: Prepared,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    kind: str,
    match: str,
) -> None:
    typed = [str(prepared.ledgers["hook"]) if word == "HOOK" else word for word in words]
    assert run(["serve", "no/such/model", *typed, "--json"]) in (1, 2)
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["type"], match in error["message"] + error["remedy"]) == (kind, True), error


def test_a_missing_library_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "alphaedit.server.listening")
    monkeypatch.delattr(alphaedit.server, "listening")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run(["serve", "no/such/model", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == "Serving needs uvicorn, which is not installed."
    assert error["remedy"] == "pip install 'alphaedit[serve]'"


def test_the_command_serves_until_it_is_stopped(prepared: Prepared) -> None:
    place = f"mine={prepared.ledgers['hook']}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "alphaedit", "serve", str(prepared.model), "--edits", place),
            *("--port", "0", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ALPHAEDIT_API_KEY": "secret"},
    )
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert list(told["models"]) == ["model", "mine"]
        with openai.OpenAI(base_url=told["url"], api_key="secret") as client:
            said = client.completions.create(
                model="mine", prompt=PROMPTS[0], temperature=0, max_tokens=TOKENS
            )
        assert said.choices[0].text == prepared.answers["hook", PROMPTS[0], False]
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()
