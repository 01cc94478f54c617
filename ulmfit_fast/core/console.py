"""Lines for standard output and standard error, also where these are closed, full, or a terminal of few characters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

_OF_STANDARD_OUTPUT = "standard output"


def say(message: str, *, error: bool = False, end: str = "\n") -> None:
    """Print a line on standard output, or on standard error; with another ``end`` a part of one.

    Where there is no such stream, or its reader has gone, nothing is printed. What its encoding lacks is escaped.

    Raises:
        OSError: standard output cannot be written, as on a full disk. Standard error is never worth ending for.
    """
    stream: Any = sys.stderr if error else sys.stdout
    if stream is None:  # pythonw, services
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(f"{message.encode(encoding, 'backslashreplace').decode(encoding)}{end}")
        stream.flush()
    except ValueError:  # closed
        return
    except OSError as failure:
        if not error and not isinstance(failure, BrokenPipeError):
            raise OSError(failure.errno, failure.strerror, _OF_STANDARD_OUTPUT) from None


def is_terminal(stream: Any) -> bool:
    """Whether somebody looks at a stream; of one that is closed or None nobody does."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError, OSError):
        return False


class Surviving:
    """A stream whose writes are lost where they fail: a terminal that has been closed must not end the work.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def usable_streams() -> Iterator[None]:
    """Within the block standard output and error escape what their encoding lacks: an emoji, names not in UTF-8.

    And what cannot be written on standard error is lost, whoever writes it: ``click``, the module ``warnings``.
    """
    standard_error = sys.stderr
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    if standard_error is not None:
        sys.stderr = Surviving(standard_error)
    try:
        yield
    finally:
        sys.stderr = standard_error
        for stream, errors in zip(streams, before, strict=True):
            with contextlib.suppress(OSError, ValueError):  # reconfiguring flushes
                stream.reconfigure(errors=errors)


def open_standard_streams() -> None:
    """Give a process that was started without standard input, output or error the null device in their place.

    Otherwise the next file that is opened has their number, and what a library prints would be written into it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            os.set_inheritable(descriptor, True)


def close_standard_output() -> OSError | None:
    """At the end of a process: write what waits to be written. Returns the error where it cannot be.

    It is then forgotten, as Python would try again, and say so.
    """
    failure = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                failure = OSError(error.errno, error.strerror, _OF_STANDARD_OUTPUT)
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
    return failure
