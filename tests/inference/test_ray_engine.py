"""Folders of tables by Ray: what ``predict`` writes of each file, and runs that go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import make_task
from ulmfit_fast.cli.main import main
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference import ray_engine
from ulmfit_fast.inference.ray_engine import FilePredictor, table_files
from ulmfit_fast.text.table_writer import write_table

NAMES = ["a.csv", "b.jsonl", "day=2/c.parquet", "day=2/d.csv.gz"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four tables, and what is none."""
    folder = tmp_path / "in"
    (folder / "day=2").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        texts, _ = make_task(20, seed=number)
        write_table(pd.DataFrame({"id": range(20), "text": texts}), folder / name)
    for name in ("_SUCCESS", ".hidden.csv", "notes.txt"):
        (folder / name).write_text("x")
    return folder


@pytest.fixture
def expected(source: Path, folder: Path, tmp_path: Path) -> dict[str, bytes]:
    """What ``predict`` writes of each file."""
    found = {}
    for name in NAMES:
        output = tmp_path / f"expected-{name.replace('/', '-')}"
        assert main(["predict", str(source / name), "--model", str(folder), "--output", str(output)]) == 0
        found[name] = output.read_bytes()
    return found


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files in turn, in this process; the list is of those that were begun with."""
    begun: list[str] = []

    def run(_: Any, files: list[tuple[Path, Path]], wanted: Any, options: Any, __: Any) -> Iterator[dict[str, Any]]:
        predictor = FilePredictor(wanted, options)
        for one, other in files:
            begun.append(one.name)
            yield predictor({"source": str(one), "output": str(other)})

    monkeypatch.setattr(ray_engine, "_ray", lambda: None)
    monkeypatch.setattr(ray_engine, "_run", run)
    return begun


def command(source: Path, output: Path, folder: Path, *more: str) -> list[str]:
    return ["predict", str(source), "--model", str(folder), "--engine", "ray", "--output", str(output), *more]


@pytest.mark.slow
def test_by_ray_itself(source: Path, expected: dict[str, bytes], folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    output = tmp_path / "out"
    assert main(command(source, output, folder, "--processes", "2")) == 0
    assert contents(output) == expected


def test_a_file_for_each_and_what_is_there_is_left_out(
    source: Path, expected: dict[str, bytes], folder: Path, tmp_path: Path, without_ray: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "out"
    assert main(command(source, output, folder)) == 0
    assert contents(output) == expected
    assert "80 predictions in 4 files" in capsys.readouterr().out
    (output / "b.jsonl").unlink()
    (output / "a.csv").write_text("kept")
    (output / "day=2" / ".17-ab.partial").write_text("of a run that was killed")
    without_ray.clear()
    assert main(command(source, output, folder)) == 0
    assert without_ray == ["b.jsonl"]
    assert contents(output) == expected | {"a.csv": b"kept"}
    assert "20 predictions in 1 file in" in capsys.readouterr().out
    assert main(command(source, output, folder, "--overwrite")) == 0
    assert contents(output) == expected


def test_a_faulty_file_does_not_keep_the_others(
    source: Path, expected: dict[str, bytes], folder: Path, tmp_path: Path, without_ray: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (source / "b.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    output = tmp_path / "out"
    assert main(command(source, output, folder)) == 2
    assert_one_line(capsys, "a file was not predicted; the same command goes on once that is mended: ")
    assert contents(output) == {name: written for name, written in expected.items() if name != "b.jsonl"}
    write_table(pd.DataFrame({"id": range(20), "text": make_task(20, seed=1)[0]}), source / "b.jsonl")
    without_ray.clear()
    assert main(command(source, output, folder)) == 0
    assert without_ray == ["b.jsonl"]
    assert contents(output) == expected


def test_what_cannot_be_done_is_said_before(
    source: Path, folder: Path, tmp_path: Path, without_ray: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for arguments, message in [
        (command(source / "a.csv", tmp_path / "out", folder), "takes a folder of tables"),
        (command(tmp_path / "empty", tmp_path / "out", folder), "holds no .csv"),
        (command(source, source / "out", folder), "lies in the folder that is read"),
        (command(source, tmp_path / "file", folder), "is a file"),
        (command(source, tmp_path / "out", tmp_path / "no"), "no"),
        (command(source, tmp_path / "out", folder, "--max-texts", "3"), "--max-texts does nothing here"),
        (command(source, tmp_path / "out", folder, "--text-column", "prediction"), "a column of this name"),
    ]:
        assert main(arguments) == 2
        assert_one_line(capsys, message)
    assert without_ray == []
    assert not (tmp_path / "out").exists()


def test_without_the_extra(
    source: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command(source, tmp_path / "out", folder)) == 2
    assert_one_line(capsys, "in its source folder: pip install --no-build-isolation '.[ray]'")


def test_tables_of_a_folder(source: Path) -> None:
    assert [str(name) for name in table_files(source)] == NAMES
    with pytest.raises(InputError, match="no such folder"):
        table_files(source / "no")
