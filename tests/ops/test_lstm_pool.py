"""The ``lstm_pool`` op against its reference and against ``ops.lstm``: state carried over calls, every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, library

from tests.ops.cases import CASES, TOLERANCE, Case, batch_sizes_of
from ulmfit_fast import ops
from ulmfit_fast.ops import PooledState, reference

NAMES = ("input", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
POOL_CASES = [case for case in CASES if not case.projection and not case.reverse]


def pool_arguments(case: Case, dtype: torch.dtype, requires_grad: bool = True) -> dict[str, Any]:
    """Arguments of ``ops.lstm_pool``: two more documents than rows, steps behind them, a late window."""
    arguments = case.arguments(dtype, requires_grad)
    arguments.pop("reverse"), arguments.pop("weight_hr")
    documents, features = len(case.lengths) + 2, case.hidden
    generator = torch.Generator().manual_seed(1)
    state = PooledState.empty(documents, features, dtype)
    values = torch.randn(2, documents, features, generator=generator, dtype=torch.float64).to(state.maximum.dtype) / 4
    count = torch.randint(2, 9, (documents,), generator=generator)
    arguments["state"] = PooledState(
        values[0].double().requires_grad_(requires_grad),
        values[1].clone().requires_grad_(requires_grad),
        torch.randint(0, 2, (documents, features), generator=generator, dtype=torch.int32),
        state.last,
        count,
        count + torch.arange(documents) % 3 - 1,
    )
    return arguments


def run_ops(**arguments: Any) -> tuple[Tensor, ...]:
    result = ops.lstm_pool(**arguments)
    return result.h_n, result.c_n, result.state.total, result.state.maximum, result.state.argmax


def run_reference(state: PooledState, **arguments: Any) -> tuple[Tensor, ...]:
    return reference.lstm_pool(
        **arguments, total=state.total, maximum=state.maximum, argmax=state.argmax, count=state.count,
        pool_from=state.pool_from,
    )  # fmt: skip


def run_with_gradients(function: Any, arguments: dict[str, Any]) -> dict[str, Tensor]:
    outputs = function(**arguments)
    loss = sum(
        (out.double() * torch.linspace(0.3, 1.7, out.numel()).view_as(out).cos().to(out.device)).sum()
        for out in outputs[:4]
    )
    inputs = {name: arguments[name] for name in NAMES if arguments[name] is not None}
    inputs |= {"total": arguments["state"].total, "maximum": arguments["state"].maximum}
    gradients = torch.autograd.grad(loss, list(inputs.values()))
    named = dict(zip(("h_n", "c_n", "total", "maximum", "argmax"), outputs, strict=True))
    return named | {f"grad_{name}": grad for name, grad in zip(inputs, gradients, strict=True)}


def in_double(value: Any) -> Any:
    if isinstance(value, PooledState):
        return PooledState(*(in_double(x) for x in value))
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().double().requires_grad_()
    return value


@pytest.mark.parametrize("bptt", [0, 1, 3])
@pytest.mark.parametrize("case", [c for c in POOL_CASES if sum(c.lengths) < 300], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_results_and_gradients_equal_the_reference(case: Case, dtype: torch.dtype, bptt: int) -> None:
    arguments = pool_arguments(case, dtype) | {"bptt": bptt}
    ours = run_with_gradients(run_ops, arguments)
    expected = run_with_gradients(run_reference, {name: in_double(value) for name, value in arguments.items()})
    absolute, relative = TOLERANCE[dtype]
    if dtype == torch.bfloat16:  # sums of rounded states; near ties another step may be the maximum
        absolute *= max(case.lengths) ** 0.5
        assert (ours["argmax"] == expected["argmax"]).float().mean() > 0.8
        ours = {name: ours[name] for name in ("h_n", "c_n", "total", "maximum")}
    for name, value in ours.items():
        difference = (value.double() - expected[name].double()).abs()
        assert (difference <= absolute + relative * expected[name].abs()).all(), f"{name}: off by {difference.max()}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_equals_lstm_and_pooling_bit_for_bit_and_over_calls(dtype: torch.dtype) -> None:
    """One call, or two with the state carried (cell state in float32), or ``lstm`` and sums step by step."""
    case = Case("calls", (9, 7, 7, 3, 1), 6, 37, p=0.3)
    arguments = case.arguments(dtype, requires_grad=False)
    arguments.pop("reverse"), arguments.pop("weight_hr")
    state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    arguments["c0"] = arguments["c0"].to(state_dtype)
    whole = ops.lstm_pool(**arguments, state=PooledState.empty(5, 37, dtype))

    output, h_n, c_n = ops.lstm(**arguments)
    assert torch.equal(whole.h_n, h_n)
    assert torch.equal(whole.c_n, c_n)
    total, maximum = torch.zeros(5, 37).double(), torch.full((5, 37), -torch.inf, dtype=state_dtype)
    for rows in output.to(state_dtype).split(arguments["batch_sizes"].tolist()):
        total[: len(rows)] += rows
        maximum[: len(rows)] = torch.maximum(maximum[: len(rows)], rows)
    assert torch.equal(whole.state.total, total)
    assert torch.equal(whole.state.maximum, maximum)
    assert whole.state.count.tolist() == list(case.lengths)
    assert torch.equal(whole.state.last, h_n.to(state_dtype))
    assert whole.output.numel() == 0

    sizes, state, c = arguments["batch_sizes"], PooledState.empty(5, 37, dtype), arguments["c0"]
    h, row = arguments["h0"], 0
    for part in sizes.split(4):
        rows, batch = int(part.sum()), int(part[0])
        x = arguments["input"][row : row + rows]
        changed = arguments | {"input": x, "batch_sizes": part, "h0": h[:batch], "c0": c[:batch]}
        result = ops.lstm_pool(**changed, state=state, keep_states=True)
        assert torch.equal(result.output, output[row : row + rows])
        state, h, c, row = result.state, result.h_n, result.c_n, row + rows
    for carried, once in zip(state, whole.state, strict=True):
        assert torch.equal(carried, once)


def test_argmax_is_the_first_of_equals_and_the_window_is_kept() -> None:
    """Zero weights make every state the same."""
    a = {
        "input": torch.zeros(5, 2), "batch_sizes": torch.tensor([2, 1, 1, 1]), "h0": torch.zeros(2, 3),
        "c0": torch.zeros(2, 3), "weight_ih": torch.zeros(12, 2), "weight_hh": torch.zeros(12, 3), "bias_ih": None,
        "bias_hh": None,
    }  # fmt: skip
    state = PooledState.empty(2, 3)._replace(pool_from=torch.tensor([2, 0]))
    result = ops.lstm_pool(**a, state=state).state
    assert result.argmax.tolist() == [[2, 2, 2], [0, 0, 0]]
    assert result.count.tolist() == [4, 1]
    assert torch.equal(result.pooled(), torch.zeros(2, 9))


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_gradcheck(p: float) -> None:
    arguments = pool_arguments(Case("gradcheck", (4, 2, 1), 3, 5, p=p), torch.float64)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        changed = dict(zip(NAMES, tensors[:7], strict=True))
        state = arguments["state"]._replace(total=tensors[7], maximum=tensors[8])
        return run_ops(**(arguments | changed | {"state": state}))[:4]

    inputs = [*(arguments[name] for name in NAMES), arguments["state"].total, arguments["state"].maximum]
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck(requires_grad: bool) -> None:
    a = pool_arguments(Case("opcheck", (4, 2, 1), p=0.5), torch.float32, requires_grad)
    arguments = (
        *(a[name] for name in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        *(getattr(a["state"], name) for name in ("total", "maximum", "argmax", "count", "pool_from")),
        a["seed"], 0.5, 2, 2 if requires_grad else 1,
    )  # fmt: skip
    library.opcheck(torch.ops.ulmfit_fast.lstm_pool.default, arguments)


def test_opcheck_backward() -> None:
    a = pool_arguments(Case("opcheck", (4, 2, 1), p=0.5), torch.float32, requires_grad=False)
    forward = [a[name] for name in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh")]
    pool = [a["state"].count, a["state"].pool_from]
    h_n, c_n, total, maximum, argmax, output, gates, cells = torch.ops.ulmfit_fast.lstm_pool(
        *forward, a["bias_ih"], a["bias_hh"], a["state"].total, a["state"].maximum, a["state"].argmax, *pool,
        a["seed"], 0.5, 2, 2,
    )  # fmt: skip
    grads = [torch.ones_like(x) for x in (h_n, c_n, total, maximum)]
    arguments = (*grads, *forward, argmax, *pool, a["seed"], 0.5, 2, output, gates, cells, [True] * 5 + [False])
    library.opcheck(torch.ops.ulmfit_fast.lstm_pool_backward.default, arguments)


def test_autocast_keeps_cell_and_pool_in_float32() -> None:
    a = pool_arguments(Case("autocast", (5, 3)), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ops.lstm_pool(**a)
    assert result.h_n.dtype == torch.bfloat16
    assert {result.c_n.dtype, result.state.maximum.dtype, result.state.last.dtype} == {torch.float32}
    result.state.pooled().sum().backward()
    assert a["weight_hh"].grad.dtype == torch.float32


def test_the_mean_of_a_million_steps() -> None:
    """All states alike: the sum is known. In float32 it would be one percent off."""
    steps = 1_000_000
    a = {
        "input": torch.zeros(steps, 1), "batch_sizes": torch.ones(steps, dtype=torch.int64), "h0": torch.zeros(1, 1),
        "c0": torch.zeros(1, 1), "weight_ih": torch.zeros(4, 1), "weight_hh": torch.zeros(4, 1),
        "bias_ih": torch.tensor([-3.0, -9.0, 9.0, 9.0]), "bias_hh": torch.zeros(4),
    }  # fmt: skip
    state = ops.lstm_pool(**a, state=PooledState.empty(1, 1)).state
    last, _, mean = state.pooled()[0].tolist()
    assert abs(mean / last - 1) < 1e-6


def test_rows_and_threads_do_not_matter_to_the_bit() -> None:
    case = Case("rows", (8, 5, 5, 2), 6, 70)
    for dtype in (torch.float32, torch.bfloat16):
        a = case.arguments(dtype, requires_grad=False)
        a.pop("reverse"), a.pop("weight_hr")
        whole = ops.lstm_pool(**a, state=PooledState.empty(4, 70)).state
        steps = a["input"].split(a["batch_sizes"].tolist())
        for r, length in enumerate(case.lengths):
            alone = {
                "input": torch.stack([step[r] for step in steps[:length]]),
                "batch_sizes": batch_sizes_of((length,)),
            }
            alone = a | alone | {"h0": a["h0"][r : r + 1], "c0": a["c0"][r : r + 1]}
            state = ops.lstm_pool(**alone, state=PooledState.empty(1, 70)).state
            assert all(torch.equal(x[0], y[r]) for x, y in zip(state, whole, strict=True))


BAD = {
    "count": ({"count": torch.zeros(1, dtype=torch.int64)}, ValueError, "count must be .* one for each of the 2 rows"),
    "argmax": ({"argmax": torch.zeros(4, 7)}, TypeError, "argmax must be Int, got Float"),
    "total": ({"total": torch.zeros(4, 6).double()}, ValueError, r"total must have shape \[4, 7\], got \[4, 6\]"),
    "maximum": ({"maximum": torch.zeros(4, 7).double()}, TypeError, "maximum must be Float, got Double"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_state(name: str) -> None:
    change, error, message = BAD[name]
    a = pool_arguments(Case("bad", (2, 1)), torch.float32, requires_grad=False)
    with pytest.raises(error, match=message):
        ops.lstm_pool(**(a | {"state": a["state"]._replace(**change)}))
