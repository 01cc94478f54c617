"""Faults injected into whole commands: a full disk, SIGTERM, a killed process, a clock that jumps, files that are cut.

Each time: one line that says what happened, no half-written file, what was there before still whole, and the same
command again ends as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.cli.command_line import SMALL
from tests.cli.test_signals import environment
from tests.tiny import make_task
from tests.without_rights import message_without_rights
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.core import lock
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model, read_config
from ulmfit_fast.storage.run_file import CHECKPOINT, load_state
from ulmfit_fast.text.corpus import Corpus

TEXTS, _ = make_task(20)
Arguments = Callable[[Path, Path], list[str]]  # of the models' folder and the output
COMMANDS: dict[str, Arguments] = {
    "tokenize": lambda models, out: ["tokenize", str(models / "train.csv"), "--output", str(out)],
    "finetune-lm": lambda models, out: [
        "finetune-lm", str(models / "train.csv"), "--model", str(models / "lm"), "--output", str(out), *SMALL,
    ],
    "train": lambda models, out: [
        "train", str(models / "train.csv"), "--model", str(models / "lm"), "--output", str(out), *SMALL, "--epochs",
        "2",
        "--checkpoint-minutes", "1e-9",
    ],
    "predict": lambda models, out: [
        "predict", str(models / "train.csv"), "--model", str(models / "clf"), "--output", str(out / "p.csv"),
    ],
}  # fmt: skip


def leftovers(folder: Path) -> list[str]:
    """Files under temporary names, and locks."""
    names = (path.name for path in folder.rglob("*"))
    return [name for name in names if name.startswith(".") or name.endswith((".new", ".partial", ".tmp"))]


def assert_whole(folder: Path) -> None:
    """Whatever a folder holds can be read."""
    assert leftovers(folder) == []
    if (folder / "config.json").exists():
        load = load_classifier if read_config(folder)["kind"] == "classifier" else load_language_model
        load(folder)
    if (folder / "train.tokens").exists():
        Corpus.load(folder)
    if (folder / CHECKPOINT).exists():
        load_state(folder)


def again(arguments: list[str], out: Path) -> list[str]:
    """The command that goes on after a fault."""
    if (out / CHECKPOINT).exists():
        return [*arguments, "--resume"]
    return [*arguments, "--overwrite"] if (out / "config.json").exists() else arguments  # all but its history is there


@contextlib.contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Callable[[int], None]]:
    """A file system of this size; the function changes it."""
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(options, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")

    def resize(now: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={now}k", str(place)], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_is_full_at_any_write(
    command: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk grows by a page at a time until the command has room: each write is once the first that fails."""
    failed = 0
    with disk(tmp_path / "disk", 4) as resize:
        out = tmp_path / "disk" / "out"
        arguments = COMMANDS[command](models, out)
        if command == "predict":
            out.mkdir()
        for kilobytes in (4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256, 1024):
            resize(kilobytes)
            status = main(again(arguments, out))
            err = capsys.readouterr().err.splitlines()
            if status == 0:
                break
            failed += 1
            assert status == 2, err
            assert err[-1].startswith("ulmfit-fast: error: "), err
            assert "No space left on device" in err[-1]
            assert str(out) in err[-1]
            assert not any("Traceback" in line for line in err)
            assert_whole(out)
        assert status == 0
        assert failed >= (1 if command == "predict" else 3)
        assert_whole(out)


class Moments:
    """Counts the moments at which files are written, steps taken and texts read; at one of them SIGTERM comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.names = 0, -1, list[str]()
        for owner, name in (
            (os, "fsync"), (os, "replace"), (Path, "replace"), (Path, "unlink"), (Path, "open"), (Path,
            "read_text"),
            (torch.optim.AdamW, "step"), (torch.nn.Module, "eval"), (torch.nn.Module, "train"),
            (torch, "inference_mode"),
            (np, "stack"), (lock, "_lock"),
        ):  # fmt: skip
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name), name))

    def _watched(self, function: Any, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.names.append(name)
            self.count += 1
            if self.count == self.at and threading.current_thread() is threading.main_thread():
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments, **options)

        return call

    def begin(self, at: int = -1) -> None:
        self.count, self.at = 0, at
        self.names.clear()


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return ULMFiTClassifier.load(folder).model_.state_dict()


def test_sigterm_in_every_phase(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training that was stopped anywhere and goes on ends with the bits of one that was not."""
    moments = Moments(monkeypatch)
    arguments = COMMANDS["train"](models, tmp_path / "whole")
    moments.begin()
    assert main(arguments) == 0
    total, expected = moments.count, weights_of(tmp_path / "whole")
    stopped = 0
    for number, at in enumerate(range(1, total, max(1, total // 7))):
        out = tmp_path / f"stopped{number}"
        arguments = COMMANDS["train"](models, out)
        moments.begin(at)
        status = main(arguments)
        err = capsys.readouterr().err
        if status == 0:  # the signal came when all was done
            continue
        stopped += 1
        moments.begin()
        assert status == 130, (at, err)
        assert err.splitlines()[-1].startswith("ulmfit-fast: error: "), (at, err)
        assert "Traceback" not in err
        if out.exists():
            assert_whole(out)
        assert main(again(arguments, out)) == 0, capsys.readouterr().err
        for name, tensor in weights_of(out).items():
            assert torch.equal(tensor, expected[name]), (at, name)
    assert stopped >= 6


def test_a_tokenizing_process_that_is_killed(tmp_path: Path) -> None:
    """As the system does where memory runs out: the command says so, and leaves nothing."""
    text = " ".join(f"word{i % 977}" for i in range(60_000))
    (tmp_path / "a.txt").write_text("\n\n".join([text] * 300))
    command = [sys.executable, "-m", "ulmfit_fast", "tokenize", "a.txt", "--output", "out", "--processes", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(workers := deaf_children(process.pid)) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    said = "ulmfit-fast: error: a process that tokenizes has ended, killed for memory perhaps; try fewer: --processes 1"
    assert err.splitlines()[-1] == said
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def deaf_children(parent: int) -> list[int]:
    """Those that ignore SIGHUP, as the processes that tokenize do."""
    found = []
    for thread in Path(f"/proc/{parent}/task").iterdir():
        for child in (thread / "children").read_text().split():
            ignored = Path(f"/proc/{child}/status").read_text().split("SigIgn:")[1].split()[0]
            if int(ignored, 16) & 1:
                found.append(int(child))
    return found


def test_a_clock_that_jumps(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backwards and forwards by years, at each look at it: the run ends with the same bits."""
    assert main(COMMANDS["train"](models, tmp_path / "whole")) == 0
    jumps = itertools.cycle((0, -(10**9), 10**9, 5, 3 * 10**8))
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + next(jumps))
    out = tmp_path / "jumped"
    arguments = COMMANDS["train"](models, out)
    with pytest.MonkeyPatch.context() as stopped:
        stop_at_step(stopped, 7)
        assert main(arguments) == 130
    for path in out.iterdir():  # as written tomorrow, and last century
        os.utime(path, (4e9, 4e9) if path.suffix == ".safetensors" else (1.0, 1.0))
    assert main([*arguments, "--resume"]) == 0
    expected = weights_of(tmp_path / "whole")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(out).items())


def stop_at_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    step, steps = torch.optim.AdamW.step, itertools.count(1)

    def call(*arguments: Any, **options: Any) -> Any:
        if next(steps) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", call)


def test_model_folders_that_may_not_be_written(models: Path) -> None:
    """All that reads a model works, and leaves nothing there; what would write says so before it works."""
    place = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(models, place / "models")
        for path in (place / "models", *(place / "models").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (place / "out").mkdir(mode=0o777)
        (place / "out").chmod(0o777)
        before = {path: path.stat().st_mtime_ns for path in (place / "models").rglob("*")}

        def run() -> None:
            data, clf, lm = "models/train.csv", "models/clf", "models/lm"
            assert main(["predict", data, "--model", clf, "--output", "out/p.csv"]) == 0
            assert main(["evaluate", data, "--model", clf]) == 0
            assert main(["info", lm]) == 0
            assert main(["finetune-lm", data, "--model", lm, "--output", "out/lm", *SMALL]) == 0
            ULMFiTClassifier.load(clf).predict(["a text"])
            with contextlib.redirect_stderr(io.StringIO()) as said:
                assert main(["finetune-lm", data, "--model", lm, "--output", "models/lm2", "--overwrite", *SMALL]) == 2
                assert main(["predict", data, "--model", clf, "--output", "models/p.csv"]) == 2
            raise AssertionError(said.getvalue().replace("\n", "|"))

        told = message_without_rights(place, run)
        assert told.startswith("AssertionError: ulmfit-fast: error: models/lm2: no permission to write there|"), told
        assert told.split("|")[1] == "ulmfit-fast: error: models/p.csv: no permission to write there"
        assert {path: path.stat().st_mtime_ns for path in (place / "models").rglob("*")} == before
    finally:
        shutil.rmtree(place)


def test_weights_that_are_cut_while_or_after_they_are_read(models: Path, tmp_path: Path) -> None:
    """By who writes into the file itself: loading says so or is whole, and what is loaded stays as it was."""
    shutil.copytree(models / "clf", tmp_path / "clf")
    weights = tmp_path / "clf" / "model.safetensors"
    whole = weights.read_bytes()
    loaded = ULMFiTClassifier.load(tmp_path / "clf")
    expected = loaded.predict_proba(TEXTS)
    os.truncate(weights, 0)
    assert np.array_equal(loaded.predict_proba(TEXTS), expected)
    weights.write_bytes(whole)
    code = (
        "import os, sys, safetensors.torch; from ulmfit_fast import InputError, ULMFiTClassifier\n"
        "def cutting(load):\n"
        "    def call(given, *rest):\n"
        "        found = load(given, *rest); os.truncate(sys.argv[2], 0); return found\n"
        "    return call\n"
        "for name in ('load', 'load_file'):\n"
        "    setattr(safetensors.torch, name, cutting(getattr(safetensors.torch, name)))\n"
        "ULMFiTClassifier.load(sys.argv[1])\n"
        "try: ULMFiTClassifier.load(sys.argv[1])\n"
        "except InputError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clf"), str(weights)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "model.safetensors: damaged" in done.stdout
