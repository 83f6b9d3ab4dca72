"""Who may ask the studio: tokens, origins, names, paths; no text of others is ever code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.studio import SETTINGS, Page, Prepared, opened, prepare

from alphaedit.core.errors import ConfigError
from alphaedit.jobs.studio_about import Gallery
from alphaedit.jobs.studio_runs import place_for
from alphaedit.server.studio_safety import TOKEN

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "src/alphaedit/server/page").iterdir())
SCRIPT = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>"
ROUTES = [
    ("GET", "about"), ("GET", "methods"), ("GET", "news"), ("POST", "ask"), ("POST", "facts/read"),
    ("POST", "facts/ask"), ("POST", "previews"), ("POST", "previews/x/keep"),
    ("POST", "previews/x/discard"), ("GET", "runs/x"), ("POST", "runs/x/cancel"),
    ("GET", "history"), ("GET", "history/diff"), ("GET", "history/edits/x"),
    ("POST", "history/revert"), ("POST", "history/checkout"), ("POST", "exports"),
    ("POST", "look/trace"), ("POST", "look/spectra"), ("POST", "look/where"), ("GET", "results"),
    ("GET", "results/page"), ("GET", "nothing"),
]  # fmt: skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("safety"))


@pytest.fixture(scope="module")
def page(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("place")
    results = folder / "results"
    (results / "mine").mkdir(parents=True)
    (results / "mine" / "report.html").write_text(f"<p>{SCRIPT}</p>", encoding="utf-8")
    (folder / "secret" / "deep").mkdir(parents=True)
    (folder / "secret" / "report.html").write_text("secret", encoding="utf-8")
    (results / "link").symlink_to(folder / "secret")
    with opened(prepared, folder, results=results) as made:
        yield made


def test_all_routes_are_tried(page: Page) -> None:
    from alphaedit.server.studio_api import Api
    from alphaedit.server.studio_pages import Pages

    known = {(m, p.replace("{name}", "x")) for m, p, _ in Api(page.studio, Pages()).routes()}
    assert known == set(ROUTES[:-1])


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_told_without_the_token(page: Page, method: str, path: str) -> None:
    for headers in ({}, {TOKEN: ""}, {TOKEN: "x"}, {TOKEN: page.token + "x"}):
        reply = page.client.request(method, f"/api/{path}?token={page.token}", headers=headers)
        assert reply.status_code == 401
        assert "token" in reply.json()["error"]["message"]


@pytest.mark.parametrize("method_path", ROUTES[:4])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:8123"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_others_are_refused(page: Page, method_path: Any, headers: Any) -> None:
    method, path = method_path
    reply = page.send(method, f"/api/{path}", headers=headers)
    assert reply.status_code == 403
    assert reply.json()["error"]["code"] == "foreign_origin"
    assert "access-control-allow-origin" not in reply.headers


def test_the_page_itself_may_ask(page: Page) -> None:
    headers = {"origin": "http://127.0.0.1:8123", "sec-fetch-site": "same-origin"}
    assert page.send("GET", "/api/about", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8123", "127.0.0.1.evil.example", ""]
)
@pytest.mark.parametrize("path", ["/", "/page/app.js", "/api/about"])
def test_names_that_others_made_lead_here_are_refused(page: Page, host: str, path: str) -> None:
    reply = page.send("GET", path, headers={"host": host})
    assert reply.status_code == 421


def test_asking_beforehand_gives_no_leave(page: Page) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    reply = page.client.request("OPTIONS", "/api/ask", headers=headers)
    assert reply.status_code in (401, 403)
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/page/none", "/nowhere", "/api/about"])
def test_browsers_are_told_what_they_may_not(page: Page, path: str) -> None:
    reply = page.send("GET", path)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/page/../studio.py", "/page/..%2Fstudio.py", "/page/%2e%2e/studio.py",
        "/page/....//studio.py", "/page//etc/passwd", "/page/..%5Cstudio.py", "/page/%00",
        "/report/../../etc/passwd", "/report/mine", "/report/", "/..%2f..%2fetc/passwd",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_page(page: Page, path: str) -> None:
    reply = page.client.get(path)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    "name",
    [
        "../x", "a/../../x", "/tmp/x", "..", ".", "", " ", "C:\\x", "a\\..\\..\\x", "x\n", "x\0y",
        "link/x", "a" * 300, "edits",
    ],
)  # fmt: skip
def test_exports_stay_below_their_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "edits").mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError):
        place_for(folder, name, "lora")
    assert place_for(folder, "fine/x", "lora") == folder / "fine/x"


def test_a_gguf_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not end in \.gguf"):
        place_for(tmp_path, "x", "gguf-lora")


@pytest.mark.parametrize(
    "name", ["../secret", "link", "mine/../../secret", "/etc", "mine/report.html"]
)
def test_only_results_that_are_listed_are_shown(page: Page, name: str) -> None:
    assert [row["name"] for row in page.get("results")["results"]] == ["mine"]
    assert page.send("GET", "/api/results/page", params={"name": name}).status_code == 404


def test_a_report_gets_no_rights(page: Page) -> None:
    address = page.get("results/page?name=mine")["address"]
    reply = page.client.get(address)
    assert reply.status_code == 200
    assert SCRIPT in reply.text
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("sandbox;")
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "allow-scripts" not in policy


def test_results_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{", encoding="utf-8")
    (row,) = Gallery(tmp_path).listed()
    assert row["name"] == "broken"
    assert row["problem"]
    assert row["groups"] == []
    assert Gallery(tmp_path / "nowhere").listed() == Gallery(None).listed() == []


def test_script_in_every_field_comes_back_as_text(page: Page) -> None:
    fact = {
        "prompt": SCRIPT + "{} is", "subject": SCRIPT, "target": SCRIPT, "truth": SCRIPT + "x",
        "paraphrases": [SCRIPT], "neighborhood": [SCRIPT], "id": SCRIPT,
    }  # fmt: skip
    replies = [
        page.send("POST", "/api/facts/read", {"records": [fact]}),
        page.send("POST", "/api/facts/read", {"text": SCRIPT}),
        page.send("POST", "/api/ask", {"prompt": SCRIPT, "models": ["base"], "max_tokens": 2}),
        page.send("POST", "/api/ask", {"prompt": "x", "models": [SCRIPT]}),
        page.send("POST", "/api/exports", {"name": SCRIPT}),
        page.send("POST", "/api/exports", {"name": "x", "form": SCRIPT}),
        page.send("POST", "/api/previews", {"records": [fact], "method": SCRIPT}),
        page.send("POST", "/api/previews", {"records": [fact], "settings": {SCRIPT: SCRIPT}}),
        page.send("POST", "/api/history/revert", {"edits": [SCRIPT], "why": SCRIPT}),
        page.send("GET", "/api/history/diff", params={"a": SCRIPT, "b": SCRIPT}),
        page.send("GET", f"/api/runs/{SCRIPT}"),
        page.send("GET", "/api/history", params={"words": SCRIPT}),
        page.send("GET", f"/{SCRIPT}"),
    ]
    for reply in replies:
        kind = reply.headers["content-type"]
        assert kind in ("application/json", "application/x-ndjson"), kind
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.text.isascii()
    told = replies[0].json()["rows"][0]["record"]
    assert told["subject"] == SCRIPT


def test_script_in_a_fact_is_edited_and_recorded_as_text(page: Page) -> None:
    script = "<script>1</script>"
    fact = {"prompt": "{} is in", "subject": script, "target": script}
    run = page.preview([fact], settings={**SETTINGS, "layers": "1-2", "steps": 1})
    assert run["state"] == "done", run["error"]
    kept = page.post(f"previews/{run['id']}/keep", {"why": SCRIPT})
    entry = page.get("history")["entries"][0]
    assert entry["why"] == SCRIPT
    assert script in entry["add"][0]["first"]
    assert page.get(f"history/edits/{kept['edits'][0]}")["facts"][0]["target"] == script


def test_the_sources_of_the_page_make_no_code_of_texts() -> None:
    assert {file.suffix for file in FILES} == {".html", ".css", ".js", ".svg"}
    banned = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|"
        r"createContextualFragment|srcdoc|javascript:|setTimeout\([\"'`]|postMessage"
    )
    elsewhere = re.compile(r"https?://(?!www\.w3\.org/)[\w.]+")
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not banned.search(text), file.name
        assert not elsewhere.search(text), file.name


def test_the_page_has_no_inline_code() -> None:
    text = (ROOT / "src/alphaedit/server/page/index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", text)
    for address in re.findall(r'(?:src|href)="([^"#]+)"', text):
        assert (ROOT / "src/alphaedit/server/page" / address.removeprefix("/page/")).is_file()


def test_bodies_are_checked(page: Page) -> None:
    plain = {"headers": {TOKEN: page.token, "content-type": "text/plain"}}
    reply = page.client.post("/api/ask", content="{}", **plain)
    assert reply.status_code == 415
    typed = {"headers": {TOKEN: page.token, "content-type": "application/json"}}
    for content in ("{", "[]", "null", '{"prompt": 1e999}', b"\xff"):
        reply = page.client.post("/api/ask", content=content, **typed)
        assert reply.status_code == 400, content
    deep = "[" * 100_000
    assert page.client.post("/api/ask", content=deep, **typed).status_code == 400
    for path in ("/api/history?before=x", "/api/history?count=-1", "/api/news?since=1e9"):
        assert page.send("GET", path).status_code == 400


def test_a_huge_body_is_refused(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    from alphaedit.server import studio_bodies

    monkeypatch.setattr(studio_bodies, "LARGEST", 1000)
    reply = page.send("POST", "/api/facts/read", {"text": "x" * 2000})
    assert reply.status_code == 413
    assert "alphaedit edit MODEL FILE" in reply.json()["error"]["message"]


def test_wrong_methods_are_refused(page: Page) -> None:
    assert page.send("GET", "/api/ask").status_code == 405
    assert page.send("DELETE", "/api/history").status_code == 405


def test_prompts_are_quoted_in_commands(page: Page) -> None:
    body = {"prompt": "$(touch x); '\"`", "models": ["base"], "max_tokens": 1}
    first = json.loads(page.send("POST", "/api/ask", body).text.splitlines()[0])
    import shlex

    assert shlex.split(first["command"])[-1] == body["prompt"]
