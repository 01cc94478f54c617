"""The command line explains itself."""

from __future__ import annotations

import click
import pytest

from ulmfit_fast.cli.main import command, main

COMMANDS = command.list_commands(click.Context(command))


def test_every_summary_is_shown_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a summary does not fit its line, click ends it with an ellipsis."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    sections = capsys.readouterr().out.partition("\nClassify:\n")[2]
    lines = [line for line in sections.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == COMMANDS
    for line in lines:
        assert line.endswith(".")
        assert not line.endswith("...")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    found = command.get_command(click.Context(command), name)
    assert found is not None
    for parameter in found.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name
