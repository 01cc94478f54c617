"""A file that appears when all of it is written; standard output, pipes and devices are written as it comes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.decompression import compressing
from ulmfit_fast.text.inputs import STANDARD


class OutputFile:
    """Within a ``with``: a binary file to write to, compressed if asked for.

    A link is written through: what it points to is replaced. The mode of a file that is replaced stays; that of a new
    one is the umask's. With an exception nothing is left, and the old file stays.

    Args:
        path: the file to write; "-": standard output.
        compression: one of ``COMPRESSED``, or "".

    Raises:
        InputError: it could not be written there.
    """

    def __init__(self, path: Path, compression: str = "") -> None:
        self.path = path
        self._compression = compression
        self._target = Path(os.path.realpath(path)) if path.is_symlink() else path
        self.is_standard = str(path) == STANDARD
        # A pipe or a device: there is nothing to replace.
        self.is_direct = self.is_standard or (path.exists() and not path.is_file() and not path.is_dir())
        self._temporary = self._target.with_name(f".{os.getpid()}-{id(self):x}.partial")
        self._file: BinaryIO | None = None
        self._compressed: IO[bytes] | None = None
        if self.is_direct:
            return
        if path.is_dir() or not self._target.parent.is_dir():
            raise InputError(f"{path}: not a file in an existing folder")
        if not os.access(self._target.parent, os.W_OK | os.X_OK):
            raise InputError(f"{path}: no permission to write there")

    def exists(self) -> bool:
        """Whether there is a file that would be replaced."""
        return not self.is_direct and self.path.exists()

    def __enter__(self) -> IO[bytes]:
        if self.is_standard:
            self._file = os.fdopen(os.dup(1), "wb")  # its own buffer: a closed pipe is noticed here
        elif self.is_direct:
            self._file = self.path.open("wb")
        else:
            self._file = self._temporary.open("wb")
            with contextlib.suppress(FileNotFoundError):
                os.chmod(self._temporary, self._target.stat().st_mode & 0o777)
        if not self._compression:
            return self._file
        self._compressed = compressing(self._file, self._compression)
        return self._compressed

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._file is not None
        try:
            if kind is None:
                if self._compressed is not None:
                    self._compressed.close()
                self._file.flush()
                if not self.is_direct:
                    os.fsync(self._file.fileno())  # a power cut leaves the old file or the new one
                self._file.close()
                if not self.is_direct:
                    self._temporary.replace(self._target)
        finally:
            with contextlib.suppress(OSError):  # the first error is the one that counts
                self._file.close()
            if not self.is_direct:
                self._temporary.unlink(missing_ok=True)
