"""Notices code that an input has run: Python's audit events, of which reading data causes none."""

from __future__ import annotations

import sys
import traceback
import typing
from types import CodeType
from typing import Any

_EVENTS = frozenset((
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill",
    "os.putenv",
    "os.chmod", "os.chown", "os.chdir", "pty.spawn", "subprocess.Popen", "socket.connect", "socket.bind",
    "socket.getaddrinfo", "ctypes.dlopen", "ctypes.dlsym", "marshal.loads", "shutil.rmtree", "webbrowser.open",
    "urllib.Request", "code.__new__", "builtins.input", "builtins.breakpoint", "cpython.run_command",
))  # fmt: skip


class Guard:
    """Collects such events while ``armed``; a process has one, for good."""

    def __init__(self) -> None:
        self.armed = False
        self.seen: list[str] = []
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in _EVENTS:
            # A module that is imported late is unmarshalled from a file of its own.
            if event != "marshal.loads" or not _own_business():
                self._keep(f"{event} {arguments!r}"[:200])
        elif event == "exec" and isinstance(arguments[0], CodeType):
            name = arguments[0].co_filename
            if name.startswith("<") and not name.startswith("<frozen") and not _own_business():
                self._keep(f"exec {arguments[0].co_filename}")

    def _keep(self, what: str) -> None:
        self.seen.append(f"{what}\n{''.join(traceback.format_stack(sys._getframe(2), 12))}")


def _own_business() -> bool:
    """Whether Python or a library imports a module, or reads the types of a function of its own."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name == "<frozen importlib._bootstrap>" or name == typing.__file__:  # which evaluates annotations
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
