"""Files written as a whole: through links, with the umask's mode, and named where the disk is full."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ulmfit_fast.core.atomic_write import write_all_atomically, write_atomically


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file grows beyond 64 KB; a full disk fails at the same calls."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "target").write_text("old")
    (tmp_path / "link").symlink_to("elsewhere/target")
    write_all_atomically(tmp_path, {"link": "new", "plain": b"file"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "target").read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "link", "plain", "target"]


def test_the_mode_is_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_named_with_its_file(small_disk: None, tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "old")
    with pytest.raises(OSError, match="File too large") as error:
        write_atomically(tmp_path / "a", bytes(1 << 17))
    assert error.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
