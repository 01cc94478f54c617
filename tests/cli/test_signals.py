"""Real signals to real runs: the checkpoint is written, whoever ends the run."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command_line import SIZES, SMALL, write_task
from ulmfit_fast.storage.run_file import CHECKPOINT, load_state

_ENOUGH_S = 120


def command(folder: Path) -> list[str]:
    data = write_task(folder / "train.csv")
    endless = ["--epochs", "1000000", "--checkpoint-minutes", "0.001"]
    return [
        sys.executable, "-m", "ulmfit_fast", "train", str(data), "--output", str(folder / "out"), *SIZES, *SMALL,
        *endless,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def start(folder: Path, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(command(folder), env=environment(), stderr=subprocess.PIPE, text=True, preexec_fn=before)


def wait_for_checkpoint(folder: Path, before: int = 0) -> int:
    """The time of change of one that is newer."""
    path, deadline = folder / "out" / CHECKPOINT, time.monotonic() + _ENOUGH_S
    while time.monotonic() < deadline:
        if path.exists() and (changed := path.stat().st_mtime_ns) > before:
            return changed
        time.sleep(0.05)
    raise TimeoutError("no checkpoint was written")


def assert_can_go_on(folder: Path) -> None:
    state = load_state(folder / "out")
    assert state is not None
    assert state["arguments"]["stage"] == "classifier"
    assert [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_its_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    wait_for_checkpoint(tmp_path)
    process.send_signal(number)
    _, err = process.communicate(timeout=_ENOUGH_S)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("ulmfit-fast: error: classifier ")
    assert "go on with --resume (resume=True), from the checkpoint in" in last
    assert "Traceback" not in err
    assert_can_go_on(tmp_path)


def test_nohup_is_respected(tmp_path: Path) -> None:
    process = start(tmp_path, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    changed = wait_for_checkpoint(tmp_path)
    process.send_signal(signal.SIGHUP)
    for _ in range(3):
        changed = wait_for_checkpoint(tmp_path, changed)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=_ENOUGH_S)
    assert process.returncode == 130
    assert_can_go_on(tmp_path)


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """The system sends SIGHUP, and nothing that is written arrives any more."""
    arguments, variables = command(tmp_path), environment()
    child, terminal = pty.fork()
    if child == 0:
        os.execve(arguments[0], arguments, variables)
    shown = b""
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + _ENOUGH_S
    while b"tok" not in shown or not (tmp_path / "out" / CHECKPOINT).exists():  # of a bar, or of an epoch's line
        assert time.monotonic() < deadline
        try:
            shown += os.read(terminal, 65536)
        except BlockingIOError:
            time.sleep(0.02)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert_can_go_on(tmp_path)


def count_deaf_children(parent: int) -> int:
    """Those that ignore SIGHUP."""
    count = 0
    for thread in Path(f"/proc/{parent}/task").iterdir():
        for child in (thread / "children").read_text().split():
            ignored = Path(f"/proc/{child}/status").read_text().split("SigIgn:")[1].split()[0]
            count += int(ignored, 16) & 1
    return count


def test_a_closed_terminal_ends_tokenizing_by_several_processes(tmp_path: Path) -> None:
    """It reaches all processes; those that work for the first one must not end before it, as if they had failed."""
    text = " ".join(f"word{i % 977}" for i in range(60_000))
    (tmp_path / "a.txt").write_text("\n\n".join([text] * 300))
    process = subprocess.Popen(
        [sys.executable, "-m", "ulmfit_fast", "tokenize", "a.txt", "--output", "out", "--processes", "2"],
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + _ENOUGH_S
    while count_deaf_children(process.pid) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGHUP)
    _, err = process.communicate(timeout=_ENOUGH_S)
    assert process.returncode == 130
    assert err.split() == ["ulmfit-fast:", "error:", "interrupted"]
    assert not (tmp_path / "out").exists()
