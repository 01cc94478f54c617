"""A server in a thread of the test's process, and a client that keeps its connection."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ulmfit_fast.inference.serve.batcher import Batching
from ulmfit_fast.inference.serve.limits import Limits
from ulmfit_fast.inference.serve.server import Server, bound_socket
from ulmfit_fast.inference.serve.service import Service

_ENOUGH_S = 60


class Client:
    """One connection to a server."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ENOUGH_S)

    def ask(
        self, path: str, body: Any = None, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (of JSON what it says, else text) and headers; ``body`` is sent as JSON unless it is bytes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {"content-type": "application/json"} if headers is None else headers
        self.connection.request(method or ("GET" if data is None else "POST"), path, data, named)
        answer = self.connection.getresponse()
        text = answer.read().decode()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(text) if "json" in found.get("content-type", "") else text, found

    def close(self) -> None:
        self.connection.close()


@contextlib.contextmanager
def serving(service: Service) -> Iterator[int]:
    """The port of a server of these models, within the block."""
    listening = bound_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = Server(service)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield port
    finally:
        server.should_exit = True
        thread.join(_ENOUGH_S)
        assert not thread.is_alive()


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _ENOUGH_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def serve() -> Iterator[Callable[..., Client]]:
    """``serve(models, limits, batching)``: a client of a server of these; both end with the test."""
    with contextlib.ExitStack() as stack:

        def start(models: dict[str, Any], limits: Limits | None = None, batching: Batching | None = None) -> Client:
            client = Client(stack.enter_context(serving(Service(models, limits, batching))))
            stack.callback(client.close)
            return client

        yield start
