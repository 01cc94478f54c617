"""The native ops as Python functions: checks by the op itself, autograd, autocast, and shapes for torch.compile.

The only folder that says ``torch.ops.ulmfit_fast``. What each op computes stands in ``reference.py``.
"""

from ulmfit_fast.ops.dropconnect_mask import dropconnect_mask
from ulmfit_fast.ops.embedding import embedding
from ulmfit_fast.ops.forget_mult import ForgetMultOutput, forget_mult
from ulmfit_fast.ops.linear import linear
from ulmfit_fast.ops.linear_cross_entropy import linear_cross_entropy
from ulmfit_fast.ops.locked_dropout import locked_dropout
from ulmfit_fast.ops.lstm import lstm, lstm_with_cells
from ulmfit_fast.ops.lstm_pack import lstm_pack
from ulmfit_fast.ops.lstm_pool import LSTMPoolOutput, PooledState, lstm_pool
from ulmfit_fast.ops.lstm_quantized import (
    QuantizedRows,
    lstm_pool_quantized,
    lstm_quantized,
    lstm_quantized_pack,
    quantize_rows,
)
from ulmfit_fast.ops.shared import autocast_dtype, build_info, draw_seed, sequence_lengths

__all__ = [
    "ForgetMultOutput",
    "LSTMPoolOutput",
    "PooledState",
    "QuantizedRows",
    "autocast_dtype",
    "build_info",
    "draw_seed",
    "dropconnect_mask",
    "embedding",
    "forget_mult",
    "linear",
    "linear_cross_entropy",
    "locked_dropout",
    "lstm",
    "lstm_pack",
    "lstm_pool",
    "lstm_pool_quantized",
    "lstm_quantized",
    "lstm_quantized_pack",
    "lstm_with_cells",
    "quantize_rows",
    "sequence_lengths",
]
