"""The server under load from this process: short texts, one a request, from several clients that ask without a pause.

Beside it the simplest FastAPI handler with torch.nn.LSTM on the same weights (simple_server). All servers run at the
same time, each on all cores; they are asked in turn, so that each waits while another works.

`python -m benchmarks.bench_serve` prints the table. With --restart it also stops a server while it is asked, and starts
another on the same socket, and counts the requests that were not answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from benchmarks.conftest import SMOKE, machine_facts
from benchmarks.served_models import PAPER, made_texts, write_model

CLIENTS = (2,) if SMOKE else (1, 8, 32)
OURS, INT8 = "ulmfit-fast serve", "ulmfit-fast serve, int8"
SIMPLE, SERIAL = "FastAPI handler, nn.LSTM", "the same, one request at a time"
TITLES = ["clients", "server", "requests/s", "p50, ms", "p99, ms", "requests/s over the simple one's", "requests"]
_START_S = 180
_HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


@dataclass
class Load:
    """What clients measured of one server."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


async def ask_for(port: int, texts: list[str], clients: int, seconds: float, load: Load) -> None:
    """Each client has a connection and sends a text as soon as the one before is answered."""
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader = writer = None
        place = number
        while time.perf_counter() < end:
            body = json.dumps({"texts": texts[place % len(texts)]}).encode()
            place += clients
            start = time.perf_counter()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                assert reader is not None
                writer.write(_HEAD.format(len(body)).encode() + body)
                answer = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
                content = await reader.readexactly(length)
                if not answer.startswith(b"http/1.1 200"):
                    load.faults.append(content.decode())
                    continue
                load.latencies.append(time.perf_counter() - start)
                if b"connection: close" in answer:
                    writer.close()
                    writer = None
            except (OSError, asyncio.IncompleteReadError) as error:
                load.faults.append(repr(error))
                writer = None
        if writer is not None:
            writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    load.seconds += time.perf_counter() - start


@contextlib.contextmanager
def running(arguments: list[str], port: int, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, once it answers."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, **options)
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(arguments)} does not start") from None
                time.sleep(0.1)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def commands(folder: Path) -> dict[str, tuple[list[str], int]]:
    ports = [free_port() for _ in range(4)]
    serve = ["ulmfit_fast", "serve", str(folder), "--port"]
    found = {
        OURS: ([*serve, str(ports[0])], ports[0]),
        SIMPLE: (["benchmarks.simple_server", str(folder), str(ports[1])], ports[1]),
    }
    if SMOKE:
        return found
    return found | {
        INT8: ([*serve, str(ports[2]), "--precision", "int8"], ports[2]),
        SERIAL: (["benchmarks.simple_server", str(folder), str(ports[3]), "serial"], ports[3]),
    }


def table(seconds: float, rounds: int, numbers: Sequence[int] = CLIENTS) -> Iterator[list[str]]:
    texts = made_texts(20 if SMOKE else 2000)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        servers = commands(write_model(Path(temporary) / "clf", PAPER))
        for arguments, port in servers.values():
            stack.enter_context(running(arguments, port))
        for _, port in servers.values():  # warm
            asyncio.run(ask_for(port, texts, 4, min(seconds, 2.0), Load()))
        for clients in numbers:
            loads = {name: [Load() for _ in range(rounds)] for name in servers}
            for number in range(rounds):
                for name, (_, port) in servers.items():
                    asyncio.run(ask_for(port, texts, clients, seconds, loads[name][number]))
            for name, found in loads.items():
                assert not any(load.faults for load in found), found
                ratios = [one.rate / other.rate for one, other in zip(found, loads[SIMPLE], strict=True)]
                yield [
                    str(clients), name, f"{statistics.median(load.rate for load in found):.0f}",
                    f"{statistics.median(load.percentile(0.5) for load in found) * 1e3:.1f}",
                    f"{statistics.median(load.percentile(0.99) for load in found) * 1e3:.1f}",
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                    str(sum(len(load.latencies) for load in found)),
                ]  # fmt: skip


def restart(clients: int, seconds: float) -> str:
    """What becomes of requests while one server follows another on a socket that stays open."""
    texts, load = made_texts(200), Load()
    with tempfile.TemporaryDirectory() as temporary, socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        folder, port = write_model(Path(temporary) / "clf", PAPER), listening.getsockname()[1]
        arguments = ["ulmfit_fast", "serve", str(folder), "--fd", str(listening.fileno())]
        passed = {"pass_fds": (listening.fileno(),)}

        async def meanwhile() -> None:
            asking = asyncio.create_task(ask_for(port, texts, clients, seconds, load))
            await asyncio.sleep(seconds / 3)
            first.send_signal(signal.SIGTERM)
            await asking

        with running(arguments, port, **passed) as first, running(arguments, port, **passed):
            asyncio.run(meanwhile())
            first.wait(60)
    answered, lost = len(load.latencies), len(load.faults)
    return f"{answered} requests answered while a server was stopped, {lost} not; its exit status {first.returncode}"


def test_serving(benchmark: Any) -> None:
    """The report takes the cells; pytest-benchmark's own time is of the whole table."""
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        pytest.importorskip(name, reason="the extra serve is not installed")
    found: list[list[str]] = []
    benchmark.pedantic(lambda: found.extend(table(0.05 if SMOKE else 5.0, 1 if SMOKE else 3)))
    benchmark.extra_info.update({"kind": "serving", "cells": found} | machine_facts())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_serve", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each server, number of clients and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--restart", action="store_true", help="only what becomes of requests at a restart")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    if options.restart:
        print(restart(16, options.seconds * 4))
        return
    print(f"| {' | '.join(TITLES)} |\n|{' --- |' * len(TITLES)}")
    for row in table(options.seconds, options.rounds, options.clients):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
