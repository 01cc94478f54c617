"""Standard streams that are closed, full, pipes without a reader, or of few characters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import write_task
from ulmfit_fast.core.console import say, usable_streams
from ulmfit_fast.text.corpus import Corpus

NAME = os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80")  # not UTF-8, and an emoji


def latin(errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), "latin-1", errors, write_through=True)


def content(stream: io.TextIOWrapper) -> bytes:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue()


@pytest.mark.parametrize("error", [False, True])
def test_any_text_is_said(error: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = latin()
    monkeypatch.setattr(sys, "stderr" if error else "stdout", stream)
    say(f"é {NAME}", error=error)
    assert content(stream) == b"\xe9 caf\\udce9 \\U0001f600\n"


def test_what_others_print_is_escaped_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = latin(), latin("ignore")
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with usable_streams():
        print(NAME)
        print(NAME, file=sys.stderr)
    assert [content(stream) for stream in streams] == [b"caf\\udce9 \\U0001f600\n"] * 2
    assert [stream.errors for stream in streams] == ["strict", "ignore"]


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        say("x")
        say("x", error=True)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        say("x", error=True)
        with pytest.raises(OSError, match="No space left on device: 'standard output'"):
            say("x")
        monkeypatch.undo()
        for file in (out, err):  # what they hold cannot be written ever
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line of the shell, with $U for ``ulmfit-fast``: one that needs no torch, or it would take long."""
    environment = os.environ | {"U": f"{sys.executable} -m ulmfit_fast", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, text=True, capture_output=True, timeout=120
    )


@pytest.mark.parametrize(
    ("streams", "status", "error"),
    [
        ("2>&-", 0, ""),
        (">&-", 0, "tokenized"),
        ("<&- >&- 2>&-", 0, ""),
        ("2> /dev/full", 0, ""),
        ("> /dev/full", 2, "ulmfit-fast: error: standard output: No space left on device"),
        ("| :", 0, "tokenized"),
    ],
)
def test_a_command_with_such_streams(streams: str, status: int, error: str, tmp_path: Path) -> None:
    write_task(tmp_path / "train.csv")
    done = run(f"set -o pipefail; $U tokenize train.csv --output out --min-frequency 1 {streams}", tmp_path)
    assert done.returncode == status, done.stderr
    assert error in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(Corpus.load(tmp_path / "out").train.offsets) > 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "tokenizer.json", "train.tokens", "valid.tokens",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", ["--help", "--version", ""])
def test_help_with_such_streams(arguments: str, tmp_path: Path) -> None:
    full = run(f"$U {arguments} > /dev/full", tmp_path)
    assert full.returncode == 2
    assert full.stderr.startswith("ulmfit-fast: error: standard output")
    assert full.stderr.count("\n") == 1
    for streams in (">&-", "| head -1", "2>&-"):
        done = run(f"$U {arguments} {streams}", tmp_path)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
