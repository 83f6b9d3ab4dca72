"""Where the server listens, and how it ends."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.jobs.serve import Service
from alphaedit.server.app import Limits, application

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MORE_SECONDS = 5
"""After the grace: for requests that are told the end."""


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int, *, key: str | None) -> socket.socket:
    """A socket at an address, before anything expensive is begun.

    Raises:
        ConfigError: others could reach it, and there is no key.
        ResourceError: the port is in use, or there is no such address.
    """
    if key is None and not is_loopback(host):
        raise ConfigError(
            f"{host} can be reached from other machines, and no key is asked for.",
            remedy="Give a key (--api-key, or $ALPHAEDIT_API_KEY), or stay with 127.0.0.1.",
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unreachable(host, port, error) from error
    try:
        if os.name == "posix":  # elsewhere it would let two programs share the port
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise _unreachable(host, port, error) from error
    return made


def _unreachable(host: str, port: int, error: OSError) -> ResourceError:
    if error.errno == errno.EADDRINUSE:
        return ResourceError(
            f"Port {port} of {host} is in use.",
            remedy="Give another one: --port N, or --port 0 for any that is free.",
        )
    return ResourceError(
        f"Cannot listen at {host}, port {port}: {error.strerror or error}.",
        remedy="Give an address of this machine (--host), and a port from 1024 up (--port).",
    )


def address_of(listener: socket.socket) -> str:
    """The address for clients, with the port that was given or is free."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


class Server(uvicorn.Server):
    """Ends by a signal or `end`: requests there are may take some seconds, others are refused."""

    def __init__(
        self, service: Service, limits: Limits, *, grace: float, app: Starlette | None = None
    ) -> None:
        self.service, self.grace = service, grace
        super().__init__(
            uvicorn.Config(
                app or application(service, limits),
                log_config=None,
                access_log=False,
                lifespan="on",
                server_header=False,
                timeout_graceful_shutdown=int(grace) + MORE_SECONDS,
            )
        )

    def end(self) -> None:
        """Begin to end; from any thread."""
        self.should_exit = True
        threading.Thread(target=self.service.stop, args=(self.grace,), daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; at once if that was asked for before."""
        if self.should_exit:
            self.force_exit = True
        self.end()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End by signals, and tell nobody else of them: an end that was asked for is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {
            number: signal.signal(number, self.handle_exit) for number in SIGNALS
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def serve(
    service: Service,
    listener: socket.socket,
    limits: Limits,
    *,
    grace: float,
    app: Starlette | None = None,
) -> None:
    """Answer until a signal comes; `app` in place of OpenAI's endpoints."""
    try:
        Server(service, limits, grace=grace, app=app).run(sockets=[listener])
    finally:
        listener.close()
        service.stop()
