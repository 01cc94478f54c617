"""One run at a time writes to a folder: real processes, killed ones, threads, forks, file systems without locks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import InputError, ULMFiTClassifier, finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.storage.model_folder import load_classifier, save_model
from ulmfit_fast.text.corpus import Source, tokenize_corpus

LOCK = ".ulmfit-fast.lock"
HOLD = """
import os, sys, time
from ulmfit_fast.core.lock import locked_folder
with locked_folder(sys.argv[1]):
    if len(sys.argv) > 2 and os.fork() == 0:
        print("held", os.getpid(), flush=True)
        time.sleep(600)
    elif len(sys.argv) == 2:
        print("held", os.getpid(), flush=True)
    time.sleep(600)
"""


@contextmanager
def held_elsewhere(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process that holds the lock, and that which says so."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().split()[1])
    finally:
        process.kill()
        process.wait()


@contextmanager
def held_by_another_thread(folder: Path) -> Iterator[None]:
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked_folder(folder):
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_second_process_is_told_who_holds_it(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "out") as (process, _):
        said = rf"out: another run writes there \(process {process.pid} on \S+ since 20[-\d]{{8}} [:\d]{{8}}\); wait"
        for _ in range(2):
            with pytest.raises(InputError, match=said), locked_folder(tmp_path / "out"):
                pass
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "out")
        with pytest.raises(InputError, match="another run writes there"), locked_folder(link):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / "out" / LOCK).exists()
        with locked_folder(tmp_path / "out"):
            assert f"process {os.getpid()} " in (tmp_path / "out" / LOCK).read_text()
        assert not (tmp_path / "out" / LOCK).exists()


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, "fork") as (process, child):
        process.kill()
        process.wait()
        try:
            os.kill(child, 0)  # it lives
            with locked_folder(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_folders_that_were_made_for_nothing_go(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    with locked_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_the_same_thread_may_take_it_again_and_another_may_not(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        with locked_folder(tmp_path / "." / ".." / tmp_path.name):
            pass
        assert (tmp_path / LOCK).exists()
    refused = pytest.raises(InputError, match="another thread of this process")
    with held_by_another_thread(tmp_path), refused, locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        pass


def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    done = False
    with pytest.warns(UserWarning, match="has no locks .No locks available.; start no second run"):  # noqa: SIM117
        with locked_folder(tmp_path):
            done = True
    assert done
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_ends_just_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes the file after it was opened: a lock on that is a lock on nothing."""
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked_folder(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / LOCK).stat().st_ino == os.fstat(calls[1]).st_ino


def test_a_file_that_another_user_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / LOCK).write_text("process 1 on elsewhere since then")
    real = os.open

    def open_read_only(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", open_read_only)
    with locked_folder(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


TEXTS, LABELS = make_task(40)
COMMANDS: dict[str, Callable[[Path, str], list[str]]] = {
    "pretrain-lm": lambda models, out: ["pretrain-lm", str(models / "train.csv"), "--output", out, *SIZES, *SMALL],
    "finetune-lm": lambda models, out: [
        "finetune-lm", str(models / "train.csv"), "--model", str(models / "lm"), "--output", out, *SMALL,
    ],
    "train": lambda models, out: ["train", str(models / "train.csv"), "--output", out, *SIZES, *SMALL],
    "import-lm": lambda models, out: ["import-lm", "w.pth", "--vocabulary", "v.txt", "--output", out],
    "import-classifier": lambda models, out: [
        "import-classifier", "w.pth", "--vocabulary", "v.txt", "--labels", "l.txt", "--output", out,
    ],
    "tokenize": lambda models, out: ["tokenize", str(models / "train.csv"), "--output", out],
    "demo": lambda models, out: ["demo", "--output", out],
}  # fmt: skip


_TRAINING = ("pretrain-lm", "finetune-lm", "train")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        *((command, []) for command in COMMANDS),
        *((command, ["--resume"]) for command in _TRAINING),
        *((command, ["--overwrite"]) for command in (*_TRAINING, "import-lm", "tokenize")),
    ],
)
def test_every_command_that_writes_a_folder_takes_the_lock(
    command: str, options: list[str], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = COMMANDS[command](models, str(tmp_path / "out"))
    with held_by_another_thread(tmp_path / "out"):
        assert main([*arguments, *options]) == 2
        assert_one_line(capsys, "out: another run writes there (another thread of this process); wait for its end")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    assert not (tmp_path / "out").exists()


LIBRARY: dict[str, Callable[[Path, Path], Any]] = {
    "pretrain_lm": lambda models, out: pretrain_lm(TEXTS, PRETRAIN, output=out),
    "finetune_lm": lambda models, out: finetune_lm(TEXTS, models / "lm", FINETUNE, output=out, resume=True),
    "finetune_classifier": lambda models, out: finetune_classifier(
        TEXTS, LABELS, None, replace(CLASSIFY, epochs=1), output=out, overwrite=True
    ),
    "tokenize_corpus": lambda models, out: tokenize_corpus(Source(models / "train.csv"), out),
    "save": lambda models, out: ULMFiTClassifier.load(models / "clf").save(out),
    "save_model": lambda models, out: save_model(out, *load_classifier(models / "clf")),
}


@pytest.mark.parametrize("function", LIBRARY)
def test_every_function_that_writes_a_folder_takes_the_lock(function: str, models: Path, tmp_path: Path) -> None:
    with held_by_another_thread(tmp_path / "out"):
        with pytest.raises(InputError, match="another run writes there"):
            LIBRARY[function](models, tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]
    LIBRARY[function](models, tmp_path / "out")
    assert not (tmp_path / "out" / LOCK).exists()


def test_readers_need_no_lock(models: Path, tmp_path: Path) -> None:
    tokenize_corpus(Source(models / "train.csv"), tmp_path / "corpus")
    with held_by_another_thread(models / "clf"), held_by_another_thread(tmp_path / "corpus"):
        output = str(tmp_path / "o.csv")
        assert main(["predict", str(models / "train.csv"), "--model", str(models / "clf"), "--output", output]) == 0
        assert main(["info", str(models / "clf")]) == 0
        _, figures = tokenize_corpus(Source(models / "train.csv"), tmp_path / "corpus")  # it is there
        assert figures == {}
