"""Averaged weights, NT-ASGD and L2-SP, for any model's parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from ulmfit_fast.core.errors import InputError


class AveragedWeights:
    """A running average of parameters, to evaluate and save in their place.

    Args:
        parameters: the tensors to average, as an optimizer takes them.
        decay: of an exponential moving average, in (0, 1); None: the plain mean of all updates.

    Raises:
        ValueError: ``decay`` outside (0, 1).
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float | None = None) -> None:
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"AveragedWeights: decay must be in (0, 1) or None, got {decay}")
        self.parameters = list(parameters)
        self.decay = decay
        self.updates = 0
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into the average. The first update is the average itself."""
        self.updates += 1
        weight = 1 / self.updates if self.decay is None or self.updates == 1 else 1 - self.decay
        torch._foreach_lerp_(self.averages, [parameter.detach() for parameter in self.parameters], weight)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the parameters hold the average, if there is one; after it what they held before."""
        if self.updates == 0:
            yield
            return
        kept = [parameter.detach().clone() for parameter in self.parameters]
        try:
            self._set(self.averages)
            yield
        finally:
            self._set(kept)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for average, value in zip(self.averages, state["averages"], strict=True):
            average.copy_(value)


class NTASGD(SGD):
    """SGD that begins to average its weights when validation stops improving: non-monotonically triggered ASGD.

    After every validation call ``validated`` with its loss. Once the average has begun, validate and save within
    ``with optimizer.average.in_place():``.

    Args:
        params, lr, weight_decay: as ``torch.optim.SGD``; weight decay is added to the gradient.
        patience: averaging begins with a validation loss above the best of all but the last ``patience`` ones.

    Raises:
        ValueError: ``patience`` below 1, or what SGD refuses.

    Source: Merity et al., arXiv 1708.02182, algorithm 1.
    """

    def __init__(self, params: Any, lr: float = 30.0, *, weight_decay: float = 1.2e-6, patience: int = 5) -> None:
        if patience < 1:
            raise ValueError(f"NTASGD: patience must be at least 1, got {patience}")
        super().__init__(params, lr=lr, weight_decay=weight_decay, foreach=True)
        self.patience = patience
        self.losses: list[float] = []
        self.averaging = False
        self.average = AveragedWeights(p for group in self.param_groups for p in group["params"])

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        if self.averaging:
            self.average.update()
        return loss

    def validated(self, loss: float) -> bool:
        """Record a validation loss. Returns whether averaging begins with it."""
        begins = not self.averaging and len(self.losses) > self.patience and loss > min(self.losses[: -self.patience])
        self.averaging = self.averaging or begins
        self.losses.append(loss)
        return begins

    def state_dict(self) -> dict[str, Any]:
        own = {"losses": list(self.losses), "averaging": self.averaging, "average": self.average.state_dict()}
        return super().state_dict() | {"nt_asgd": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        own = state_dict["nt_asgd"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "nt_asgd"})
        self.losses, self.averaging = list(own["losses"]), own["averaging"]
        self.average.load_state_dict(own["average"])


class L2SP:
    """Pulls parameters towards where they started instead of towards zero: the penalty of L2-SP, as gradients.

    The penalty is ``strength / 2`` times the squared distance from the values that the parameters have when this is
    made. Call ``add_gradients`` after ``backward`` and before gradients are clipped. A frozen parameter is left alone.

    Args:
        parameters: of the pretrained layers.
        strength: above 0.

    Raises:
        InputError: a strength that is not above 0.

    Source: Li et al., arXiv 1802.01483, equation 3 (alpha; for new layers use weight decay, beta).
    """

    def __init__(self, parameters: Iterable[Tensor], strength: float) -> None:
        if not strength > 0:
            raise InputError(f"L2SP: strength must be above 0, got {strength}")
        self.parameters = list(parameters)
        self.strength = strength
        self.starts = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add ``strength * (parameter - start)`` to the gradient of each parameter that has one."""
        for parameter, start in zip(self.parameters, self.starts, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self.strength)
