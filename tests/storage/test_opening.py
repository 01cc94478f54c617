"""Model folders and checkpoints that may not be read, or whose names are not UTF-8; the modes of what is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.without_rights import message_without_rights
from ulmfit_fast import InputError
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.storage.opening import opened_by_name
from ulmfit_fast.storage.run_file import CHECKPOINT, load_state, save_state

STATE = {"weights": torch.arange(6.0), "step": 3}


def test_a_checkpoint_has_the_umasks_mode(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        save_state(tmp_path, STATE)
    finally:
        os.umask(before)
    assert (tmp_path / CHECKPOINT).stat().st_mode & 0o777 == 0o664
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / CHECKPOINT).symlink_to("other/target")
    save_state(tmp_path, STATE)
    assert (tmp_path / CHECKPOINT).is_symlink()
    assert (tmp_path / "other" / "target").is_file()
    state = load_state(tmp_path)
    assert state is not None
    assert state["step"] == 3


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"m\xe9")
    folder.mkdir()
    save_state(folder, STATE)
    state = load_state(folder)
    assert state is not None
    assert state["weights"].tolist() == STATE["weights"].tolist()  # type: ignore[attr-defined]


def test_what_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    (tmp_path / CHECKPOINT).chmod(0)
    message = message_without_rights(tmp_path, lambda: load_state("."))
    assert message == f"InputError: {CHECKPOINT}: cannot be read (Permission denied)"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "labels.json"])
def test_a_model_that_may_not_be_read(name: str, models: Path, tmp_path: Path) -> None:
    for path in (models / "clf").glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).chmod(0)
    message = message_without_rights(tmp_path, lambda: load_classifier("."))
    assert message == f"InputError: {name}: cannot be read (Permission denied)"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: cannot be read \\(No such file"), opened_by_name(tmp_path / "gone"):
        pass
