"""Prediction by several processes: the rows, their order and their bits are those of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import make_task
from ulmfit_fast.cli.main import main
from ulmfit_fast.core.errors import InputError, InputWarning
from ulmfit_fast.inference import bulk
from ulmfit_fast.inference.bulk import BulkOptions, predict_in_processes, processes_for
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import predict_documents
from ulmfit_fast.text.files import Documents


def pieces(*sizes: int) -> Iterator[Documents]:
    texts, _ = make_task(sum(sizes), seed=9)
    texts[3] = ""
    texts[7] = " ".join(texts)
    first = 0
    for size in sizes:
        yield Documents(texts[first : first + size], None, None, "made", range(first + 1, first + size + 1))
        first += size


def test_the_bits_and_the_order_of_one_process(
    folder: Path, loaded: Classifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of several parts, of one, and of a text that is a part alone; two models."""
    monkeypatch.setattr(bulk, "_TEXTS", 16)
    monkeypatch.setattr(bulk, "_CHARACTERS", 1500)
    both = Classifiers(loaded.members * 2)
    sizes = (50, 1, 16, 17)
    expected = list(predict_documents(both.members, pieces(*sizes), 1))
    found = list(predict_in_processes(both, BulkOptions((folder, folder)), pieces(*sizes), 1, 2))
    assert [len(activated) for _, activated in found] == list(sizes)
    for (piece, one), (same, other) in zip(found, expected, strict=True):
        assert piece.texts == same.texts
        assert one.tobytes() == other.tobytes()


def test_the_command_writes_the_same_file(folder: Path, tmp_path: Path) -> None:
    texts, _ = make_task(300, seed=4)
    pd.DataFrame({"id": range(300), "text": texts}).to_csv(tmp_path / "new.csv", index=False)
    written = []
    for processes in ("1", "2"):
        output = tmp_path / f"{processes}.csv"
        arguments = ["predict", str(tmp_path / "new.csv"), "--model", str(folder), "--output", str(output)]
        assert main([*arguments, "--processes", processes, "--precision", "int8"]) == 0
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == 301


def test_unknown_words_are_counted_over_all_processes(folder: Path, loaded: Classifiers) -> None:
    texts = ["zyx wvu tsr qpo " * 10] * 30
    piece = Documents(texts, None, None, "x", range(1, 31))
    with pytest.warns(InputWarning, match="of the 1,200 tokens are unknown"):
        list(predict_in_processes(loaded, BulkOptions((folder,)), [piece], 1, 2))


def test_an_error_of_a_process_is_that_of_the_command(
    folder: Path, loaded: Classifiers, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = BulkOptions((tmp_path / "gone",))
    with pytest.raises(InputError, match="gone"):
        list(predict_in_processes(loaded, options, pieces(20), 1, 2))
    (tmp_path / "new.txt").write_text("fine\n" * 20)
    monkeypatch.setattr(bulk, "_start", _end)
    arguments = ["predict", str(tmp_path / "new.txt"), "--model", str(folder), "--processes", "2"]
    assert main([*arguments, "--output", str(tmp_path / "out.csv")]) == 2
    assert_one_line(capsys, "a process that predicts has ended")
    assert [path.name for path in tmp_path.iterdir()] == ["new.txt"]


def _end(_: object) -> None:
    os._exit(1)


def test_few_texts_get_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "available_processes", lambda: 64)
    assert processes_for(bulk.WORTH_PROCESSES - 1, "cpu") == 1
    assert processes_for(bulk.WORTH_PROCESSES, "cpu") == bulk.MOST_PROCESSES
    monkeypatch.setattr(bulk.torch.cuda, "is_available", lambda: True)
    assert processes_for(bulk.WORTH_PROCESSES, "auto") == 1


def test_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_TEXTS", 3)
    monkeypatch.setattr(bulk, "_CHARACTERS", 10)
    texts = ["a", "b", "c", "d", "e" * 9, "f" * 30, "g"]
    parts = list(bulk._parts(texts))
    assert [text for part in parts for text in part.texts] == texts
    assert [len(part.texts) for part in parts] == [3, 2, 1, 1]
    assert [part.last for part in parts] == [False, False, False, True]
