"""Files opened as streams of bytes: decompressed, out of an archive, out of a folder, out of a pipe, from an address.

What can be read only once or lies elsewhere is copied first, as readers go through a file several times. Every problem
is an InputError that names the file.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import shutil
import stat
import sys
import tempfile
import threading
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.decompression import DamagedError, decompressed
from ulmfit_fast.text.reading import COMPRESSED, ReadingNotice, kind_of_name, shown_names
from ulmfit_fast.text.remote import copy_texts, is_address, name_of, shown_path
from ulmfit_fast.text.signatures import begins_compressed, what_else

STANDARD = "-"  # standard input or output


@dataclass(frozen=True)
class Input:
    """A file that can be opened again and again.

    Args:
        name: what messages call it.
        path: where it, or the archive that holds it, or its copy, is.
        kind: one of ``FORMATS`` but ".zip".
        compression: of ``COMPRESSED``, or "".
        member: its name within the archive ``path``, or None.
    """

    name: str
    path: Path
    kind: str
    compression: str = ""
    member: str | None = None


@dataclass(frozen=True)
class Inputs:
    """What a path stands for: one file or several of one kind.

    Args:
        kind: one of ``FORMATS`` but ".zip".
        files: in order.
        short_names: what a table calls each of them.
        is_collection: a folder or archive of .txt files, each of which is one document.
    """

    kind: str
    files: list[Input]
    short_names: list[str]
    is_collection: bool


def find_inputs(path: Path, format: str | None, copies: Copies) -> Inputs:
    """The files that a path stands for. Raises InputError where there are none, or of several kinds."""
    check_exists(path)
    folder = copies.regular(path) if is_address(path) else path
    if folder.is_dir():
        files = text_files(folder)
        names = [str(file.relative_to(folder)) for file in files]
        shown = [f"{shown_path(path)}/{name}" if is_address(path) else str(path / name) for name in names]
        found = [Input(n, file, ".txt", kind_of_name(file.name, n)[1]) for n, file in zip(shown, files, strict=True)]
        return Inputs(".txt", found, names, is_collection=True)
    kind, compression = kind_of_file(path, format)
    regular = copies.regular(path)
    if kind != ".zip":
        found = [Input(shown_path(path), regular, kind, compression)]
        return Inputs(kind, found, [name_of(path)], is_collection=False)
    found = _members(path, regular)
    names = [file.member or "" for file in found]
    return Inputs(found[0].kind, found, names, is_collection=found[0].kind == ".txt" and len(found) > 1)


def kind_of_file(path: Path, format: str | None) -> tuple[str, str]:
    """What a file's name tells, else what ``format`` says: its kind, and its compression or ""."""
    told = f"x.{(format or '').lstrip('.')}"
    name = told if format is not None and not tells_kind(path) else name_of(path)
    return kind_of_name(name, shown_path(path))


def tells_kind(path: Path) -> bool:
    """Whether a file's name tells its kind."""
    try:
        return bool(kind_of_name(name_of(path), str(path)))
    except InputError:
        return False


def check_exists(path: Path) -> None:
    """Raise InputError where there is nothing that could be read. What lies elsewhere is not asked for."""
    if str(path) == STANDARD or is_address(path):
        return
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        reason = "a link to what does not exist" if path.is_symlink() else "no such file or folder"
        raise InputError(f"{path}: {reason}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def can_be_read_again(path: Path) -> bool:
    """Whether it is a file or folder here: not standard input, a pipe or a device, nor at an address."""
    return str(path) != STANDARD and (path.is_file() or path.is_dir())


class Copies:
    """Copies of what can be read only once or lies elsewhere, in a temporary folder that goes when they are closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._found: dict[str, Path] = {}

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def regular(self, path: Path) -> Path:
        """The path itself, or that of a copy."""
        with self._lock:
            if str(path) not in self._found:
                self._found[str(path)] = path if can_be_read_again(path) else self._copy(path)
            return self._found[str(path)]

    def _copy(self, path: Path) -> Path:
        is_here = str(path) != STANDARD and not is_address(path)
        if is_here and stat.S_ISCHR(path.stat().st_mode) and path.resolve() != Path("/dev/null"):
            # A terminal is read to its end; another device may have none.
            with path.open("rb") as file:
                if not file.isatty():
                    raise InputError(f"{path}: is a device, not a file")
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="ulmfit-fast-")
        copy = Path(self._folder.name) / str(len(self._found))
        if is_address(path):
            copy_texts(path, copy, lambda name: _is_text(Path(name)))
            return copy
        try:
            with contextlib.ExitStack() as stack:
                source = _standard_input() if str(path) == STANDARD else stack.enter_context(path.open("rb"))
                shutil.copyfileobj(source, stack.enter_context(copy.open("wb")), 1 << 20)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be copied to {copy.parent}, as it can be read only once ({error.strerror or error}); "
                "TMPDIR names another folder"
            ) from None
        return copy


class _Shared:
    """The copies of all blocks of ``read_once``, until the last of them ends.

    They are the process's, not a thread's: texts are read by whatever thread feeds the tokenizing processes.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.copies: Copies | None = None
        self.users = 0


_shared = _Shared()


@contextlib.contextmanager
def read_once() -> Iterator[Copies]:
    """Within the block everything that can be read only once is copied once, whoever reads it how often."""
    with _shared.lock:
        copies = _shared.copies = _shared.copies or Copies()
        _shared.users += 1
    try:
        yield copies
    finally:
        with _shared.lock:
            _shared.users -= 1
            if _shared.users == 0:
                _shared.copies = None
                copies.close()


@contextlib.contextmanager
def borrowed_copies() -> Iterator[Copies]:
    """The copies of a surrounding ``read_once``, or, where there is none, some for the block alone."""
    if _shared.copies is not None:
        with read_once() as copies:
            yield copies
        return
    copies = Copies()
    try:
        yield copies
    finally:
        copies.close()


@contextlib.contextmanager
def opened(source: Input) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file. Raises InputError, also while it is read: damaged, cut off, not permitted."""
    try:
        with contextlib.ExitStack() as stack:
            file: Any
            if source.member is None:
                file = stack.enter_context(source.path.open("rb"))
            else:
                file = stack.enter_context(_open_member(source, stack.enter_context(zipfile.ZipFile(source.path))))
            if source.compression:
                file = stack.enter_context(_decompressed(source, file))
            yield file
    except (DamagedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{source.name}: damaged or truncated ({error})") from None
    except OSError as error:
        raise InputError(f"{source.name}: cannot be read ({error.strerror or error})") from None


def read_bytes(source: Input) -> bytes:
    """A whole file, decompressed."""
    with opened(source) as file:
        return file.read()


def text_files(folder: Path) -> list[Path]:
    """All .txt files in a folder and those below it, links followed, in order.

    Warns of other files (``ReadingNotice``). Raises InputError where there are none, or what there is cannot be read.
    """
    found: list[Path] = []
    others: list[Path] = []

    def walk(place: Path, above: tuple[tuple[int, int], ...]) -> None:
        status = place.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            raise InputError(f"{place}: a link to a folder that it lies in")
        with os.scandir(place) as entries:
            for entry in entries:
                path = place / entry.name
                if entry.is_dir():
                    walk(path, (*above, identity))
                elif _is_text(path):
                    if not entry.is_file():
                        check_exists(path)
                        raise InputError(f"{path}: is neither a file nor a folder")
                    found.append(path)
                else:
                    others.append(path)

    try:
        walk(folder, ())
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read ({error.strerror or error})") from None
    if not found:
        kinds = Counter(path.suffix or "no suffix" for path in others)
        held = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common(3))
        raise InputError(f"{folder}: the folder holds no .txt files{f' ({held}); give one of them' if held else ''}")
    if others:
        names = shown_names(sorted(str(path.relative_to(folder)) for path in others), 3)
        warnings.warn(f"{folder}: left out, as they are not .txt: {names}", ReadingNotice, stacklevel=1)
    return sorted(found)


def _is_text(path: Path) -> bool:
    parts = path.name.lower().split(".")
    if f".{parts[-1]}" in COMPRESSED:
        parts.pop()
    return len(parts) > 1 and parts[-1] == "txt"


def _members(path: Path, regular: Path) -> list[Input]:
    """The files of an archive, all of one kind."""
    shown = shown_path(path)
    try:
        with zipfile.ZipFile(regular) as archive:
            names = [
                entry.filename for entry in archive.infolist()
                if not entry.filename.endswith("/")
                and not entry.filename.startswith("__MACOSX/")  # macOS' notes on the others
            ]  # fmt: skip
    except zipfile.BadZipFile as error:
        raise InputError(f"{shown}: damaged or truncated ({error})") from None
    except NotImplementedError as error:
        raise InputError(f"{shown}: is an archive of a kind that is not known ({error}); unpack it") from None
    except OSError as error:
        raise InputError(f"{shown}: cannot be read ({error.strerror or error})") from None
    found: list[Input] = []
    others: list[str] = []
    for name in sorted(names):
        kind, compression = kind_of_name(name, name) if tells_kind(Path(name)) else (".zip", "")
        if kind == ".zip":
            others.append(name)
        else:
            found.append(Input(f"{shown}: {name}", regular, kind, compression, name))
    kinds = sorted({file.kind for file in found})
    if len(kinds) != 1:
        held = f"files of several kinds ({', '.join(kinds)})" if kinds else "no file that can be read"
        raise InputError(f"{shown}: holds {held}; unpack it and give one of them, or a folder of .txt")
    if others:
        warnings.warn(f"{shown}: left out, as of no known kind: {shown_names(others, 3)}", ReadingNotice, stacklevel=1)
    return found


def _open_member(source: Input, archive: zipfile.ZipFile) -> IO[bytes]:
    try:
        return archive.open(source.member or "")
    except NotImplementedError as error:
        raise InputError(f"{source.name}: is compressed in a way that is not known ({error}); unpack it") from None
    except RuntimeError:  # of zipfile, which asks for a password
        raise InputError(f"{source.name}: is encrypted; unpack it") from None


def _decompressed(source: Input, file: BinaryIO) -> BinaryIO:
    head = file.read(16)
    if head and not begins_compressed(head, source.compression):
        other = what_else(head) or f"if it is not damaged, its name should not end in {source.compression}"
        raise InputError(f"{source.name}: no {source.compression} data at its beginning; {other}")
    file.seek(0)
    try:
        return decompressed(file, source.compression)
    except ModuleNotFoundError:
        raise InputError(f"{source.name}: reading .zst files needs zstandard; pip install zstandard") from None


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("-: standard input is closed")
    return sys.stdin.buffer
