"""Weights in a half or a quarter of their size on disk; in memory they are float32 again.

"float16" rounds each number (to 11 bits). "int8" keeps each row of a matrix as whole numbers from -127 to 127 times one
float32 scale, the row's largest absolute value over 127: the error of a number is at most half a scale. Vectors stay
float32, but in "float16". A quantized model (``nn.quantized``) is stored in the same form, and is int8 in memory, too.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.quantized import SCALE
from ulmfit_fast.ops import QuantizedRows, quantize_rows

FORMATS = ("float32", "float16", "int8")
_SCALE = ".scale"  # after the name of an int8 tensor: its rows' scales


def compacted(state: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
    """The tensors of a state dict as ``format`` stores them. Raises InputError for an unknown format."""
    if format not in FORMATS:
        raise InputError(f"weights are stored as one of {', '.join(FORMATS)}, not {format!r}")
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if format == "float32" or not tensor.is_floating_point():
            result[name] = tensor.contiguous()
        elif format == "float16":
            limit = torch.finfo(torch.float16).max
            result[name] = tensor.clamp(-limit, limit).half().contiguous()
        elif tensor.dim() == 2:
            result[name], result[name + _SCALE] = quantize_rows(tensor)
        else:
            result[name] = tensor.float().contiguous()
    return result


def restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that ``compacted`` was given, as far as it can be known: floating-point tensors as float32."""
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in tensors:
            continue
        if tensor.dtype == torch.int8:
            scale = tensors.get(name + _SCALE)
            if scale is None or scale.shape != tensor.shape[:1]:
                raise InputError(f"{name}: is stored in int8 without a scale for each row")
            result[name] = QuantizedRows(tensor, scale.float()).restored()
        elif tensor.dtype == torch.float16:
            result[name] = tensor.float()
        else:
            result[name] = tensor
    return result


def stored_of_quantized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A quantized model's state dict with its scales by the names that they have in files."""

    def stored(name: str) -> str:
        matrix = name.removesuffix(SCALE)
        return matrix + _SCALE if matrix != name and matrix in state else name

    return {stored(name): tensor.contiguous() for name, tensor in state.items()}


def quantized_of_stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The quantized model's state dict that ``stored_of_quantized`` was given."""
    return {
        name.removesuffix(_SCALE) + SCALE if name.endswith(_SCALE) else name: tensor for name, tensor in tensors.items()
    }
