"""Files opened before a library reads them, which would take a file that may not be read for a damaged one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ulmfit_fast.core.errors import InputError


@contextlib.contextmanager
def opened_by_name(path: Path) -> Iterator[str]:
    """A name of the file that holds within the block, for libraries that take names in UTF-8 alone.

    Raises:
        InputError: the file cannot be opened; the reason is the system's.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    with file:
        by_number = f"/proc/self/fd/{file.fileno()}"
        yield by_number if os.path.exists(by_number) else str(path)  # there may be no /proc
