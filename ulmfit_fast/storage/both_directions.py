"""A folder of two models, one for each direction: ``forward/``, ``backward/`` and a ``config.json`` that says so.

The whole is written when both are there, so a folder whose second training was interrupted is none yet.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.storage.model_folder import BOTH_DIRECTIONS, MODEL_FORMAT, read_config, remove_model, remove_run
from ulmfit_fast.text.tokenizer import DIRECTIONS


def members(folder: str | Path) -> list[Path]:
    """The folders of the models that a folder stands for: of both directions two, else itself."""
    folder = Path(folder)
    return [folder / direction for direction in DIRECTIONS] if has_both(folder) else [folder]


def has_both(folder: str | Path) -> bool:
    """Whether a folder holds models of both directions. A folder that is no model's holds none."""
    with contextlib.suppress(InputError):
        return bool(read_config(folder)["kind"] == BOTH_DIRECTIONS)
    return False


def join(folder: Path) -> None:
    """Say that a folder stands for the models in ``forward/`` and ``backward/``, no more for one of its own."""
    kinds = {read_config(folder / direction)["kind"] for direction in DIRECTIONS}
    assert len(kinds) == 1, kinds
    config: dict[str, Any] = MODEL_FORMAT | {"kind": BOTH_DIRECTIONS, "of": kinds.pop()}
    remove_model(folder)
    remove_run(folder)
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")
