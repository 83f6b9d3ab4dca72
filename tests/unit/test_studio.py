"""The studio over HTTP: ask, check, preview, keep, history, export, look inside, runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.studio import FACTS, METHOD, PROMPT, SETTINGS, Page, Prepared, opened, prepare

from alphaedit import Editor
from alphaedit.core.errors import AlphaEditError, Cancelled
from alphaedit.core.fact import Fact
from alphaedit.jobs import checking
from alphaedit.jobs.runs import MOST, Run, Runs
from alphaedit.jobs.studio import PREVIEWS
from alphaedit.ledger.facts import in_force
from alphaedit.ledger.ledger import Ledger


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def shared(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A studio whose ledger is never written."""
    with opened(prepared, tmp_path_factory.mktemp("shared")) as page:
        yield page


@pytest.fixture
def page(prepared: Prepared, tmp_path: Path) -> Iterator[Page]:
    with opened(prepared, tmp_path) as made:
        yield made


def weights(page: Page) -> dict[str, torch.Tensor]:
    model = page.studio.editor.handle.model
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


# What the page begins with.


def test_about_tells_model_and_ledger(shared: Page, prepared: Prepared) -> None:
    about = shared.get("about")
    assert about["model"] == str(prepared.model)
    assert about["layers"] == shared.studio.editor.handle.n_layers
    assert about["now"] == {
        "begun": False, "version": None, "edits": 0, "entries": 0, "problem": None,
    }  # fmt: skip
    assert about["examples"][0]["prompt"].count("{}") == 1


def test_methods_come_with_help_and_usual_values(shared: Page) -> None:
    rows = {row["name"]: row for row in shared.get("methods")["methods"]}
    fields = {field["name"]: field for field in rows["alphaedit"]["settings"]}
    assert "null space" in rows["alphaedit"]["summary"]
    assert fields["clamp"]["help"]
    assert fields["clamp"]["usual"] == 0.75
    assert fields["optimizer"]["choices"] == ["adam", "lbfgs"]
    assert "project" not in fields


# Asking.


def test_answers_come_piece_by_piece_with_probabilities(shared: Page, prepared: Prepared) -> None:
    body = {"prompt": PROMPT, "models": ["base", "edited"], "max_tokens": 8}
    reply = shared.send("POST", "/api/ask", body)
    events = [json.loads(line) for line in reply.text.splitlines()]
    assert events[0]["command"].startswith("alphaedit ask --max-new-tokens 8 ")
    pieces = [event for event in events if event.get("model") == "base" and "text" in event]
    assert len(pieces) > 1
    assert "".join(piece["text"] for piece in pieces) == prepared.says
    best = pieces[0]["tokens"][0]["best"]
    assert len(best) == 5
    assert best == sorted(best, key=lambda row: -row[1])
    assert events[-1]["end"]["reason"] in ("stop", "length")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"prompt": "x", "models": ["nope"]}, 404, "Unknown model"),
        ({"prompt": "x", "models": ["base"], "max_tokens": 10_000}, 400, "more than"),
        ({"prompt": "x", "models": []}, 400, "models"),
        ({"prompt": "x", "models": ["base"], "temperature": 9}, 400, "temperature"),
        ({"prompt": "x", "models": ["base"], "other": 1}, 400, "other"),
        ({"prompt": 3, "models": ["base"]}, 400, "prompt"),
    ],
)
def test_what_cannot_be_asked_is_told(shared: Page, body: Any, status: int, words: str) -> None:
    assert words.lower() in shared.post("ask", body, status)["error"]["message"].lower()


# Facts.


def problems(rows: list[Any]) -> list[list[str]]:
    return [[problem["message"] for problem in row["problems"]] for row in rows]


def test_each_line_is_checked_by_itself(shared: Page) -> None:
    good, other = FACTS
    text = "\n".join(
        [
            json.dumps(good),
            "{broken",
            json.dumps({**other, "prompt": "The capital is"}),
            json.dumps({**good, "target": "Rome"}),
            json.dumps({**good, "target": "Madrid "}),
            json.dumps({"prompt": "{} is", "subject": "Oslo"}),
            json.dumps({**other, "truth": "Oslo"}),
        ]
    )
    told = shared.post("facts/read", {"text": text})
    first, broken, lost, against, twice, lacking, odd = problems(told["rows"])
    assert first == []
    assert "broken JSON" in broken[0]
    assert told["rows"][1]["raw"] == "{broken"
    assert "is not in its prompt" in lost[0]
    assert told["rows"][2]["problems"][0]["field"] == "subject"
    assert against == ["Contradicts line 1, which says 'Madrid'."]
    assert twice == ["The same as line 1."]
    assert lacking == ["Field 'target' is missing."]
    assert "what the truth says already" in odd[0]
    assert [row["ok"] for row in told["rows"]] == [True, *[False] * 5, True]
    assert told["wrong"] == 5


def test_a_broken_row_of_a_table_does_not_hide_the_others(shared: Page) -> None:
    text = "prompt,subject,target\nThe capital of {} is,France,Rome\nonly one cell\n{} is,Oslo,old"
    told = shared.post("facts/read", {"text": text, "format": "csv"})
    assert [row["ok"] for row in told["rows"]] == [True, False, True]
    assert "1 cells, but the header has 3" in problems(told["rows"])[1][0]


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is empty"), ("a,b\n1,2", "Column 'prompt' is missing"), ("[1]", "expected an object")],
)
def test_a_text_without_facts_is_refused(shared: Page, text: str, words: str) -> None:
    assert words in shared.post("facts/read", {"text": text}, 400)["error"]["message"]


def test_facts_as_others_write_them_are_shown_in_the_form(shared: Page) -> None:
    rewrite = {"prompt": "{} is in", "subject": "Oslo", "target_new": {"str": "Spain"}}
    told = shared.post("facts/read", {"text": json.dumps([{"requested_rewrite": rewrite}])})
    record = told["rows"][0]["record"]
    assert record == {"prompt": "{} is in", "subject": "Oslo", "target": "Spain"}


def test_ten_thousand_facts_are_read(shared: Page) -> None:
    lines = [json.dumps({**FACTS[0], "subject": f"Land {n}"}) for n in range(10_000)]
    lines[5_000] = "{"
    told = shared.post("facts/read", {"text": "\n".join(lines)})
    assert (len(told["rows"]), told["wrong"]) == (10_000, 1)


def test_too_many_facts_are_refused() -> None:
    with pytest.raises(AlphaEditError, match="more than 50,000"):
        checking.of_records([{}] * (checking.MOST_FACTS + 1))


def test_what_is_in_force_is_compared() -> None:
    fact = Fact("The capital of {} is", "France", "Madrid")
    standing = in_force([("a" * 16, [fact])])
    rows = checking.of_records([fact.to_dict(), {**fact.to_dict(), "target": "Oslo"}])
    checking.check([rows[0]], standing)
    checking.check([rows[1]], standing)
    assert "says this already" in rows[0].problems[0].message
    assert "Contradicts edit aaaaaaaaaaaaaaaa in force" in rows[1].problems[0].message
    assert rows[0].ok
    assert rows[1].ok


def test_the_model_is_asked_for_facts(shared: Page, prepared: Prepared) -> None:
    says = prepared.says
    known = {"prompt": "The capital of {} is", "subject": "France", "target": says.split()[0]}
    faulty = {**FACTS[1], "subject": "Nowhere", "prompt": "The capital is"}
    run = shared.run("facts/ask", {"records": [faulty, FACTS[1], known]})
    assert run["state"] == "done"
    assert [row["number"] for row in run["result"]["answers"]] == [1, 2]
    assert [row["known"] for row in run["result"]["answers"]] == [False, True]


# Previews.


def test_a_preview_changes_and_records_nothing(page: Page) -> None:
    before, told = weights(page), page.ask(PROMPT, "base", "edited")
    paraphrases = {"paraphrases": ["France's capital is"], "neighborhood": ["Oslo is in"]}
    run = page.preview([{**FACTS[0], **paraphrases}, FACTS[1]])
    assert run["state"] == "done", run["error"]
    result = run["result"]
    assert len(result["facts"]) == 2
    assert {row["kind"] for row in result["moved"]} >= {"paraphrase", "neighbor"}
    assert result["drift"]["kl"] > 0
    assert result["drift_before"]["kl"] == 0
    assert same(before, weights(page))
    assert not Ledger.at(page.studio.opened.ledger)
    assert page.ask(PROMPT, "base", "edited") == told
    assert page.get("about")["previews"] == [run["id"]]
    assert "--set layers=1,2" in run["command"]
    assert "facts.jsonl" in run["command"]


def test_a_preview_can_be_asked_kept_and_is_what_an_edit_is(page: Page, prepared: Prepared) -> None:
    run = page.preview()
    asked = page.ask(PROMPT, "base", f"preview:{run['id']}")
    kept = page.post(f"previews/{run['id']}/keep", {"why": "ticket 1"})
    assert kept["entry"] == 1
    ledger = Ledger(page.studio.opened.ledger)
    assert ledger.head.edits == kept["edits"] == run["result"]["edits"]
    assert ledger.history.entries[1].why == "ticket 1"
    assert page.ask(PROMPT, "edited")["edited"] == asked[f"preview:{run['id']}"]
    editor = prepared.editor()
    editor.edit(Fact(**FACTS[0]), METHOD, **SETTINGS)
    assert editor.edits[0].id == kept["edits"][0]
    gone = page.post(f"previews/{run['id']}/keep", {}, 409)["error"]
    assert "no longer there" in gone["message"]
    assert "Preview again" in gone["remedy"]


def test_a_discarded_preview_is_gone(page: Page) -> None:
    run = page.preview()
    page.post(f"previews/{run['id']}/discard")
    assert page.get("about")["previews"] == []
    assert page.post(f"previews/{run['id']}/discard", {}, 409)
    assert not Ledger.at(page.studio.opened.ledger)


def test_what_somebody_else_recorded_meanwhile_is_not_overwritten(page: Page) -> None:
    page.keep()
    run = page.preview([FACTS[1]])
    ledger = Ledger(page.studio.opened.ledger)
    ledger.commit("revert", drop=ledger.head.edits)
    refused = page.post(f"previews/{run['id']}/keep", {}, 409)["error"]
    assert "was changed meanwhile: revert" in refused["message"]
    assert len(ledger.history.entries) == 3
    assert page.get("news")["now"]["edits"] == 0
    assert page.ask(PROMPT, "base", "edited")["base"] == page.ask(PROMPT, "edited")["edited"]


def test_previews_are_kept_in_any_tab_and_only_once(page: Page) -> None:
    first, second = page.preview(), page.preview([FACTS[1]])
    page.post(f"previews/{first['id']}/keep")
    refused = page.post(f"previews/{second['id']}/keep", {}, 409)["error"]
    assert "changed meanwhile" in refused["message"]


def test_only_the_latest_previews_are_there(page: Page) -> None:
    ids = [page.preview()["id"] for _ in range(PREVIEWS + 1)]
    assert page.get("about")["previews"] == ids[1:]
    assert "no longer there" in page.post(f"previews/{ids[0]}/keep", {}, 409)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"records": [], "method": "memit"}, "No facts"),
        ({"records": FACTS, "method": "memitt"}, "Unknown method"),
        ({"records": FACTS, "method": "memit", "settings": {"clampp": 1}}, "clampp"),
        ({"records": FACTS, "method": "memit", "settings": {"clamp": -1}}, "clamp"),
        ({"records": FACTS, "method": "memit", "settings": {"layers": "one"}}, "Layers"),
        ({"records": [{"prompt": "x"}], "method": "memit"}, "fact 1: Field 'subject'"),
        ({"records": [FACTS[0], FACTS[0]], "method": "memit"}, "duplicate"),
    ],
)
def test_what_cannot_be_previewed_is_told_before_it_runs(
    shared: Page, body: Any, words: str
) -> None:
    reply = shared.send("POST", "/api/previews", body)
    assert reply.status_code in (400, 404)
    assert words in reply.json()["error"]["message"]


def test_a_failure_is_told_and_the_next_run_is_done(page: Page) -> None:
    before = weights(page)
    run = page.preview(settings={"layers": "7"})
    assert run["state"] == "failed"
    assert "7" in run["error"]["message"]
    assert run["error"]["remedy"]
    assert same(before, weights(page))
    assert page.preview()["state"] == "done"


# Runs.


def begin(page: Page, **settings: Any) -> str:
    body = {
        "records": FACTS,
        "method": METHOD,
        "settings": {**SETTINGS, "layers": "1-2", **settings},
    }
    return page.post("previews", body, 202)["run"]


LONG = {"steps": 100_000, "stop_loss": 0.0}


def reaches(page: Page, run: str, phase: str) -> None:
    for _ in range(3000):
        whole = page.get(f"runs/{run}")
        assert whole["ended"] is None, whole
        if any(row["name"] == phase for row in whole["phases"]):
            return
        page.get(f"news?since={page.studio.runs.revision}")
    raise AssertionError(f"{phase} was not reached: {whole['phases']}")


def test_a_run_is_cancelled_and_leaves_nothing(page: Page) -> None:
    before = weights(page)
    run = begin(page)
    page.post(f"runs/{run}/cancel")
    ended = page.ended(run)
    assert ended["state"] == "cancelled"
    assert page.get("about")["previews"] == []
    assert same(before, weights(page))
    assert page.preview()["state"] == "done"


def test_a_run_that_waits_is_cancelled_at_once(page: Page) -> None:
    import threading

    go_on = threading.Event()
    page.studio.call(lambda: (go_on.wait(60), None)[1])
    first, second = begin(page), begin(page)
    assert page.post(f"runs/{second}/cancel")["state"] == "cancelled"
    assert page.get(f"runs/{first}")["state"] == "waiting"
    go_on.set()
    assert page.ended(first)["state"] == "done"
    assert page.get(f"runs/{second}")["state"] == "cancelled"


def test_questions_go_before_runs_that_wait(page: Page) -> None:
    import threading

    go_on, order = threading.Event(), []
    page.studio.call(lambda: (go_on.wait(60), None)[1])
    page.studio.start("other", "a run", lambda run, progress: order.append("run"))
    from alphaedit.model.answering import Question

    question = Question(model="base", prompt=PROMPT, max_tokens=1)
    told: Any = lambda number, event: order.append("answer")  # noqa: E731
    page.studio.submit([question], told)
    go_on.set()
    for _ in range(2000):
        if "run" in order:
            break
        page.get("news")
    assert order[0] == "answer"
    assert "run" in order


def test_news_tell_what_changed_and_only_that(page: Page) -> None:
    first = page.get("news")
    run = page.preview()
    news = page.get(f"news?since={first['revision']}")
    assert [row["id"] for row in news["runs"]] == [run["id"]]
    assert news["revision"] > first["revision"]
    assert page.get(f"news?since={news['revision']}")["runs"] == []
    assert len(page.get("news?since=999999999999")["runs"]) == 1


def test_the_oldest_runs_are_let_go() -> None:
    runs = Runs()
    waiting = runs.add(Run("a", "waits"))
    for number in range(MOST + 5):
        runs.end(runs.add(Run("a", str(number))), number)
    titles = [row["title"] for row in runs.listed()[1]]
    assert len(titles) == MOST
    assert titles[0] == "waits"
    runs.stop(waiting.id)
    with pytest.raises(Cancelled):
        runs.report(waiting, "x", 0, 1)


def test_a_bug_is_told_as_one(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    def work(run: Any, progress: Any) -> None:
        raise ZeroDivisionError("no")

    run = page.ended(page.studio.start("other", "broken", work).id)
    assert run["state"] == "failed"
    assert "bug of alphaedit" in run["error"]["remedy"]


# History.


def test_the_history_is_told_page_by_page(page: Page) -> None:
    assert page.get("history") == {
        "ledger": str(page.studio.opened.ledger), "begun": False, "entries": [], "total": 0,
    }  # fmt: skip
    first, second = page.keep(why="one"), page.keep([FACTS[1]], why="two")
    told = page.get("history?count=2")
    assert [entry["number"] for entry in told["entries"]] == [2, 1]
    assert told["more"] == 1
    assert told["total"] == 3
    assert told["in_force"] == 2
    assert told["entries"][0]["add"][0]["id"] == second["edits"][0]
    rest = page.get("history?before=1")
    assert [entry["op"] for entry in rest["entries"]] == ["init"]
    assert rest["more"] is None
    assert [e["why"] for e in page.get("history?words=FRANCE")["entries"]] == ["one"]
    edit = page.get(f"history/edits/{first['edits'][0]}")
    assert edit["texts"] == [PROMPT]
    assert edit["in_force"]
    assert edit["matrices"]


def test_revert_asks_for_what_was_made_after(page: Page) -> None:
    first, second = page.keep(), page.keep([FACTS[1]])
    told = page.post("history/revert", {"edits": first["edits"], "why": "wrong"})
    assert told["reverted"] == first["edits"]
    assert told["left"] == len(second["edits"])
    assert told["command"].endswith(f"{first['edits'][0]} --why wrong")
    run = page.ended(told["run"])
    assert run["result"]["asked"] == 1
    page.post("history/checkout", {"version": "@2"})
    assert Ledger(page.studio.opened.ledger).head.size == 2
    told = page.get("history/diff?a=@2&b=@3")
    assert [(c["before"], c["after"]) for c in told["changes"]] == [("Madrid", None)]
    refused = page.post("history/revert", {"edits": ["0123456789abcdef"]}, 409)["error"]
    assert "There is no edit" in refused["message"]


def test_a_new_server_knows_what_an_old_one_recorded(prepared: Prepared, tmp_path: Path) -> None:
    with opened(prepared, tmp_path) as page:
        page.keep()
        said = page.ask(PROMPT, "edited")
        page.preview([FACTS[1]])
    with opened(prepared, tmp_path) as page:
        assert page.get("about")["now"]["edits"] == 1
        assert page.get("about")["previews"] == []
        assert page.ask(PROMPT, "edited") == said
        told = page.post("facts/read", {"records": FACTS[:1]})
        assert "says this already" in problems(told["rows"])[0][0]


def test_a_ledger_that_broke_is_told_and_the_page_goes_on(page: Page) -> None:
    page.keep()
    said = page.ask(PROMPT, "edited")
    journal = page.studio.opened.ledger / "journal.jsonl"
    with open(journal, "a", encoding="utf-8") as file:
        file.write("no entry\n")
    assert page.ask(PROMPT, "edited") == said
    assert "journal.jsonl" in page.get("news")["now"]["problem"]
    assert page.send("GET", "/api/history").status_code == 409


# Export and look inside.


def test_an_export_is_written_with_its_command(page: Page, prepared: Prepared) -> None:
    kept = page.keep()
    run = page.run("exports", {"name": "adapter"})
    assert run["state"] == "done", run["error"]
    out = page.studio.opened.folder / "adapter"
    assert (out / "adapter_config.json").is_file()
    assert run["result"]["edits"] == kept["edits"]
    assert run["command"].endswith(f"--model {prepared.model} --format lora -o {out}")
    page.post("history/revert", {"edits": kept["edits"]})
    run = page.run("exports", {"name": "earlier", "version": "@1", "form": "delta"})
    assert run["state"] == "done"
    assert run["result"]["edits"] == kept["edits"]
    assert page.ask(PROMPT, "base")["base"] == page.ask(PROMPT, "edited")["edited"]
    run = page.run("exports", {"name": "none"})
    assert run["state"] == "failed"
    assert not (page.studio.opened.folder / "none").exists()
    again = page.post("exports", {"name": "adapter"}, 400)["error"]
    assert "is there already" in again["message"]


def test_a_trace_is_told_row_by_row(shared: Page, prepared: Prepared) -> None:
    partials: list[int] = []
    partly = shared.studio.partly
    shared.studio.partly = lambda run, told: (
        partials.append(len(told["rows"])),
        partly(run, told),
    )[1]  # type: ignore[method-assign]
    try:
        body = {"prompt": "The capital of {} is", "subject": "France", "samples": 3}
        run = shared.run("look/trace", body)
    finally:
        del shared.studio.partly
    told = run["result"]
    assert partials == list(range(len(told["tokens"]) + 1))
    from alphaedit.locate.trace import trace

    fact = Fact("The capital of {} is", "France", "?")
    whole = trace(prepared.editor().handle, [fact], samples=3)
    assert told["clean"] == pytest.approx(whole.clean)
    assert told["corrupted"] == pytest.approx(whole.corrupted)
    last = whole.restored_by_fact[0, -1].tolist()
    assert told["rows"][-1] == pytest.approx(last, rel=1e-4)


def test_spectra_and_where_an_edit_went(page: Page) -> None:
    settings = {**SETTINGS, "layers": "1-2", "energy": 0.9}
    run = page.preview(method="alphaedit", settings=settings)
    kept = page.post(f"previews/{run['id']}/keep")
    run = page.run("look/spectra", {"layers": [1, 2]})
    assert [row["layer"] for row in run["result"]["layers"]] == [1, 2]
    row = run["result"]["layers"][0]
    assert row["values"] == sorted(row["values"])
    assert 0 < row["dim"] < row["d_in"]
    run = page.run("look/where", {"edit": "last"})
    told = run["result"]
    assert told["edit"] == kept["edits"][0]
    assert [row["layer"] for row in told["matrices"]] == [1, 2]
    assert all(row["share"] > 0 and len(row["facts"]) == 1 for row in told["matrices"])
    edit, learned = Ledger(page.studio.opened.ledger).read(told["edit"])
    key = learned.keys[1]
    change = edit.patch.weights[told["matrices"][0]["matrix"]].matrix()
    page.ask(PROMPT, "edited")
    weight = page.studio.editor.handle.weight(1)
    with page.studio.models.lent([]):
        base = page.studio.editor.handle.weight(1)
    assert not torch.equal(weight, base)
    wanted = float((change @ key).norm() / (base @ key).norm())
    assert told["matrices"][0]["facts"][0] == pytest.approx(wanted, rel=1e-4)


def test_editors_own_pairs_bring_back_what_was_in_force(prepared: Prepared) -> None:
    editor: Editor = prepared.editor()
    editor.edit(Fact(**FACTS[0]), METHOD, **SETTINGS)
    pairs = editor.pairs()
    editor.revert()
    editor.set_edits(pairs)
    assert [edit.id for edit in editor.edits] == [pairs[0][0].id]


def test_too_little_memory_is_told_as_that(page: Page, caplog: pytest.LogCaptureFixture) -> None:
    def work(run: Any, progress: Any) -> None:
        raise MemoryError

    run = page.ended(page.studio.start("other", "huge", work).id)
    assert run["error"]["message"] == "Memory does not suffice for this run."
    assert "of a batch" in run["error"]["remedy"]
