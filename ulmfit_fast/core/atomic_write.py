"""Files that are either the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name in its folder, then rename it."""
    write_all_atomically(path.parent, {path.name: content})


def write_all_atomically(folder: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write several files of one folder under temporary names; only when all are complete rename them, in order.

    One that is a link is written through: what it points to is replaced. A text's lone surrogates (of names that are
    not UTF-8) are escaped as JSON escapes them.
    """
    targets = {name: Path(os.path.realpath(folder / name)) for name in contents}
    temporary = {name: target.with_name(f".{target.name}.partial") for name, target in targets.items()}
    try:
        for name, content in contents.items():
            with errors_name(folder / name), temporary[name].open("wb") as file:
                file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())  # a power cut leaves the old file or the new one
        for name, path in temporary.items():
            os.replace(path, targets[name])
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def errors_name(path: Path) -> Iterator[None]:
    """Within the block an error of the file system that names no file, such as that of a full disk, names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise type(error)(error.errno, error.strerror, str(path)) from None
        raise
