"""`alphaedit serve`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import options
from alphaedit.cli.options import examples
from alphaedit.cli.output import Started
from alphaedit.core.errors import ConfigError

EXAMPLES = examples(
    "alphaedit serve bundled --edits my-edits",
    "alphaedit serve ./my-model --edits my-edits --edits draft=other-edits --port 8080",
    "alphaedit serve ./my-model --edits my-edits --host 0.0.0.0 --api-key secret",
    "alphaedit serve bundled --port 0 --json",
)
KEY = "ALPHAEDIT_API_KEY"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the server listens, and who may ask."""

    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="NAME",
            help="Address to listen at. Others than this machine's own need a key.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        typer.Option("--port", min=0, max=65535, help="Port to listen at; 0 for any free one."),
    ] = 8000
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            metavar="TEXT",
            envvar=KEY,
            show_envvar=False,
            help=f"Key that clients must send. Other users of this machine can read it in its "
            f"list of processes, unless it is given as ${KEY}.",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Refuse a key that no client could send.

        Raises:
            ConfigError: it is empty, or has characters that headers do not.
        """
        key = self.api_key
        if key is not None and not (key.strip() == key and key.isascii() and key.isprintable()):
            raise ConfigError("The key cannot be sent.", remedy="Give one of ASCII characters.")
        if key == "":
            raise ConfigError("The key is empty.", remedy="Give one, or leave --api-key out.")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the server takes on."""

    batch: Annotated[
        int, typer.Option("--batch", min=1, help="Most requests that are answered together.")
    ] = 16
    queue: Annotated[
        int,
        typer.Option("--queue", min=1, help="Most requests that wait; others are refused (429)."),
    ] = 64
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")
    ] = 1024
    max_body: Annotated[
        int, typer.Option("--max-body", min=1, help="Most bytes of a request's body.")
    ] = 1 << 20
    grace: Annotated[
        int,
        typer.Option(
            "--grace", min=0, help="Seconds that requests may still take when it is stopped."
        ),
    ] = 30


@options.grouped
def serve(
    model: options.Model,
    *,
    edits: Annotated[
        list[str] | None,
        typer.Option(
            "--edits",
            metavar="[NAME=]LEDGER",
            help="Serve the model with the edits in force there, under NAME or the directory's "
            "name. Repeatable.",
            show_default=False,
        ),
    ] = None,
    place: Place,
    limits: Limits,
    common: options.Seeded,
) -> dict[str, Any]:
    """Answer OpenAI's completions and chat completions, with edits of any kind.

    The unedited model is served besides, under the name of MODEL.
    """
    from alphaedit.jobs import serve as job

    request = job.ServeRequest(
        model=model,
        ledgers=ledgers_of(edits or []),
        batch=limits.batch,
        queue=limits.queue,
        max_new_tokens=limits.max_new_tokens,
        seed=common.seed,
        **vars(common.loading),
    )
    request.check()
    try:
        from alphaedit.server import listening
        from alphaedit.server.app import Limits as Requests
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(
            f"Serving needs {error.name.partition('.')[0]}, which is not installed.",
            remedy="pip install 'alphaedit[serve]'",
        ) from None
    listener = listening.bound(place.host, place.port, key=place.api_key)
    session = common.session
    try:
        with session.progress() as progress:
            service = job.run(request, progress=progress)
    except BaseException:
        listener.close()
        raise
    listener.listen()  # a client that reads the address may come before the server runs
    address = listening.address_of(listener)
    names = ", ".join(service.models.names)
    session.say(f"Serving {names} at {address}", "Ctrl-C stops it.")
    allowed = Requests(body=limits.max_body, key=place.api_key)
    go_on = partial(listening.serve, service, listener, allowed, grace=limits.grace)
    return Started({"url": address, "models": service.models.status()}, go_on)


def ledgers_of(given: list[str]) -> dict[str, Path]:
    """Directories of ledgers by the names of their models.

    Raises:
        ConfigError: two have one name, or a part is missing.
    """
    from alphaedit.ledger.ledger import Ledger

    ledgers: dict[str, Path] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals or Ledger.at(text):  # a directory may have an = in its name
            name, place = Path(text).resolve().name, text
        if not name or not place:
            raise ConfigError(
                f"--edits is {text!r}.", remedy="Give LEDGER, or NAME=LEDGER: --edits v2=my-edits."
            )
        if name in ledgers:
            raise ConfigError(
                f"Two models would be called {name!r}: those of {ledgers[name]} and {place}.",
                remedy=f"Name one otherwise: --edits NAME={place}.",
            )
        ledgers[name] = Path(place)
    return ledgers
