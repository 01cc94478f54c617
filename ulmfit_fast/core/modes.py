"""A caller's torch modes do not reach into training and prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def own_modes(grad: bool = True) -> Iterator[None]:
    """Within it: gradients as said, no inference mode, no autocast, new tensors on the CPU unless told otherwise.

    All of it belongs to the calling thread. The default dtype does not, which is why no code of this package relies on
    it.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
