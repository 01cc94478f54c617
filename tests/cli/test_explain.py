"""``explain`` on the command line: a table, colours on a terminal, a page, JSON; bad requests in a line."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.cli.command_line import assert_one_line
from ulmfit_fast.cli.main import main

TEXT = "a superb <b>film</b> & story"


def test_words_are_listed_and_written(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, lines = tmp_path / "page.html", tmp_path / "lines.jsonl"
    arguments = ["explain", TEXT, "--model", str(models / "clf"), "--html", str(page), "--json", str(lines)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "predicted good; probability of good: 0." in printed
    assert re.search(r"^ +\+\d\.\d{3}  superb$", printed, re.MULTILINE)
    assert "\x1b" not in printed
    (found,) = map(json.loads, lines.read_text().splitlines())
    assert [TEXT[part["start"] : part["end"]] for part in found["parts"]] == [part["text"] for part in found["parts"]]
    assert sum(part["weight"] for part in found["parts"]) == pytest.approx(
        found["evidence"] - found["baseline"], rel=0.011
    )
    shown: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            shown.append(data)

    Reader().feed(page.read_text())
    assert TEXT in "".join(shown)
    assert main(arguments) == 2
    assert_one_line(capsys, "exists; choose another file or pass --overwrite")


def test_a_terminal_gets_colours(
    models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulmfit_fast.cli.explain.is_terminal", lambda stream: stream is sys.stdout)
    monkeypatch.delenv("NO_COLOR", raising=False)
    arguments = ["explain", "a superb\x1b[2J film", "--model", str(models / "clf")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\x1b\[30;48;5;\d+msuperb", printed)
    assert "\x1b[2J" not in printed
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(arguments) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_texts_of_a_file_and_standard_output(models: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = ["--model", str(models / "clf"), "--model", str(models / "clf")]
    arguments = ["explain", "--texts", str(models / "train.csv"), *both, "--max-texts", "2", "--method", "chunks"]
    assert main([*arguments, "--json", "-", "--label", "bad"]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [each["label"] for each in found] == ["bad", "bad"]
    for each in found:
        assert sum(part["share_of_maximum"] for part in each["parts"]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a TEXT, or --texts FILE"),
        (["a", "--texts", "x.csv"], "give a TEXT, or --texts FILE"),
        (["a", "--encoding", "utf-16"], "--encoding does nothing here: TEXT is given"),
        (["a", "--chunk-tokens", "3"], "--chunk-tokens does nothing here: it is of --method chunks"),
        (["a", "--label", "neutral"], "no label 'neutral'; there are bad, good"),
        (["a", "--html", "/nowhere/x.html"], "/nowhere/x.html: not a file in an existing folder"),
    ],
)
def test_bad_requests(models: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *arguments, "--model", str(models / "clf")]) == 2
    assert_one_line(capsys, message)
