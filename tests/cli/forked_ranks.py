"""Processes of a command, forked from one that has imported everything, killed, and all started again as torchrun does.

``torchrun`` imports torch anew in every process of every attempt, which takes most of the time of a test with many
kills. This program says what torchrun would say, in the environment, and likewise ends the others where one is lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import torch

from ulmfit_fast.cli.main import main as run_command
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.storage.run_file import CHECKPOINT, load_state
from ulmfit_fast.text.corpus import Corpus

SIZE = 2
_POLL_S = 0.01
_PATIENCE_S = 20.0  # from SIGTERM to SIGKILL
_AT_ONCE = 0.3  # of the kills: at any moment after the start, also before there is anything to go on from
_LATEST_S = 1.0  # of the others, after a checkpoint of the attempt,
_LATEST_EPOCHS = 2  # or so many epochs after it began, for the run not to end before its last kill


def start(arguments: list[str], attempt: int) -> dict[int, int]:
    """The processes of an attempt, by id: their ranks."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    ranks = {}
    for rank in range(SIZE):
        pid = os.fork()
        if pid == 0:
            os.environ |= {
                "RANK": str(rank), "WORLD_SIZE": str(SIZE), "LOCAL_RANK": str(rank), "MASTER_ADDR": "localhost",
                "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "forked", "TORCHELASTIC_RESTART_COUNT": str(attempt),
            }  # fmt: skip
            status = 70
            try:
                status = run_command(arguments)
            finally:
                sys.stderr.flush()
                os._exit(status)
        ranks[pid] = rank
    return ranks


class Attempt:
    """One start of all processes, until all have ended.

    Args:
        ranks: of the processes by their ids.
        victim: the rank to kill, or None.
        moments: draws when.
        output: the run's folder, which shows how far it is.
    """

    def __init__(self, ranks: dict[int, int], victim: int | None, moments: random.Random, output: Path) -> None:
        self.running, self.victim = dict(ranks), victim
        self.checkpoint, self.history = output / CHECKPOINT, output / "history.jsonl"
        self.statuses: dict[int, int] = {}
        self.before, self.begun = _changed(self.checkpoint), time.monotonic()
        self.epochs = _lines(self.history)
        self.waits_for_checkpoint = moments.random() >= _AT_ONCE
        self.delay = moments.uniform(0, _LATEST_S)
        self.killed = False
        self.ending: float | None = None

    def follow(self) -> None:
        while self.running:
            self._collect()
            self._kill_at_its_moment()
            if any(self.statuses.values()) and self.running:
                self._end_others()
            time.sleep(_POLL_S)

    def _collect(self) -> None:
        for pid in list(self.running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                self.statuses[self.running.pop(pid)] = os.waitstatus_to_exitcode(status)

    def _kill_at_its_moment(self) -> None:
        if self.victim is None or self.killed:
            return
        if self.waits_for_checkpoint:
            if _changed(self.checkpoint) <= self.before:
                return
            self.waits_for_checkpoint, self.begun = False, time.monotonic()
        is_late = _lines(self.history) >= self.epochs + _LATEST_EPOCHS
        if time.monotonic() < self.begun + self.delay and not is_late:
            return
        for pid, rank in self.running.items():
            if rank == self.victim:
                os.kill(pid, signal.SIGKILL)
                self.killed = True

    def _end_others(self) -> None:
        if self.ending is None:
            self.ending = time.monotonic()
            for pid in self.running:
                os.kill(pid, signal.SIGTERM)
        elif time.monotonic() > self.ending + _PATIENCE_S:
            for pid in self.running:
                os.kill(pid, signal.SIGKILL)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:
        return 0


def check(output: Path) -> None:
    """Nothing that a kill leaves behind is damaged: the checkpoint, the corpus. Raises InputError."""
    load_state(output)
    if (output / "corpus" / "train.tokens").exists():
        for part in (corpus := Corpus.load(output / "corpus")).train, corpus.valid:
            if part is not None:
                part.read(0, int(part.offsets[-1]))


def main(output: str, kills: str, seed: str, *arguments: str) -> int:
    """Prints a line of JSON: of each attempt whom it lost, and how its processes ended."""
    torch.set_num_threads(1)
    moments, attempts = random.Random(int(seed)), []
    while len(attempts) <= 3 * int(kills):
        lost = sum(attempt["killed"] for attempt in attempts)
        victim = moments.randrange(SIZE) if lost < int(kills) else None
        attempt = Attempt(start(list(arguments), len(attempts)), victim, moments, Path(output))
        attempt.follow()
        attempts.append({"killed": attempt.killed, "victim": victim, "statuses": attempt.statuses})
        try:
            check(Path(output))
        except InputError as error:
            attempts[-1]["damage"] = str(error)
            break
        if not any(attempt.statuses.values()) or not attempt.killed:
            break
    print(json.dumps(attempts))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
