"""Whoever answers: a model loaded here, two models with a router, one behind an address."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit import Editor
from alphaedit.bench.metrics import kept_share
from alphaedit.cli.app import run
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.local import Local, responder_of
from alphaedit.model.remote import Endpoint
from alphaedit.model.responder import Router
from alphaedit.model.route import plain
from alphaedit.model.scoring import lengths, next_token, score

SENT = ["The capital of France is", "The capital of Italy is"]
STAY = ["Birds can sing in", "The river flows to the", "Once upon a time"]
MIXED = [STAY[0], SENT[0], STAY[1], SENT[1], STAY[2]]
PAIRS = [(prompt, target) for prompt in MIXED for target in ("a tree", "Madrid")]


def choose(prompts: Sequence[str]) -> list[str | None]:
    return [f"Read this. {prompt}" if "capital" in prompt else None for prompt in prompts]


@pytest.fixture(scope="module")
def base() -> ModelHandle:
    return ModelHandle.load(*tiny_model("llama"))


@pytest.fixture(scope="module")
def other() -> ModelHandle:
    return ModelHandle.load(*tiny_model("gpt2"))


@pytest.fixture
def routed(base: ModelHandle, other: ModelHandle) -> Iterator[ModelHandle]:
    base.routers.append(Router(responder_of(base), Local(other), choose))
    yield base
    base.routers.clear()


def test_a_model_is_asked_as_before(base: ModelHandle) -> None:
    ours = Local(base)
    assert score(ours, PAIRS) == score(base, PAIRS)
    assert generate(ours, MIXED, 5) == generate(base, MIXED, 5)
    assert torch.equal(next_token(ours, MIXED), next_token(base, MIXED))
    assert lengths(ours, MIXED) == [len(base.tokens.encode(text)) for text in MIXED]
    editor = Editor.from_pretrained(base.model, base.tokenizer, progress=False)
    assert editor.responder == Local(editor.handle)


def test_what_stays_is_the_bases_bit_for_bit(base: ModelHandle, other: ModelHandle) -> None:
    silent = [(prompt, target) for prompt, target in PAIRS if "capital" not in prompt]
    before = score(base, silent), next_token(base, STAY), generate(base, STAY, 5)
    router = Router(Local(base), Local(other), choose)
    assert score(router, silent) == before[0]
    assert torch.equal(next_token(router, STAY), before[1])
    assert generate(router, STAY, 5) == before[2]
    mixed = score(router, PAIRS)
    assert [s for s, pair in zip(mixed, PAIRS, strict=True) if pair in silent] == before[0]
    assert [t for t, p in zip(generate(router, MIXED, 5), MIXED, strict=True) if p in STAY] == (
        before[2]
    )


def test_what_is_sent_is_answered_by_the_other(routed: ModelHandle, other: ModelHandle) -> None:
    texts = [f"Read this. {prompt}" for prompt in SENT]
    assert generate(routed, SENT, 5) == generate(other, texts, 5)
    assert score(routed, [(p, "Madrid") for p in SENT]) == score(
        other, [(text, "Madrid") for text in texts]
    )
    assert kept_share(routed, []) is None
    with plain():
        assert generate(routed, SENT, 5) != generate(other, texts, 5)
    assert responder_of(routed) is routed.routers[0]


def test_batches_are_rows_one_by_one(routed: ModelHandle) -> None:
    assert generate(routed, MIXED, 6) == [generate(routed, [p], 6)[0] for p in MIXED]
    for together, pair in zip(score(routed, PAIRS), PAIRS, strict=True):
        (alone,) = score(routed, [pair])
        assert together.mean_logprob == pytest.approx(alone.mean_logprob, abs=1e-4)
        assert together.exact == alone.exact
    assert score(routed, []) == []
    assert generate(routed, [], 3) == []


def test_threads_do_not_see_each_others_route(routed: ModelHandle) -> None:
    alone = {prompt: generate(routed, [prompt], 6) for prompt in MIXED}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = pool.map(lambda p: generate(routed, [p], 6), alone)
            assert dict(zip(alone, found, strict=True)) == alone


def test_next_tokens_of_other_tokens_are_refused(base: ModelHandle) -> None:
    foreign = ModelHandle.load(*tiny_model("gpt2"))
    same = Router(Local(base), Local(foreign), choose)
    assert next_token(same, MIXED).shape[0] == len(MIXED)
    apart = Router(Local(base), Endpoint("http://127.0.0.1:9", "m"), choose)
    assert torch.equal(next_token(apart, STAY), next_token(base, STAY))
    with pytest.raises(ConfigError, match="different tokens"):
        next_token(apart, MIXED)


class Server(ThreadingHTTPServer):
    """Serves a tiny model as vLLM does."""

    handle: ModelHandle
    echoes: bool
    asked: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        code, reply = 200, {}
        if self.path != "/v1/completions":
            code, reply = 404, {"error": {"message": "no such path"}}
        elif body["model"] != "tiny":
            code, reply = 404, {"error": {"message": "no such model"}}
        else:
            reply = completions(self.server, body)
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *args: Any) -> None:
        pass


def completions(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    handle = server.handle
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    choices: list[dict[str, Any]] = []
    for index, prompt in enumerate(prompts):
        (said,) = generate(handle, [prompt], body["max_tokens"])
        choices.append({"index": index, "text": said})
        if body.get("echo") and server.echoes:
            choices[-1] |= {"text": prompt + said, "logprobs": rated(handle, prompt, said)}
    used = sum(len(handle.tokens.encode(prompt)) for prompt in prompts)
    return {"choices": choices[::-1], "usage": {"prompt_tokens": used}}


def rated(handle: ModelHandle, prompt: str, said: str) -> dict[str, Any]:
    """What an endpoint says of an echoed text, from one plain pass."""
    out = handle.tokenizer(prompt, return_offsets_mapping=True)
    with torch.no_grad():
        log_p = handle.model(input_ids=torch.tensor([out["input_ids"]])).logits[0].log_softmax(-1)
    values: list[float | None] = [None]
    best: list[dict[str, float] | None] = [None]
    for row, token in zip(log_p[:-1], out["input_ids"][1:], strict=True):
        values.append(float(row[token]))
        best.append({"own": float(row[token]), "top": float(row.max())})
    offsets = [start for start, _ in out["offset_mapping"]]
    if said:
        offsets, values, best = [*offsets, len(prompt)], [*values, -0.1], [*best, {"x": -0.1}]
    return {"text_offset": offsets, "token_logprobs": values, "top_logprobs": best}


@pytest.fixture
def server(base: ModelHandle) -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    made.handle, made.echoes, made.asked = base, True, []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def endpoint(server: Server, model: str = "tiny") -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{server.server_port}/v1/", model, wait=0.0)


def test_an_endpoint_answers_as_its_model(server: Server, base: ModelHandle) -> None:
    asked = endpoint(server)
    assert generate(asked, MIXED, 5) == generate(base, MIXED, 5)
    assert lengths(asked, [*MIXED, MIXED[0]]) == lengths(base, [*MIXED, MIXED[0]])
    for found, wanted in zip(score(asked, PAIRS), score(base, PAIRS), strict=True):
        assert found.mean_logprob == pytest.approx(wanted.mean_logprob, abs=1e-4)
        assert (found.exact, found.tokens, found.correct) == (
            wanted.exact,
            wanted.tokens,
            wanted.correct,
        )
    generator = torch.Generator().manual_seed(5)
    generate(asked, MIXED[:1], 2, top_k=5, generator=generator)
    assert (server.asked[-1]["top_k"], server.asked[-1]["seed"]) == (5, 5)


def test_what_an_endpoint_cannot_do_is_refused(server: Server) -> None:
    with pytest.raises(ConfigError, match="distribution over all next tokens"):
        next_token(endpoint(server), MIXED)
    server.echoes = False
    with pytest.raises(ConfigError, match="does not rate texts"):
        score(endpoint(server), PAIRS)
    with pytest.raises(ResourceError, match=r"404.*no such model"):
        generate(endpoint(server, "another"), MIXED, 2)


def test_a_served_model_is_evaluated(
    server: Server, base: ModelHandle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {
        "case_id": 0,
        "requested_rewrite": {
            "prompt": "The capital of {} is",
            "subject": "France",
            "target_new": {"str": "Madrid"},
            "target_true": {"str": "Paris"},
        },
        "paraphrase_prompts": ["France has the capital"],
        "neighborhood_prompts": ["The capital of Spain is"],
        "generation_prompts": [],
        "attribute_prompts": [],
    }
    records = tmp_path / "records.json"
    records.write_text(json.dumps([row]), encoding="utf-8")
    url = endpoint(server).url
    asked = ["eval", url, str(records), "--served-model", "tiny"]
    assert run([*asked, "--method", "none", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rated = score(
        base,
        [(row["requested_rewrite"]["prompt"].format("France"), t) for t in ("Madrid", "Paris")],
    )
    wanted = 100.0 * (rated[0].mean_logprob > rated[1].mean_logprob)
    assert found["efficacy"]["value"] == wanted
    for wrong, said in (
        (asked, "evaluated as it is"),
        ([*asked, "--method", "none", "--every", "1"], "--every cannot be used"),
        (["eval", url, str(records), "--method", "none"], "Name the model"),
        (["eval", "m", str(records), "--served-model", "x", "--method", "none"], "an address"),
        (["eval", url, "world", "--served-model", "x", "--method", "none"], "Give a data set"),
    ):
        assert run(wrong) != 0
        assert said in " ".join(capsys.readouterr().err.split())
