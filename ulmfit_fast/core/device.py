"""Where and in which precision a model computes."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.ops import build_info

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Copies of more than this to a GPU from memory that is not pinned hold the caller up until the GPU has come to them.
_STAGED_BYTES = 64 * 1024


def choose_device(name: str) -> torch.device:
    """One of ``DEVICES``; "auto" is a GPU where there is one and the package was built for it.

    Raises:
        InputError: "cuda" where that is not so.
    """
    built, present = bool(build_info()["cuda"]), torch.cuda.is_available()
    if name == "cuda" and not (built and present):
        remedy = "torch sees no GPU" if built else "ulmfit_fast was built without it; reinstall with ULMFIT_FAST_CUDA=1"
        raise InputError(f"device=cuda: {remedy}")
    return torch.device("cuda" if name != "cpu" and built and present else "cpu")


def autocast(model: nn.Module, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Autocast for one of ``PRECISIONS``. Raises InputError for another name."""
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    dtype = PRECISIONS[precision]
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype=dtype)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on ``device``, by a copy that is queued: nobody waits for the device.

    (Indexing by a tensor on the CPU would wait.) Large ones are pinned first, from torch's cache of pinned memory.
    """
    if device.type == "cuda" and tensor.device.type == "cpu" and tensor.nbytes > _STAGED_BYTES:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def documents_on_device(documents: PackedSequence, device: torch.device) -> PackedSequence:
    """The same of packed documents; ``batch_sizes`` stay on the CPU."""
    data, sizes, *orders = documents
    orders = [None if order is None else on_device(order, device) for order in orders]
    return PackedSequence(on_device(data, device), sizes, *orders)
