"""`ulmfit-fast serve` refuses what it cannot serve before it listens: one line, status 2."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.cli.command_line import assert_one_line
from ulmfit_fast.cli.main import main
from ulmfit_fast.cli.serve import named_folders
from ulmfit_fast.core.errors import InputError


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_folders(("clf/", "a=b=c", "/x/de")) == {"clf": Path("clf/"), "a": Path("b=c"), "de": Path("/x/de")}
    assert named_folders((".",)) == {tmp_path.name: Path(".")}
    for given, message in [
        (("clf", "x/clf"), "taken by clf"),
        (("=x",), "expected NAME=FOLDER"),
        (("x=",), "expected"),
    ]:
        with pytest.raises(InputError, match=message):
            named_folders(given)


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", "no-model", "--port", str(other.getsockname()[1])]) == 2
    assert_one_line(capsys, "cannot be listened at (Address already in use)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-model", "--port", "0"], "no-model"),
        (["x", "--host", "no.such.host.invalid"], "--host no.such.host.invalid --port 8000: cannot be listened at"),
        (["x", "--port", "65536"], "--port"),
        (["x", "--max-texts", "0"], "--max-texts"),
        (["x", "--timeout", "0"], "--timeout"),
        (["x", "--fd", "1000"], "--fd 1000: is no socket"),
        (["x", "--fd", "0", "--port", "1"], "--port does nothing here: --fd is the socket"),
    ],
)
def test_what_cannot_be_served(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments]) == 2
    assert_one_line(capsys, message)


def test_a_socket_that_does_not_listen(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        assert main(["serve", "x", "--fd", str(other.fileno())]) == 2
        assert_one_line(capsys, "a socket that does not listen")
        os.fstat(other.fileno())  # still open


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("ulmfit_fast.inference.serve.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert main(["serve", "x"]) == 2
    assert_one_line(
        capsys, "serve needs prometheus_client: in its source folder: pip install --no-build-isolation '.[serve]'"
    )
