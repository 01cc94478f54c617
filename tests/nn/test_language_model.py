"""The language model's training beside a plain PyTorch implementation with the same masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.loss_curve import losses
from ulmfit_fast import AWDLSTMConfig
from ulmfit_fast.text.batching import LanguageModelStream

CONFIG = AWDLSTMConfig(60, 12, 20, 3, embed_p=0.1, input_p=0.3, hidden_p=0.2, weight_p=0.4, output_p=0.2)


def stream() -> LanguageModelStream:
    ids = np.arange(9000, dtype=np.int32) * 7 % 13  # there is something to learn
    return LanguageModelStream([ids], 6, 15, variable_length=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)], ids=str)
def test_losses_are_those_of_plain_pytorch(dtype: torch.dtype, tolerance: float) -> None:
    """Sixty steps with all dropouts, AR, TAR and carried state: any wrong gradient would drift away."""
    curves = list(losses(CONFIG, stream(), 60, ("plain", "ours"), dtype, lr=6e-3))
    for result in curves:
        assert result["ours"] == pytest.approx(result["plain"], rel=tolerance)
    assert curves[-1]["ours"] < 0.9 * curves[0]["ours"]


def test_bfloat16_follows_within_a_percent() -> None:
    curves = list(losses(CONFIG, stream(), 60, ("plain", "ours, bfloat16"), torch.float32, lr=6e-3))
    for result in curves:
        assert result["ours, bfloat16"] == pytest.approx(result["plain"], rel=1e-2)


def test_a_stopped_loss_curve_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    names, checkpoint = ("plain", "ours, bfloat16"), tmp_path / "curve.checkpoint"
    whole = list(losses(CONFIG, stream(), 30, names, torch.float32, lr=6e-3))
    first = losses(CONFIG, stream(), 30, names, torch.float32, 6e-3, checkpoint)
    for _ in range(23):
        next(first)
    assert list(losses(CONFIG, stream(), 30, names, torch.float32, 6e-3, checkpoint)) == whole
    with pytest.raises(ValueError, match="of another run"):
        list(losses(CONFIG, stream(), 30, names, torch.float32, 5e-3, checkpoint))
