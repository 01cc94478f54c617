"""Bodies that are too large, too slow or too many at a time."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.inference.serve.conftest import Client, serving, wait_for
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.serve.limits import Limits
from ulmfit_fast.inference.serve.service import Service

Serve = Callable[..., Client]
_HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def exchange(port: int, *parts: bytes) -> bytes:
    """Everything that a server answers to these pieces, until it closes."""
    with socket.create_connection(("127.0.0.1", port), 30) as raw:
        for part in parts:
            raw.sendall(part)
        found = b""
        while part := raw.recv(65536):
            found += part
        return found


def test_a_large_body_in_chunks(serve: Serve, loaded: Classifiers) -> None:
    """Its length is nowhere declared; the answer arrives all the same, though it was refused half-way."""
    port = serve({"clf": loaded}, Limits(body_bytes=10_000)).connection.port
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    answer = exchange(port, _HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 50, b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"larger than 10,000 bytes" in answer


def test_a_client_that_asks_first_is_spared_the_body(serve: Serve, loaded: Classifiers) -> None:
    port = serve({"clf": loaded}, Limits(body_bytes=10_000)).connection.port
    answer = exchange(port, _HEAD + b"Expect: 100-continue\r\nContent-Length: 20000000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_body_that_trickles(serve: Serve, loaded: Classifiers) -> None:
    port = serve({"clf": loaded}, Limits(body_seconds=0.2)).connection.port
    start = time.monotonic()
    answer = exchange(port, _HEAD + b"Content-Length: 100\r\n\r\n", b'{"te')
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not come within 0.2 s" in answer
    assert time.monotonic() - start < 10


def test_many_bodies_at_a_time(serve: Serve, loaded: Classifiers) -> None:
    """Two that wait for their ends hold all that may be held; when they are through there is room again."""
    client = serve({"clf": loaded}, Limits(held_bytes=5000))
    body = json.dumps({"texts": ["fine"], "model": "clf"}).encode()
    padded = body + b" " * (2000 - len(body))
    waiting = []
    for _ in range(2):
        raw = socket.create_connection(("127.0.0.1", client.connection.port), 30)
        raw.sendall(_HEAD + b"Content-Length: 2000\r\n\r\n" + padded[:-1])
        waiting.append(raw)
    found: list[Any] = []
    wait_for(lambda: bool(found.append(client.ask("/predict", padded)) or client.close() or found[-1][0] == 503))
    assert "holds as many requests as it can" in found[-1][1]["detail"]
    for raw in waiting:
        raw.sendall(padded[-1:])
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")
        raw.close()
    assert client.ask("/predict", padded)[0] == 200


def test_many_connections(serve: Serve, loaded: Classifiers) -> None:
    client = serve({"clf": loaded}, Limits(connections=3))
    idle = [socket.create_connection(("127.0.0.1", client.connection.port), 30) for _ in range(4)]
    wait_for(lambda: client.ask("/health")[0] == 503)
    for raw in idle:
        raw.close()
    wait_for(lambda: client.ask("/health")[0] == 200)


def test_a_queue_that_is_full(loaded: Classifiers, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun, run = threading.Event(), threading.Event(), type(loaded).activated

    def slow(self: Classifiers, texts: Any, *rest: Any) -> Any:
        begun.set()
        go.wait(30)
        return run(self, texts, *rest)

    monkeypatch.setattr(type(loaded), "activated", slow)
    service = Service({"clf": loaded}, Limits(queue_texts=2))
    with serving(service) as port, ThreadPoolExecutor(2) as pool:
        computed = pool.submit(lambda: Client(port).ask("/predict", {"texts": "a"})[0])
        assert begun.wait(30)
        waiting = pool.submit(lambda: Client(port).ask("/predict", {"texts": ["a", "b"]})[0])
        wait_for(lambda: service.models["clf"].batcher.waiting == 2)
        client = Client(port)
        status, refused, headers = client.ask("/predict", {"texts": "c"})
        assert (status, headers["retry-after"]) == (503, "1")
        assert "2 texts wait already" in refused["detail"]
        assert client.ask("/health")[0] == 200  # a full queue is no failure
        go.set()
        assert (computed.result(), waiting.result()) == (200, 200)
        assert client.ask("/predict", {"texts": "c"})[0] == 200
        client.close()


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(InputError, match="Limits: texts must be positive, got 0"):
        Limits(texts=0)
