"""A server that is told to stop answers what it has accepted; one that takes over its socket answers the rest."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.inference.serve.conftest import Client, accepts, serving, wait_for
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.serve.service import Service

_ENOUGH_S = 120
_REQUEST = json.dumps({"texts": ["great superb", "awful dull"]})
_JSON = {"content-type": "application/json"}


def start(folder: Path, *options: str, fd: int | None = None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "ulmfit_fast", "serve", str(folder), *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        pass_fds=() if fd is None else (fd,),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def port_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    port = int(line.split("http://127.0.0.1:")[1].split()[0])
    wait_for(lambda: accepts(port))
    return port


def test_a_restart_loses_nothing(folder: Path) -> None:
    """Six clients ask without a pause while a server takes over another's socket: every request is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port, fd = listening.getsockname()[1], listening.fileno()
        process = start(folder, "--fd", str(fd), fd=fd)
        done, counts, faults = threading.Event(), [0] * 6, []

        def ask(place: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ENOUGH_S)
            while not done.is_set():
                if place % 2:  # half of them keep their connection as long as it is kept, half open one for each
                    connection.close()
                try:
                    connection.request("POST", "/predict", _REQUEST, _JSON)
                    answer = connection.getresponse()
                    body = json.loads(answer.read())
                    assert answer.status == 200, body
                    assert len(body["predictions"]) == 2
                    counts[place] += 1
                except Exception as error:
                    faults.append(error)
                    connection.close()

        threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: sum(counts) > 100)
            first, process = process, start(folder, "--fd", str(fd), fd=fd)
            first.send_signal(signal.SIGTERM)
            _, err = first.communicate(timeout=_ENOUGH_S)
            assert (first.returncode, err) == (0, "")
            before = sum(counts)
            wait_for(lambda: sum(counts) > before + 100)
        finally:
            done.set()
            for thread in threads:
                thread.join()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=_ENOUGH_S)
        assert faults == []
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_well(number: signal.Signals, folder: Path) -> None:
    process = start(folder, "--port", "0")
    client = Client(port_of(process))
    assert client.ask("/predict", {"texts": "fine"})[0] == 200
    process.send_signal(number)
    time.sleep(0.2)
    status, _, headers = client.ask("/predict", {"texts": "fine"})  # on the connection that is open
    assert (status, headers["connection"]) == (200, "close")
    _, err = process.communicate(timeout=_ENOUGH_S)
    assert (process.returncode, err) == (0, "")
    with pytest.raises(OSError):
        Client(client.connection.port).ask("/health")


def test_what_is_computed_when_the_server_stops_is_answered(
    loaded: Classifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight requests wait for a model that is slow; the server is told to stop; each gets its answer."""
    go, run = threading.Event(), type(loaded).activated

    def slow(self: Classifiers, texts: Any, *rest: Any) -> Any:
        go.wait(30)
        return run(self, texts, *rest)

    monkeypatch.setattr(type(loaded), "activated", slow)
    service = Service({"clf": loaded})
    answers: list[int] = []
    with serving(service) as port:
        threads = [
            threading.Thread(target=lambda: answers.append(Client(port).ask("/predict", {"texts": ["a"] * 9})[0]))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: service.models["clf"].batcher.waiting >= 8 * 9 - 64)
        threading.Timer(0.5, go.set).start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8
