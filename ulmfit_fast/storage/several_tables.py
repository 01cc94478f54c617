"""A folder of several classifiers that were trained together: a folder for each table, and a ``config.json``.

Each of the folders is a classifier's like any other. The ``config.json`` says of which tables they are, so that nothing
is written over them unasked.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.storage.model_folder import MODEL_FORMAT, SEVERAL_TABLES, read_config, remove_model, remove_run
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.storage.run_file import CHECKPOINT

_NAME = re.compile(r"\w[\w.-]*")


def check_names(names: Sequence[str], reserved: Sequence[str] = ()) -> None:
    """Raises InputError for a name that cannot be a table's, whose folder has that name."""
    for name in names:
        if not _NAME.fullmatch(name) or name in reserved:
            reason = "which is taken" if name in reserved else "as a folder's it takes letters, digits, _, - and ."
            raise InputError(f"a table cannot have the name {name!r}, {reason}; choose another")


def tables_of(folder: str | Path) -> list[str]:
    """The tables of such a folder; none for every other folder."""
    with contextlib.suppress(InputError):
        config = read_config(folder)
        if config["kind"] == SEVERAL_TABLES and isinstance(config.get("tables"), list):
            return [str(name) for name in config["tables"] if _NAME.fullmatch(str(name))]
    return []


def check_tables_folder(folder: Path, names: Sequence[str], overwrite: bool, resume: bool) -> None:
    """Raises InputError where a table's folder holds a model that nothing allows to be replaced."""
    if not (resume and (folder / CHECKPOINT).exists()):
        for name in names:
            if (folder / name).exists():
                check_output_folder(folder / name, overwrite)


def join_tables(folder: Path, names: Sequence[str]) -> None:
    """Say that a folder stands for the classifiers of these tables, and no more for others."""
    before = tables_of(folder)
    if before == list(names):
        return
    remove_model(folder)
    for name in set(before) - set(names):
        remove_model(folder / name)
        remove_run(folder / name)
    config: dict[str, Any] = MODEL_FORMAT | {"kind": SEVERAL_TABLES, "tables": list(names)}
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")
