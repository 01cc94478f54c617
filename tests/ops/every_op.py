"""Arguments of every op that the native module registers, by the names of its schema."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.ops.cases import Case
from tests.ops.test_forget_mult import Case as RecurrenceCase
from tests.ops.test_lstm_pool import pool_arguments

native = torch.ops.ulmfit_fast
OPS = sorted(
    name.removeprefix("ulmfit_fast::").split(".")[0]
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("ulmfit_fast::")
)
FOUND_ON_CPU = ("batch_sizes", "seed")  # by all kernels, whatever device the rest is on
LSTM = ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh")
POOL = ("total", "maximum", "argmax", "count", "pool_from")


def overload(op: str) -> Any:
    return getattr(native, op).default


def tensors_of(op: str) -> list[str]:
    """The names of its arguments that are tensors, optional ones included."""
    return [argument.name for argument in overload(op)._schema.arguments if "Tensor" in str(argument.type)]


def call(op: str, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    """The op itself, its results as a tuple."""
    results = overload(op)(**arguments)
    return (results,) if isinstance(results, Tensor) else tuple(results)


def _taken(op: str, given: dict[str, Any]) -> dict[str, Any]:
    """Those that the op takes."""
    return {argument.name: given[argument.name] for argument in overload(op)._schema.arguments}


def _quantized(inputs: int, hidden: int) -> dict[str, Tensor]:
    ih, hh = (torch.randint(-127, 128, (4 * hidden, size), dtype=torch.int8) for size in (inputs, hidden))
    scale = torch.full((4 * hidden,), 0.01)
    return {"weight_ih": ih, "scale_ih": scale, "weight_hh": hh, "scale_hh": scale.clone()}


def _forget_mult(op: str, lengths: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    case = RecurrenceCase("every op", lengths or (1, 1), 7)
    arguments = case.arguments(dtype, pooled=True, grad=False) | {"bptt": 0, "keep": 1}
    arguments |= arguments.pop("state")._asdict()
    arguments.pop("last")
    if not lengths:
        arguments["batch_sizes"] = torch.zeros(2, dtype=torch.int64)
        arguments |= {name: arguments[name][:0] for name in ("gates", "c0")}
    if op == "forget_mult":
        return arguments
    results = dict(
        zip((r.name for r in overload("forget_mult")._schema.returns), call("forget_mult", arguments), strict=True)
    )
    given = {name: torch.ones_like(results[name.removeprefix("grad_")]) for name in tensors_of(op) if "grad_" in name}
    return _taken(op, arguments | results | given | {"needs": [True] * 2})


def arguments_of(
    op: str, lengths: tuple[int, ...] = (3, 2, 1), dtype: torch.dtype = torch.float32, projection: int = 3
) -> dict[str, Any]:
    """Every tensor given, without gradients; without ``lengths`` a batch of two steps that has no rows."""
    case = Case("every op", lengths or (1, 1), 5, 7, 0 if "pool" in op else projection, p=0.3)
    arguments = pool_arguments(case, dtype, False) if "pool" in op else case.arguments(dtype, False)
    state = dtype if dtype == torch.float64 else torch.float32
    rows, known = sum(lengths), 11
    if not lengths:
        arguments["batch_sizes"] = torch.zeros(2, dtype=torch.int64)
        arguments |= {name: arguments[name][:0] for name in ("input", "h0", "c0")}
    if "pool" in op:
        arguments |= arguments.pop("state")._asdict()
        arguments.pop("last")
    x = arguments["input"]
    tokens, targets = torch.arange(rows) % known, torch.arange(rows) % known
    match op:
        case "dropconnect_mask":
            return {"seed": arguments["seed"], "rows": 28, "columns": 7, "p": 0.3}
        case "embedding":
            return {
                "tokens": tokens,
                "weight": torch.randn(known, 5, dtype=dtype),
                "mask": torch.ones(known, dtype=state),
            }
        case "embedding_backward":
            return {"grad": x, "tokens": tokens, "mask": torch.ones(known, dtype=state), "vocabulary": known}
        case "add_steps":
            return {"count": torch.arange(4), "batch_sizes": arguments["batch_sizes"]}
        case "locked_dropout":
            return {"input": x, "mask": torch.ones(3, 5, dtype=state), "batch_sizes": arguments["batch_sizes"]}
        case "linear":
            return {
                "input": x, "weight": torch.randn(known, 5, dtype=dtype), "bias": torch.randn(known, dtype=dtype),
                "transposed": False,
            }  # fmt: skip
        case "forget_mult" | "forget_mult_backward":
            return _forget_mult(op, lengths, dtype)
        case "linear_cross_entropy":
            return {
                "input": x, "weight": torch.randn(known, 5, dtype=dtype), "bias": torch.randn(known, dtype=dtype),
                "target": targets, "row_weight": torch.ones(rows, dtype=state), "ignore_index": -100,
                "label_smoothing": 0.1, "gradient_threshold": 0.0, "needs": [True] * 3,
            }  # fmt: skip
        case "lstm" | "lstm_pool":
            return arguments | {"bptt": 0, "keep": 2}
        case "lstm_pack":
            return {n: arguments[n] for n in ("weight_ih", "weight_hh", "weight_hr")} | {"dtype": dtype}
        case "lstm_packed" | "lstm_pool_packed":
            weights = [arguments[n] for n in ("weight_ih", "weight_hh")]
            arguments["packed"] = native.lstm_pack(*weights, arguments.get("weight_hr"), dtype)
            return _taken(op, arguments | {"keep": 1})
        case "lstm_quantized_pack":
            return _quantized(5, 7)
        case "lstm_quantized" | "lstm_pool_quantized":
            packed = native.lstm_quantized_pack(*_quantized(5, 7).values())
            if "pool" not in op:
                arguments["h0"] = torch.zeros_like(arguments["c0"])
            return _taken(op, arguments | {"packed": packed})
    forward = op.removesuffix("_backward")  # whose results backward takes
    results = dict(
        zip((r.name for r in overload(forward)._schema.returns), call(forward, arguments | {"bptt": 0, "keep": 2}),
            strict=True)
    )  # fmt: skip
    gradients = [name for name in tensors_of(op) if name.startswith("grad_")]
    given = {name: torch.ones_like(results[name.removeprefix("grad_")]) for name in gradients}
    given |= {name: arguments[name] for name in tensors_of(op) if name in arguments}
    given |= {name: results[name] for name in tensors_of(op) if name in results}
    options = {"weight_dropout": 0.3, "bptt": 0, "needs": [True] * 6}
    return given | options | ({"reverse": False} if op == "lstm_backward" else {})
