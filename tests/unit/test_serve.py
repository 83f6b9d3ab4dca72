"""The service below the endpoint: batches, several ledgers, sampling, limits, the end."""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.served import FACT, MADE, NAMES, PROMPTS, TOKENS, Prepared, prepare, question
from tests.tiny import save_tiny, tiny_model

from alphaedit import Editor, Fact
from alphaedit.core.errors import (
    AlphaEditError,
    BusyError,
    ConfigError,
    FingerprintError,
    LedgerError,
    ModelError,
    NonFiniteError,
    StoppingError,
    UnknownNameError,
)
from alphaedit.jobs import serve as job
from alphaedit.jobs.serve import Service
from alphaedit.jobs.waiting import Waiting
from alphaedit.ledger.ledger import Ledger
from alphaedit.model import answering
from alphaedit.model.answering import End, Piece, Row, Ticket, packs
from alphaedit.model.generate import generate, generate_ids, stream_ids
from alphaedit.model.handle import ModelHandle
from alphaedit.model.local import Local
from alphaedit.model.responder import Router
from alphaedit.model.sampling import Sampler, Sampling
from alphaedit.model.written import Written


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def service(prepared: Prepared) -> Iterator[Service]:
    made = job.run(prepared.request())
    yield made
    assert made.stop(20)


class Gate:
    """Lets the model's passes through one by one, for tests of what waits meanwhile."""

    def __init__(self, service: Service) -> None:
        self.steps = threading.Semaphore(0)
        self.begun = threading.Event()
        self.open = False
        model = service._handle.model
        self._hook = model.register_forward_pre_hook(self._wait)

    def _wait(self, *args: Any) -> None:
        self.begun.set()
        if not self.open:
            self.steps.acquire(timeout=20)

    def release(self) -> None:
        self.open = True
        self.steps.release(1000)
        self._hook.remove()


@pytest.fixture
def gated(prepared: Prepared) -> Iterator[tuple[Service, Gate]]:
    made = job.run(prepared.request(ledgers={}, batch=1, queue=2, gather=0.0))
    gate = Gate(made)
    yield made, gate
    gate.release()
    assert made.stop(20)


# Tokens as they are made.


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama", "gemma2"])
def test_a_stream_gives_what_generation_does(kind: str) -> None:
    handle = ModelHandle.load(*tiny_model(kind))
    rows = [handle.tokens.encode(prompt) for prompt in PROMPTS]
    seen: list[Any] = []

    def pick(logits: torch.Tensor) -> torch.Tensor:
        seen.append(len(logits))
        return logits.argmax(-1)

    steps = stream_ids(handle, rows, pick)
    first = next(steps)
    assert (seen, first.shape) == ([len(rows)], (len(rows),))  # nothing is run ahead
    tokens = [first, *itertools.islice(steps, TOKENS - 1)]
    end = handle.tokenizer.eos_token_id
    texts = []
    for row in range(len(rows)):
        ids = [int(step[row]) for step in tokens]
        texts.append(ids[: ids.index(end)] if end in ids else ids)
    assert texts == generate_ids(handle, rows, TOKENS)
    assert not torch.is_inference_mode_enabled()


def test_text_in_pieces_is_the_text() -> None:
    tokenizer = tiny_model("llama")[1]
    text = "São Paulo 東京 </s> Zoë STOPPER and STOP here, more STOP"

    def decode(ids: Any) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    ids = tokenizer.encode(text, add_special_tokens=False)
    for stop, wanted in (
        ((), decode(ids)),
        (("STOP he", "xyz"), decode(ids).partition("STOP he")[0]),
        (("京",), decode(ids).partition("京")[0]),
        (("nowhere", "more STOP!"), decode(ids)),
    ):
        for in_pieces in (True, False):
            written = Written(decode, stop, in_pieces=in_pieces)
            pieces = []
            for token in ids:
                pieces.append(written.add(token))
                assert "\ufffd" not in pieces[-1]
                if written.stopped:
                    break
            pieces.append(written.rest())
            assert "".join(pieces) == wanted
            assert written.stopped == (wanted != decode(ids))
            assert in_pieces == (sum(map(bool, pieces)) > 3) or stop


def test_samples_are_of_the_distribution() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 2.0])
    p = (logits / 0.5).softmax(-1)
    drawn = Sampler(Sampling(temperature=0.5, seed=3))
    counts = torch.bincount(torch.tensor([drawn.draw(logits) for _ in range(3000)]), minlength=4)
    assert torch.allclose(counts / 3000, p, atol=0.03)
    for how, allowed in (
        (Sampling(temperature=1.0, top_k=2), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.6), {1}),
        (Sampling(temperature=1.0, top_p=0.7), {1, 3}),
        (Sampling(temperature=1.0, top_p=0.0), {1}),
        (Sampling(temperature=1e-40), {1}),
    ):
        sampler = Sampler(how)
        assert {sampler.draw(logits) for _ in range(200)} == allowed
    assert Sampling(temperature=1.0, top_k=1).greedy
    with pytest.raises(NonFiniteError, match="not finite"):
        drawn.draw(torch.tensor([0.0, torch.nan]))


def test_rows_of_one_batch_leave_room_for_one_another() -> None:
    class Fake(Row):
        def __init__(self, length: int, room: int) -> None:
            self.prompt, self.room = [0] * length, room

    rows: list[Row] = [Fake(100, 28), Fake(4, 120), Fake(8, 20), Fake(90, 30)]
    sizes = [[(len(row.prompt), row.room) for row in pack] for pack in packs(rows, 128)]
    assert sizes == [[(4, 120), (8, 20)], [(90, 30)], [(100, 28)]] or all(
        max(n for n, _ in pack) + max(r for _, r in pack) <= 128 or len(pack) == 1 for pack in sizes
    )
    assert sorted(itertools.chain(*sizes)) == [(4, 120), (8, 20), (90, 30), (100, 28)]
    assert [len(pack) for pack in packs(rows, None)] == [4]


# Answers.


def test_the_edits_change_answers(prepared: Prepared) -> None:
    """Else the tests below would tell nothing."""
    for chat in (False, True):
        texts = [prepared.answers[name, PROMPTS[0], chat] for name in NAMES]
        assert len(set(texts)) >= (4 if not chat else 2), texts


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_python(service: Service, prepared: Prepared, name: str) -> None:
    for prompt in PROMPTS:
        answer = service.ask(question(prompt, name))
        assert answer.text == prepared.answers[name, prompt, False]
        turns = [{"role": "user", "content": prompt}]
        text = service.front.conversation(turns)
        answer = service.ask(question(text, name, chat=True))
        assert answer.text == prepared.answers[name, prompt, True]
        *pieces, end = service.stream(question(prompt, name, in_pieces=True))
        assert isinstance(end, End)
        assert "".join(piece.text for piece in pieces) == prepared.answers[name, prompt, False]
        if end.new_tokens > 2:
            assert len(pieces) > 1


def test_batches_are_rows_one_by_one(service: Service, prepared: Prepared) -> None:
    asked = [question(prompt, name) for prompt in PROMPTS for name in NAMES] * 2
    while service.status()["running"]:  # of the test before this one
        time.sleep(0.01)
    before = service.counted()
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(service.ask, asked))
    for one, answer in zip(asked, answers, strict=True):
        assert answer.text == prepared.answers[one.model, one.prompt, False]
    while service.status()["running"]:  # counts are taken when a batch is over
        time.sleep(0.01)
    more = service.counted()
    rows, batches = (more[key,] - before[key,] for key in ("rows", "batches"))
    assert rows == len(asked)
    assert batches < rows / 2


def test_draws_do_not_depend_on_the_neighbors(service: Service) -> None:
    how = [Sampling(temperature=1.5, seed=seed, top_p=0.9) for seed in range(4)]
    asked = [question(PROMPTS[0], sampling=sampling) for sampling in how]
    alone = [service.ask(one).text for one in asked]
    assert len(set(alone)) > 2
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: service.ask(one).text, asked * 2)) == alone * 2
    assert [service.seed() for _ in range(3)] != [service.seed() for _ in range(3)]


def test_top_k_draws_as_generate_does(service: Service, prepared: Prepared) -> None:
    generator = torch.Generator().manual_seed(7)
    wanted = generate(prepared.editor().handle, [PROMPTS[1]], 6, top_k=5, generator=generator)
    sampling = Sampling(temperature=1.0, top_k=5, seed=7)
    assert service.ask(question(PROMPTS[1], max_tokens=6, sampling=sampling)).text == wanted[0]


def test_probabilities_are_the_models(service: Service, prepared: Prepared) -> None:
    handle = prepared.editor().handle
    answer = service.ask(question(PROMPTS[0], best=3))
    ids = handle.tokens.encode(PROMPTS[0])
    for token in answer.tokens:
        with torch.no_grad():
            log_p = handle.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        best = log_p.topk(3)
        assert token.logprob == pytest.approx(float(best.values[0]), abs=1e-4)
        assert [p for _, p in token.best] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert token.best[0][0] == token.text == handle.tokens.decode([int(best.indices[0])])
        ids.append(int(best.indices[0]))
    assert "".join(token.text for token in answer.tokens) == answer.text


def test_stop_texts_end_answers(service: Service, prepared: Prepared) -> None:
    text = prepared.answers["model", PROMPTS[0], False]
    stop = text[4:7]
    for in_pieces in (True, False):
        asked = question(PROMPTS[0], stop=("nowhere", stop), in_pieces=in_pieces)
        answer = service.ask(asked)
        assert answer.text == text[: text.index(stop)]
        assert answer.end.reason == "stop"
        assert answer.end.new_tokens <= TOKENS
    assert service.ask(question(PROMPTS[0], max_tokens=1)).end.reason == "length"


# Ledgers.


def test_what_is_recorded_meanwhile_is_followed(prepared: Prepared, tmp_path: Path) -> None:
    editor = prepared.editor()
    edit = editor.edit(FACT, "grace", **MADE["hook"][1])
    ledger = editor.save(tmp_path / "led")
    made = job.run(prepared.request(ledgers={"led": ledger}))
    try:
        first = made.ask(question(PROMPTS[0], "led"))
        assert first.text == prepared.answers["hook", PROMPTS[0], False]
        writer = prepared.editor()
        writer.track(ledger)
        writer.edit(Fact("The capital of {} is", "Spain", "Oslo"), "grace", **MADE["hook"][1])
        second = made.ask(question(PROMPTS[1], "led"))
        assert second.text == writer.ask(PROMPTS[1], TOKENS)
        assert second.end.version == Ledger(ledger).head.id != first.end.version
        # Somebody damages it: the last good version goes on being served, and that is told.
        journal = ledger / "journal.jsonl"
        whole = journal.read_bytes()
        journal.write_bytes(b"x" + whole[1:] + b'{"number": 7}\n')
        assert made.ask(question(PROMPTS[1], "led")).text == second.text
        assert "journal" in str(made.models.status()["led"]["problem"])
        journal.write_bytes(whole)
        writer.revert(edit)
        third = made.ask(question(PROMPTS[0], "led"))
        assert third.text == writer.ask(PROMPTS[0], TOKENS)
        assert made.models.status()["led"]["problem"] is None
        assert made.ask(question(PROMPTS[0])).text == prepared.answers["model", PROMPTS[0], False]
    finally:
        made.stop(10)


def test_switches_leave_the_weights_bit_for_bit(prepared: Prepared) -> None:
    made = job.run(prepared.request())
    try:
        fingerprint = made._handle.fingerprint()
        for name in (*NAMES, *NAMES[::-1]):
            made.ask(question(PROMPTS[0], name))
            made.ask(question(PROMPTS[0], "model"))
        assert made.models.switches >= 10
    finally:
        assert made.stop(10)
    assert made._handle.fingerprint() == fingerprint


def test_what_cannot_be_served_is_refused_before(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="nothing"):
        job.run(prepared.request(model="no/such/model", ledgers={"x": tmp_path / "nothing"}))
    with pytest.raises(ConfigError, match="Two models would be called 'model'"):
        job.run(prepared.request(ledgers={"model": prepared.ledgers["hook"]}))
    with pytest.raises(ConfigError, match="batch is 0"):
        job.run(prepared.request(batch=0))
    other = save_tiny("gpt2", tmp_path / "other")
    with pytest.raises(FingerprintError, match="fingerprint"):
        job.run(prepared.request(model=str(other)))


def test_another_model_in_its_place_is_asked_whole(prepared: Prepared) -> None:
    made = job.run(prepared.request(ledgers={}))
    try:
        other = prepared.editor().handle
        router = Router(
            Local(made._handle),
            Local(other),
            lambda prompts: [PROMPTS[1] if "France" in prompt else None for prompt in prompts],
        )
        made._handle.routers.append(router)
        for prompt, wanted in ((PROMPTS[0], PROMPTS[1]), (PROMPTS[2], PROMPTS[2])):
            answer = made.ask(question(prompt, in_pieces=True))
            assert answer.text == prepared.answers["model", wanted, False]
        with pytest.raises(ConfigError, match="neither samples"):
            made.ask(question(PROMPTS[0], sampling=Sampling(temperature=1.0)))
    finally:
        made.stop(10)


# Limits and ends.


def test_questions_are_checked_before_they_wait(service: Service) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'weights'"):
        service.ask(question("x", "weihgts"))
    with pytest.raises(ModelError, match="leaves no room"):
        service.ask(question("so " * 200))
    with pytest.raises(ConfigError, match=r"max_tokens is 126.*reads 128 in all.*at most 1[0-2]\d"):
        service.ask(question("The capital", max_tokens=126))
    with pytest.raises(ConfigError, match="at most 1024"):
        service.ask(question("The capital", max_tokens=1025))
    answer = service.ask(question("so " * 35, max_tokens=None, usual_tokens=300))
    assert answer.end.prompt_tokens + answer.end.new_tokens <= 128


def test_an_error_of_one_prompt_is_told_to_it_alone(
    service: Service, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = answering._row

    def row(handle: ModelHandle, ticket: Ticket) -> Row:
        if ticket.question.prompt == "bad":
            raise ModelError("With its note it is too long.", remedy="Shorten it.")
        return real(handle, ticket)

    monkeypatch.setattr(answering, "_row", row)
    with ThreadPoolExecutor(2) as pool:
        bad, good = (
            pool.submit(service.ask, question("bad")),
            pool.submit(service.ask, question(PROMPTS[0])),
        )
        assert good.result().text == prepared.answers["model", PROMPTS[0], False]
        with pytest.raises(ModelError, match="too long"):
            bad.result()
    monkeypatch.setattr(answering, "_row", lambda handle, ticket: 1 / 0)
    with pytest.raises(AlphaEditError, match=r"ZeroDivisionError.*bug"):
        service.ask(question(PROMPTS[0]))
    monkeypatch.undo()
    assert service.ask(question(PROMPTS[0])).text == prepared.answers["model", PROMPTS[0], False]


def test_the_queue_is_limited_and_given_up_requests_leave_it(gated: tuple[Service, Gate]) -> None:
    service, gate = gated
    events: list[Any] = []

    def submit(count: int = 1) -> Any:
        asked = [question(PROMPTS[0], in_pieces=True)] * count
        return service.submit(asked, lambda number, event: events.append(event))

    running = submit()
    assert gate.begun.wait(20)
    waiting = submit()
    with pytest.raises(BusyError, match="1 requests wait already, of 2") as caught:
        submit(2)
    assert 1 <= caught.value.seconds <= 60
    submit()
    with pytest.raises(BusyError):
        submit()
    waiting.cancel()
    last = submit()
    running.cancel()
    gate.release()
    deadline = time.monotonic() + 20
    while not last.tickets[0].over and time.monotonic() < deadline:
        time.sleep(0.01)
    assert last.tickets[0].end is not None
    assert not waiting.tickets[0].over
    assert running.tickets[0].end is None
    counts = service.counted()
    assert counts["requests", "model", "given up"] == 1
    assert counts["requests", "model", "refused"] == 3


def test_a_batch_waits_for_those_who_come_with_the_first() -> None:
    waiting = Waiting(most=10, together=3, gather=20.0)
    tickets = [Ticket(question("x"), lambda event: None) for _ in range(3)]
    other = Ticket(question("x", "other"), lambda event: None)
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(waiting.next)
        for ticket in tickets:
            waiting.add([ticket])
        assert batch.result(10) == tickets  # full, so that nothing more is waited for
    waiting = Waiting(most=10, together=3, gather=0.02)
    waiting.add([tickets[0], other, tickets[1]])
    assert waiting.next() == [tickets[0], tickets[1]]
    assert waiting.next() == [other]
    waiting.close()
    assert waiting.next() == []


def test_who_stops_reading_gives_up(gated: tuple[Service, Gate]) -> None:
    service, gate = gated
    stream = service.stream(question(PROMPTS[0], in_pieces=True, max_tokens=100))
    gate.steps.release(5)
    assert isinstance(next(stream), Piece)
    (ticket,) = service._running
    stream.close()  # type: ignore[attr-defined]
    assert ticket.cancelled


@pytest.mark.parametrize("grace", [0.0, 20.0])
def test_a_stop_answers_what_there_is_time_for(prepared: Prepared, grace: float) -> None:
    service = job.run(prepared.request(ledgers={}, batch=1, gather=0.0))
    gate = Gate(service)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(service.ask, question(prompt)) for prompt in PROMPTS[:3]]
        assert gate.begun.wait(20)
        while len(service._waiting) < 2:
            time.sleep(0.01)
        ending = pool.submit(service.stop, grace)
        while not service.stopping:
            time.sleep(0.01)
        with pytest.raises(StoppingError, match="stopping"):
            service.ask(question("x"))
        if grace:
            gate.release()
            for prompt, future in zip(PROMPTS, asked, strict=False):
                assert future.result().text == prepared.answers["model", prompt, False]
        else:
            for future in asked:
                with pytest.raises(StoppingError):
                    future.result()
            gate.release()
        assert ending.result()
    assert not service.alive
    assert service.status()["status"] == "stopping"


def test_an_editor_is_served_as_it_is(prepared: Prepared) -> None:
    editor: Editor = prepared.editor()
    made = Service(editor, prepared.request(ledgers={"m": prepared.ledgers["memory"]}))
    try:
        answer = made.ask(question(PROMPTS[0], "m"))
        assert answer.text == prepared.answers["memory", PROMPTS[0], False]
        long, short = answer.end.prompt_tokens, made.ask(question(PROMPTS[0])).end.prompt_tokens
        assert long > short  # with the note in front
    finally:
        made.stop(10)
