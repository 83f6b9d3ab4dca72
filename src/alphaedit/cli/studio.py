"""`alphaedit studio`."""

from __future__ import annotations

import os
import re
import sys
import threading
import webbrowser
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import complete, options
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, Started
from alphaedit.core.errors import ConfigError

EXAMPLES = examples(
    "alphaedit studio",
    "alphaedit studio bundled --edits my-edits",
    "alphaedit studio ./my-model --results results --port 8400",
    "alphaedit studio --edits my-edits --no-browser --json",
)
DEFAULT = "bundled"
RESULTS = Path("results")


@dataclass(frozen=True, kw_only=True)
class Page:
    """Where the page is, and who opens it."""

    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="NAME",
            help="Address to listen at; others than this machine's own need --allow-host.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="Port to listen at; 0 for any free one."),
    ] = 8123
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="Another name that browsers may find the page under. Repeatable.",
            show_default=False,
        ),
    ] = None
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = (
        False
    )

    @property
    def names(self) -> list[str]:
        """Other names of the server, in small letters."""
        return [name.strip("[]").lower() for name in self.allow_host or ()]

    def refuse(self, host: str) -> ConfigError:
        """The error of an address that others could reach."""
        return ConfigError(
            f"{host} can be reached from other machines, and the page is not encrypted.",
            remedy="Stay with 127.0.0.1 and use a tunnel (ssh -L 8123:127.0.0.1:8123 MACHINE), or "
            "name the host by which it is to be found: --allow-host NAME.",
        )


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is worked on besides the model."""

    edits: Annotated[
        Path | None,
        typer.Option(
            "--edits",
            metavar="LEDGER",
            help="The ledger that is worked on; it is begun with the first edit that is kept.",
            show_default="MODEL-edits in this directory",
        ),
    ] = None
    results: Annotated[
        Path | None,
        typer.Option(
            "--results",
            metavar="DIR",
            help="Results of experiments to show.",
            show_default="./results, if it is there",
        ),
    ] = None
    exports: Annotated[
        Path,
        typer.Option("--exports", metavar="DIR", help="Where exports of the page are written."),
    ] = Path()


@options.grouped
def studio(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete.models,
            help="A model directory or .gguf file, a hub name (owner/name), 'bundled', "
            "'bundled-small' or 'bundled-reader'.",
            show_default="that of --edits, else bundled",
        ),
    ] = None,
    *,
    shown: Shown,
    page: Page,
    moments: options.Moments,
    common: options.Seeded,
) -> dict[str, Any]:
    """Open a page in the browser: ask, edit with preview, history, look inside, compare.

    It is served by this machine for this machine; the address has a token that nobody else knows.
    """
    from alphaedit.jobs import studio as job

    chosen, ledger = places(model, shown.edits)
    results = shown.results or (RESULTS if RESULTS.is_dir() else None)
    request = job.StudioRequest(
        model=chosen,
        ledger=ledger,
        results=results,
        folder=shown.exports,
        seed=common.seed,
        **vars(common.loading),
        **vars(moments),
    )
    request.check()
    listening, server, safety = _server()
    if not page.names and not listening.is_loopback(page.host):
        raise page.refuse(page.host)
    listener = listening.bound(page.host, page.port, key=" ".join(page.names) or None)
    listener.listen()  # whoever comes before the model is loaded waits for it
    door = safety.Door(names=(*safety.LOOPBACK_NAMES, *page.names))
    session = common.session
    try:
        with session.progress() as progress:
            opened = job.run(request, progress=progress)
    except BaseException:
        listener.close()
        raise
    base = listening.address_of(listener).removesuffix("/v1")
    address = f"{base}/#token={door.token}"
    session.say(f"The studio for {chosen} is open at", address, "Ctrl-C closes it.")
    if not (page.no_browser or common.json):
        _open(session, address)
    app = server.studio_application(opened, door)
    go_on = partial(listening.serve, opened, listener, None, grace=1, app=app)
    told = {"url": address, "address": base, "token": door.token, "model": chosen}
    return Started({**told, "ledger": str(ledger)}, go_on)


def places(model: str | None, edits: Path | None) -> tuple[str, Path]:
    """The model, and the ledger that is worked on.

    Raises:
        ConfigError: the ledger does not say which model it is of.
        LedgerError: it is broken.
    """
    from alphaedit.jobs.ledgers import model_of
    from alphaedit.ledger.ledger import Ledger

    if model is None:
        model = DEFAULT
        if edits is not None and Ledger.at(edits):
            try:
                model = model_of(Ledger(edits), None)
            except ConfigError as error:
                raise ConfigError(
                    error.message, remedy="Give the model: alphaedit studio MODEL --edits LEDGER."
                ) from None
    if edits is None:
        name = re.sub(r"[^\w.-]+", "-", Path(model).name.removesuffix(".gguf")).strip("-.")
        edits = Path(f"{name or 'model'}-edits")
    return model, edits


def _server() -> tuple[Any, Any, Any]:
    """The modules that need starlette and uvicorn.

    Raises:
        ConfigError: one is not installed.
    """
    try:
        from alphaedit.server import listening, studio, studio_safety
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(
            f"The studio needs {error.name.partition('.')[0]}, which is not installed.",
            remedy="pip install 'alphaedit[studio]'",
        ) from None
    return listening, studio, studio_safety


def _open(session: Session, address: str) -> None:
    """Open a browser, once the server answers; say so if there is none."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    if not screen:
        session.say("No browser can be opened here: open the address yourself.")
        return

    def go() -> None:
        try:
            opened = webbrowser.open(address)
        except (webbrowser.Error, OSError):
            opened = False
        if not opened:
            session.say("No browser was found: open the address yourself.")

    timer = threading.Timer(0.5, go)
    timer.daemon = True
    timer.start()
