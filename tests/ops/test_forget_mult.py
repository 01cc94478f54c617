"""The QRNN's recurrence against a plain loop: every output and gradient, pooled or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, library

from tests.ops.cases import batch_sizes_of
from ulmfit_fast import ops
from ulmfit_fast.ops import reference

native = torch.ops.ulmfit_fast
# bfloat16: what the loop leaves unrounded is rounded once on the way in and once on the way out.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2}
# Pooled in bfloat16, rounding chooses another of two nearly equal maxima: below.
KINDS = [(dtype, pooled) for dtype in TOLERANCE for pooled in (False, True) if dtype != torch.bfloat16 or not pooled]


@dataclass(frozen=True)
class Case:
    name: str
    lengths: tuple[int, ...]
    hidden: int = 7
    output_gate: bool = True

    def __str__(self) -> str:
        return self.name

    def arguments(self, dtype: torch.dtype, pooled: bool = False, grad: bool = True) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(len(self.name))

        def draw(*shape: int, dtype: torch.dtype) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            return values.to(dtype).requires_grad_(grad)

        width, batch = (3 if self.output_gate else 2) * self.hidden, len(self.lengths)
        state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        arguments: dict[str, Any] = {
            "gates": draw(sum(self.lengths), width, dtype=dtype),
            "batch_sizes": batch_sizes_of(self.lengths),
            "c0": draw(batch, self.hidden, dtype=state_dtype),
            "output_gate": self.output_gate,
        }
        if pooled:
            state = ops.PooledState.empty(batch + 2, self.hidden, state_dtype)
            count = torch.arange(batch + 2) % 3
            total, maximum = (draw(batch + 2, self.hidden, dtype=d) for d in (torch.float64, state_dtype))
            arguments["state"] = state._replace(
                total=total,
                maximum=maximum,
                count=count,
                pool_from=(torch.arange(batch + 2) * 2) % 5,
                argmax=(count - 1).int().unsqueeze(1).expand_as(state.argmax).contiguous(),
            )
        return arguments


CASES = [
    Case("dense", (6, 6, 6)),
    Case("ragged", (9, 7, 7, 2, 1)),
    Case("one step", (1, 1, 1, 1)),
    Case("one row", (11,)),
    Case("one of each", (1,), 1),
    Case("f-pooling, ragged", (9, 4, 1), output_gate=False),
    Case("whole vectors", (5, 5, 2), 64),
    Case("many units", (4, 3, 3), 555),
    Case("many rows", tuple(sorted((1 + 7 * i % 13 for i in range(77)), reverse=True)), 33),
    Case("f-pooling, several pieces", (3,) * 40, 300, output_gate=False),
    Case("long", (300, 299, 150, 2), 5),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_bptt = pytest.mark.parametrize("bptt", [0, 3])


def leaves(arguments: dict[str, Any]) -> dict[str, Tensor]:
    state = arguments.get("state")
    found = {name: arguments[name] for name in ("gates", "c0")}
    return found if state is None else found | {"total": state.total, "maximum": state.maximum}


def run_ops(arguments: dict[str, Any], bptt: int = 0) -> dict[str, Tensor]:
    result = ops.forget_mult(**arguments, bptt=bptt)
    if result.state is None:
        return {"output": result.output, "h_n": result.h_n, "c_n": result.c_n}
    kept = result.state._asdict()
    return {"h_n": result.h_n, "c_n": result.c_n} | {name: kept[name] for name in ("total", "maximum", "argmax")}


def run_reference(arguments: dict[str, Any], bptt: int = 0) -> dict[str, Tensor]:
    given, state = dict(arguments), arguments.get("state")
    given.pop("state", None)
    output, h_n, c_n = reference.forget_mult(**given, bptt=bptt)
    if state is None:
        return {"output": output, "h_n": h_n, "c_n": c_n}
    names = ("total", "maximum", "argmax", "count", "pool_from")
    pooled = reference.pool_states(output, given["batch_sizes"], *(getattr(state, name) for name in names))
    return {"h_n": h_n, "c_n": c_n} | dict(zip(names[:3], pooled, strict=True))


def with_gradients(run: Any, arguments: dict[str, Any], bptt: int) -> dict[str, Tensor]:
    results, generator = run(arguments, bptt), torch.Generator().manual_seed(3)
    floats = {name: x for name, x in results.items() if x.is_floating_point()}
    loss = sum(
        (x.double() * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)).sum()
        for x in floats.values()
    )
    inputs = leaves(arguments)
    grads = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)  # type: ignore[arg-type]
    zero = {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(inputs.items(), grads, strict=True)}
    return results | {f"grad_{name}": g for name, g in zero.items()}


def in_double(arguments: dict[str, Any]) -> dict[str, Any]:
    def double(x: Any) -> Any:
        if isinstance(x, ops.PooledState):
            return ops.PooledState(*map(double, x))
        if isinstance(x, Tensor) and x.is_floating_point():
            return x.detach().double().requires_grad_(x.requires_grad)
        return x

    return {name: double(value) for name, value in arguments.items()}


@each_case
@each_bptt
@pytest.mark.parametrize(("dtype", "pooled"), KINDS, ids=str)
def test_equals_the_loop(case: Case, dtype: torch.dtype, pooled: bool, bptt: int) -> None:
    arguments = case.arguments(dtype, pooled)
    expected = with_gradients(run_reference, in_double(arguments), bptt)
    actual = with_gradients(run_ops, arguments, bptt)
    scale = 10 if case.name == "long" else 1
    for name, value in expected.items():
        tolerance = 0 if name == "argmax" else scale * TOLERANCE[dtype]
        torch.testing.assert_close(actual[name].double(), value.double(), atol=tolerance, rtol=tolerance, msg=name)


def test_what_is_pooled_in_bfloat16_is_what_comes_out() -> None:
    arguments = CASES[1].arguments(torch.bfloat16, pooled=True, grad=False)
    state = arguments.pop("state")
    output = ops.forget_mult(**arguments).output
    pooled = ops.forget_mult(**arguments, state=state).state
    names = ("total", "maximum", "argmax", "count", "pool_from")
    expected = reference.pool_states(output, arguments["batch_sizes"], *(getattr(state, n) for n in names))
    for mine, theirs in zip(pooled[:3], expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("pooled", [False, True], ids=["output", "pooled"])
@each_bptt
def test_a_sequence_depends_on_no_other_nor_on_threads_nor_on_where_calls_begin(bptt: int, pooled: bool) -> None:
    lengths = (61, 60, 33, 33, 8, 2, 1)
    arguments = Case("bits", lengths, 600).arguments(torch.float32, pooled)
    whole = with_gradients(run_ops, arguments, bptt)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    again = with_gradients(run_ops, arguments, bptt)
    torch.set_num_threads(before)
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    state = arguments.pop("state", None)
    offsets = torch.cumsum(arguments["batch_sizes"], 0) - arguments["batch_sizes"]
    for row, length in enumerate(lengths):
        rows = offsets[:length] + row
        gates, c = arguments["gates"][rows], arguments["c0"][row : row + 1]
        alone = None if state is None else ops.PooledState(*(x[row : row + 1] for x in state))
        for part in gates.split(7):
            result = ops.forget_mult(part, torch.ones(len(part), dtype=torch.int64), c, state=alone)
            c, alone = result.c_n, result.state
        assert torch.equal(c[0], whole["c_n"][row])
        if alone is not None:
            assert all(torch.equal(getattr(alone, n)[0], whole[n][row]) for n in ("total", "maximum", "argmax"))


def test_without_an_initial_state() -> None:
    arguments = CASES[1].arguments(torch.float32)
    zeros = torch.zeros_like(arguments["c0"])
    ours = ops.forget_mult(arguments["gates"], arguments["batch_sizes"])
    assert torch.equal(ours.output, ops.forget_mult(arguments["gates"], arguments["batch_sizes"], zeros).output)


def test_kept_states() -> None:
    arguments = CASES[1].arguments(torch.float32, pooled=True, grad=False)
    kept = ops.forget_mult(**arguments, keep_states=True)
    arguments.pop("state")
    plain = ops.forget_mult(**arguments, keep_states=True)
    assert torch.equal(kept.output, plain.output)
    assert torch.equal(kept.cells, plain.cells)
    torch.testing.assert_close(kept.output, plain.cells * arguments["gates"][:, 14:].sigmoid())
    assert ops.forget_mult(**arguments).cells.numel() == 0


@pytest.mark.parametrize("output_gate", [True, False])
@pytest.mark.parametrize("pooled", [False, True], ids=["output", "pooled"])
def test_gradcheck(output_gate: bool, pooled: bool) -> None:
    arguments = Case("check", (4, 2, 1), 3, output_gate).arguments(torch.float64, pooled)
    names = list(leaves(arguments))

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, values, strict=True))
        changed = arguments | {name: given[name] for name in ("gates", "c0")}
        if pooled:
            changed["state"] = arguments["state"]._replace(total=given["total"], maximum=given["maximum"])
        return tuple(x for x in run_ops(changed).values() if x.is_floating_point())

    assert torch.autograd.gradcheck(run, list(leaves(arguments).values()))


def test_opcheck() -> None:
    for pooled in (False, True):
        a = CASES[1].arguments(torch.float32, pooled)
        pool = [None] * 5 if not pooled else [getattr(a["state"], n) for n in POOL]
        for keep in (0, 1, 2):
            arguments = (a["gates"], a["batch_sizes"], a["c0"], *pool, True, 0, keep)
            if keep == 0:  # nothing is kept for backward
                library.opcheck(native.forget_mult.default, arguments, test_utils=("test_schema", "test_faketensor"))
            else:
                library.opcheck(native.forget_mult.default, arguments)


POOL = ("total", "maximum", "argmax", "count", "pool_from")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gates": torch.ones(6, 11)}, ValueError, r"gates must be 3 times as wide as c0 \(4\), got 11"),
        ({"output_gate": False}, ValueError, r"gates must be 2 times as wide as c0 \(4\) without an output gate, got"),
        ({"c0": torch.zeros(2, 4)}, ValueError, r"c0 must have batch_sizes\[0\] = 3 rows, got 2"),
        ({"c0": torch.zeros(3, 4).double()}, TypeError, r"c0 must have the dtype of gates \(Float\), got Double"),
        ({"batch_sizes": torch.tensor([3, 2])}, ValueError, r"batch_sizes must sum to the rows of gates \(6\), got 5"),
        ({"gates": torch.ones(6, 12).int()}, TypeError, "gates must be floating point, got Int"),
        ({"gates": torch.ones(6, 12).half(), "c0": torch.zeros(3, 4)}, TypeError, "on CPU input must be float32"),
        ({"bptt": -1}, ValueError, "bptt must be 0"),
        ({"state": ops.PooledState.empty(2, 4)}, ValueError, r"count must be \[documents\], one for each of the 3"),
        ({"state": ops.PooledState.empty(3, 5)}, ValueError, r"argmax must have shape \[3, 4\], got \[3, 5\]"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"gates": torch.ones(6, 12), "batch_sizes": torch.tensor([3, 2, 1]), "c0": torch.zeros(3, 4)}
    with pytest.raises(error, match=rf"ulmfit_fast\.ops\.forget_mult: .*{message}"):
        ops.forget_mult(**given | change)  # type: ignore[arg-type]


def test_a_part_of_a_pooled_state_is_refused() -> None:
    a = CASES[0].arguments(torch.float32, pooled=True, grad=False)
    pool = [getattr(a["state"], n) for n in POOL]
    for missing in range(5):
        given = [None if i == missing else x for i, x in enumerate(pool)]
        with pytest.raises(ValueError, match=r"ulmfit_fast\.ops\.forget_mult: .*(argmax, count and pool_from)"):
            native.forget_mult(a["gates"], a["batch_sizes"], a["c0"], *given, True, 0, 0)


def test_under_autocast_and_compile() -> None:
    a = CASES[1].arguments(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ops.forget_mult(**a)
    assert (half.output.dtype, half.c_n.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(half.output.float(), ops.forget_mult(**a).output, atol=3e-2, rtol=3e-2)
    compiled = torch.compile(lambda g: ops.forget_mult(g, a["batch_sizes"], a["c0"]).output, backend="aot_eager")
    assert torch.equal(compiled(a["gates"]), ops.forget_mult(**a).output)
