"""One run at a time writes to a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from ulmfit_fast.core.errors import InputError

LOCK_FILE = ".ulmfit-fast.lock"  # in a folder while it is held, and after a run that was killed
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)  # of some network file systems
_LONGEST_HOLDER = 200  # bytes of the file that are shown

_guard = threading.Lock()
_held: dict[str, tuple[int, int | None]] = {}  # real path of a folder -> (thread, descriptor)


@contextlib.contextmanager
def locked_folder(folder: str | Path) -> Iterator[None]:
    """Within the block no other process, and no other thread of this one, gets the lock on ``folder``.

    The lock is the system's (``flock``) on a file in the folder, and ends with its process, however that ends. The
    thread that holds it may take it again. The folder is made where there is none, and removed in the end if it is
    still empty. Where the file system has no locks, a warning says so and the block runs without.

    Raises:
        InputError: another run holds it; the message says which process and since when.
        OSError: the folder or the file in it cannot be made.
    """
    key = os.path.realpath(folder)
    with _guard:
        if key in _held and _held[key][0] != threading.get_ident():
            raise _refusal(folder, "another thread of this process")
        is_outermost = key not in _held
        if is_outermost:
            made = _make(Path(key))
            try:
                _held[key] = (threading.get_ident(), _lock(folder, Path(key)))
            except BaseException:
                _remove(made)
                raise
    try:
        yield
    finally:
        with _guard:
            if is_outermost and key in _held:  # not in a forked child
                _, descriptor = _held.pop(key)
                with contextlib.suppress(OSError):  # while it is held: nobody loses a lock on it
                    (Path(key) / LOCK_FILE).unlink()
                if descriptor is not None:
                    os.close(descriptor)
                _remove(made)


def _lock(folder: str | Path, real: Path) -> int | None:
    """A descriptor that holds the lock; None where the file system has none."""
    path = real / LOCK_FILE
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, _LONGEST_HOLDER, 0).decode("utf-8", "replace")
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise _refusal(folder, holder or "a process that has just begun") from None
            path.unlink(missing_ok=True)
            warnings.warn(
                f"{folder}: its file system has no locks ({error.strerror}); start no second run that writes there",
                stacklevel=5,
            )
            return None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                with contextlib.suppress(OSError):  # a full disk; the lock holds without
                    os.truncate(descriptor, 0)
                    since = time.strftime("%Y-%m-%d %H:%M:%S")
                    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode(), 0)
                return descriptor
        os.close(descriptor)  # its last holder has removed it meanwhile


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)  # another user's, who may have been killed


def _refusal(folder: str | Path, holder: str) -> InputError:
    return InputError(
        f"{folder}: another run writes there ({holder}); wait for its end, or choose another output folder"
    )


def _make(folder: Path) -> list[Path]:
    """Make a folder and those that it lies in. Returns which were made, the innermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove(made: list[Path]) -> None:
    for folder in made:
        try:
            folder.rmdir()
        except OSError:  # holds something
            return


def _forget() -> None:
    """A forked child holds nothing, and must not keep its parent's locks when that has ended."""
    global _guard
    _guard = threading.Lock()
    for _, descriptor in _held.values():
        if descriptor is not None:
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
