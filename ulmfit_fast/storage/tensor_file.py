"""safetensors files read into memory, not mapped: the system ends a process that reads a mapped file which is cut."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
from torch import Tensor

from ulmfit_fast.storage.opening import opened_by_name


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors, in memory of their own (what a library gives may lie at odd addresses), and its metadata.

    Raises:
        InputError: the file cannot be opened.
        SafetensorError: it is damaged, or none of safetensors.
        OSError: it cannot be read.
    """
    with opened_by_name(path) as name:
        data = Path(name).read_bytes()
    found = safetensors.torch.load(data)  # which checks the header first
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: found.pop(name).clone() for name in list(found)}, header.get("__metadata__") or {}
