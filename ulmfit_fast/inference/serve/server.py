"""A server on a socket that is there already, which loses no request that it has accepted when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Generator
from pathlib import Path

import uvicorn

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.serve.app import make_app
from ulmfit_fast.inference.serve.service import Service

_LINGER_S = 0.5  # that idle connections stay open when the server stops: a request may be on its way


class Server(uvicorn.Server):
    """uvicorn's, but for its end.

    Told to stop by SIGTERM or SIGINT, it accepts no more connections, answers what it has accepted and what still
    arrives on open connections, asking for each to be closed, and returns.
    """

    def __init__(self, service: Service, access_log: bool = False, stop_seconds: float = 30.0) -> None:
        self.service = service
        config = uvicorn.Config(
            make_app(service), lifespan="on", access_log=access_log, log_level="info" if access_log else "warning",
            limit_concurrency=service.limits.connections, timeout_graceful_shutdown=int(stop_seconds),
            server_header=False, ws="none",
        )  # fmt: skip
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.stopping = True
        await asyncio.sleep(0.02)  # the loop takes the connections that the system has made and nobody has yet
        for server in self.servers:
            server.close()
        until = time.monotonic() + _LINGER_S
        while self.server_state.connections and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn raises the signal again at the end; one that was obeyed is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at an address, which does not listen yet. Raises InputError where there can be none."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"--host {host} --port {port}: cannot be listened at ({reason})") from None
    return made


def inherited_socket(number: int) -> socket.socket:
    """The listening socket that whoever started this process left open. Raises InputError if it is none."""
    try:
        made = socket.socket(fileno=number)
        listens = made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise InputError(f"--fd {number}: is no socket ({error.strerror})") from None
    if not listens:
        made.detach()
        raise InputError(f"--fd {number}: is a socket that does not listen; leave a listening one open")
    return made


def address_of(listening: socket.socket) -> str:
    """As a browser takes it."""
    name = listening.getsockname()
    if not isinstance(name, tuple):
        return str(Path(str(name)))
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}"
