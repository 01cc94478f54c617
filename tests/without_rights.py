"""What a user without root's rights sees, though tests may run as root."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def message_without_rights(folder: Path, attempt: Callable[[], object]) -> str:
    """The message of the exception of ``attempt``, called in ``folder`` by a user who owns nothing; "" for none."""
    folder.chmod(0o755)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        message = ""
        try:
            os.chdir(folder)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            attempt()
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        os.write(writing, message.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        message = file.read().decode()
    os.waitpid(child, 0)
    return message
