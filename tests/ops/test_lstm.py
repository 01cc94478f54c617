"""The ``lstm`` op against its reference: every output and every gradient, and its promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, library

from tests.ops.cases import CASES, TOLERANCE, Case, batch_sizes_of
from ulmfit_fast import ops
from ulmfit_fast.ops import reference

NAMES = ("input", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def run_with_gradients(function: Any, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Outputs and gradients of a loss that weighs every output element differently."""
    outputs = function(**arguments)

    def weights_of(out: Tensor) -> Tensor:
        return torch.linspace(0.3, 1.7, out.numel()).view_as(out).cos().to(out.device)

    loss = sum((out.double() * weights_of(out)).sum() for out in outputs)
    present = {name: arguments[name] for name in NAMES if arguments[name] is not None}
    gradients = torch.autograd.grad(loss, list(present.values()))
    named = dict(zip(("output", "h_n", "c_n"), outputs, strict=True))
    return named | {f"grad_{name}": grad for name, grad in zip(present, gradients, strict=True)}


def assert_equal_to_reference(case: Case, dtype: torch.dtype) -> None:
    """Outputs and gradients in ``dtype`` against the reference in float64 on the same numbers."""
    arguments = case.arguments(dtype)
    ours = run_with_gradients(ops.lstm, arguments)
    exact = {
        k: v.detach().double().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in arguments.items()
    }
    absolute, relative = TOLERANCE[dtype]
    for name, expected in run_with_gradients(reference.lstm, exact).items():
        assert ours[name].dtype == dtype
        difference = (ours[name].double() - expected).abs()
        assert (difference <= absolute + relative * expected.abs()).all(), f"{name}: off by up to {difference.max()}"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_outputs_and_gradients_equal_the_reference(case: Case, dtype: torch.dtype) -> None:
    assert_equal_to_reference(case, dtype)


@pytest.mark.parametrize("case", [c for c in CASES if sum(c.lengths) < 100], ids=str)
def test_bfloat16_is_near_the_reference(case: Case) -> None:
    assert_equal_to_reference(case, torch.bfloat16)


@pytest.mark.parametrize("p", [0.0, 0.5])
@pytest.mark.parametrize("lengths", [(3, 3), (4, 2, 1)], ids=["dense", "ragged"])
@pytest.mark.parametrize("projection", [0, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(p: float, lengths: tuple[int, ...], projection: int, reverse: bool) -> None:
    arguments = Case("gradcheck", lengths, 3, 5, projection, p=p, reverse=reverse).arguments(torch.float64)
    present = [name for name in NAMES if arguments[name] is not None]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return ops.lstm(**(arguments | dict(zip(present, tensors, strict=True))))

    assert torch.autograd.gradcheck(function, [arguments[name] for name in present])


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("case", [CASES[1], CASES[8], CASES[12]], ids=str)
def test_opcheck(case: Case, requires_grad: bool) -> None:
    a = case.arguments(torch.float32, requires_grad)
    arguments = (
        *(a[name] for name in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        a["weight_hr"], a["seed"], a["weight_dropout"], a["reverse"], 0, 2 if requires_grad else 0,
    )  # fmt: skip
    library.opcheck(torch.ops.ulmfit_fast.lstm.default, arguments)


def test_opcheck_backward() -> None:
    a = Case("opcheck", (4, 2, 1), p=0.5).arguments(torch.float32, requires_grad=False)
    forward = (a["input"], a["batch_sizes"], a["h0"], a["c0"], a["weight_ih"], a["weight_hh"])
    rest = (a["seed"], a["weight_dropout"], a["reverse"], 2)
    output, _, c_n, gates, cells = torch.ops.ulmfit_fast.lstm(*forward, a["bias_ih"], a["bias_hh"], None, *rest, 2)
    arguments = (torch.ones_like(output), None, torch.ones_like(c_n), *forward, None, *rest, output, gates, cells)
    library.opcheck(torch.ops.ulmfit_fast.lstm_backward.default, (*arguments, [True] * 5 + [False]))


def test_non_contiguous_arguments() -> None:
    a = Case("strided", (5, 3), 6, 8).arguments(torch.float32)
    strided = {
        k: v.detach().t().contiguous().t().requires_grad_() if k in NAMES and v is not None and v.dim() == 2 else v
        for k, v in a.items()
    }
    for name, value in run_with_gradients(ops.lstm, a).items():
        assert torch.equal(run_with_gradients(ops.lstm, strided)[name], value)


def test_gradient_of_the_raw_weight_is_zero_exactly_where_dropped() -> None:
    a = Case("masked", (6, 5, 5, 2), 8, 40, p=0.5).arguments(torch.float32)
    grad = run_with_gradients(ops.lstm, a)["grad_weight_hh"]
    mask = ops.dropconnect_mask(a["seed"], 160, 40, 0.5)
    assert torch.equal(grad != 0, mask)


def test_weight_drop_scale_is_exact() -> None:
    """With the mask applied by hand to the weight, the op without weight drop computes the same."""
    a = Case("scale", (6, 6), 8, 40, p=0.5).arguments(torch.float32, requires_grad=False)
    mask = ops.dropconnect_mask(a["seed"], 160, 40, 0.5)
    by_hand = a | {"weight_hh": torch.where(mask, a["weight_hh"] * 2, 0), "weight_dropout": 0.0}
    for ours, expected in zip(ops.lstm(**a), ops.lstm(**by_hand), strict=True):
        assert torch.equal(ours, expected)


def test_weight_drop_leaves_the_first_step_alone() -> None:
    a = Case("first", (4, 4, 4), p=0.5).arguments(torch.float32, requires_grad=False)
    a["h0"] = torch.zeros_like(a["h0"])
    dropped, _, _ = ops.lstm(**a)
    whole, _, _ = ops.lstm(**(a | {"weight_dropout": 0.0}))
    assert torch.equal(dropped[:3], whole[:3])
    assert (dropped[3:] != whole[3:]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("lengths", "inputs"),
    [((23, 20, 20, 11, 8, 8, 8, 3), 50), ((7,) * 5 + (5,) * 8, 51), ((4,) * 19 + (3,) * 83, 33)],
    ids=["8 rows", "13 rows", "102 rows"],  # several tiles of rows, whose number decides what is fetched ahead
)
def test_rows_do_not_influence_each_other(dtype: torch.dtype, lengths: tuple[int, ...], inputs: int) -> None:
    """A sequence alone gives the same bits as in any batch, its gradients too."""
    a = Case("alone", lengths, inputs, 71).arguments(dtype)
    of = ("input", "h0", "c0")
    together = ops.lstm(**a)
    given = [torch.linspace(-1, 1, out.numel()).view_as(out).sin().to(out.dtype) for out in together]
    gradients = torch.autograd.grad(together, [a[name] for name in of], given)
    starts = torch.cumsum(a["batch_sizes"], 0) - a["batch_sizes"]
    for row, length in enumerate(lengths):
        rows = (starts[:length] + row, slice(row, row + 1), slice(row, row + 1))
        own = {name: a[name].detach()[part].requires_grad_() for name, part in zip(of, rows, strict=True)}
        alone = ops.lstm(**a | own | {"batch_sizes": batch_sizes_of((length,))})
        own_gradients = torch.autograd.grad(alone, list(own.values()), [g[r] for g, r in zip(given, rows, strict=True)])
        for ours, whole, part in zip((*alone, *own_gradients), (*together, *gradients), (*rows, *rows), strict=True):
            assert torch.equal(ours, whole[part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("projection", [0, 20])
@pytest.mark.parametrize("sizes", [(124,) * 20 + (80, 40), (40,) * 10 + (30, 20)], ids=["several chunks", "one chunk"])
def test_thread_count_does_not_change_the_bits(dtype: torch.dtype, projection: int, sizes: tuple[int, ...]) -> None:
    """Not of the outputs and not of the gradients; 8 threads split the rows, too. Less work would get fewer threads."""
    a = Case("threads", sizes, 150, 134, p=0.3, projection=projection).arguments(dtype)
    threads = torch.get_num_threads()
    expected = run_with_gradients(ops.lstm, a)
    try:
        for count in (1, 2, 3, 5, 8):
            torch.set_num_threads(count)
            ours = run_with_gradients(ops.lstm, a)
            different = {name for name in expected if not torch.equal(ours[name], expected[name])}
            assert different <= {"grad_weight_hr"}, count  # torch.mm's
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted as Linux lists them")
def test_small_work_starts_no_threads() -> None:
    """A team's barriers would take longer than the work; large work does start them."""
    code = (
        "import os, torch; from ulmfit_fast import WeightDropLSTM; torch.set_num_threads(3)\n"
        "def threads(hidden, steps):\n"
        "    layer = WeightDropLSTM(hidden, hidden)\n"
        "    before = len(os.listdir('/proc/self/task'))\n"
        "    layer(torch.zeros(steps, 1, hidden))[0].sum().backward()\n"
        "    return len(os.listdir('/proc/self/task')) - before\n"
        "print(threads(64, 1), threads(64, 100), threads(256, 10))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.stdout.split() == ["0", "0", "2"], finished.stdout + finished.stderr


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("inputs", "hidden"), [(73, 410), (96, 400)], ids=["odd", "whole vectors"])
def test_larger_than_every_block_of_the_kernels(dtype: torch.dtype, reverse: bool, inputs: int, hidden: int) -> None:
    """More rows than a chunk, deeper and taller than a block, against one direction of nn.LSTM."""
    torch.manual_seed(5)
    lengths = torch.tensor([220, 220, 219, 200, 187, 150, 113, 1])
    layer = torch.nn.LSTM(inputs, hidden, dtype=torch.float64, bidirectional=True)
    suffix = "_reverse" if reverse else ""
    weights = [getattr(layer, f"{kind}_l0{suffix}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.randn(220, 8, inputs, dtype=torch.float64), lengths)
    x = packed.data.requires_grad_()
    expected = layer(packed._replace(data=x))[0].data[:, hidden if reverse else 0 :][:, :hidden]
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, [x, *weights], grad)

    own = [value.detach().to(dtype).requires_grad_() for value in (x, *weights)]
    zeros = torch.zeros(8, hidden, dtype=dtype)
    ours = ops.lstm(own[0], packed.batch_sizes, zeros, zeros, *own[1:], reverse=reverse)[0]
    ours_grads = torch.autograd.grad(ours, own, grad.to(dtype))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for value, target in zip((ours, *ours_grads), (expected, *expected_grads), strict=True):
        scale = target.abs().max()
        torch.testing.assert_close(value.double() / scale, target / scale, rtol=0, atol=tolerance)


def test_within_a_data_loader_worker() -> None:
    """A forked child computes what its parent does, whatever memory and threads the parent's kernels hold."""
    a = Case("worker", (40,) * 12, 60, 130).arguments(torch.float32, requires_grad=False)
    expected = ops.lstm(**a)[0]
    loader = torch.utils.data.DataLoader(
        _LstmOutputs(a), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    for output in loader:
        assert torch.equal(output, expected)


class _LstmOutputs(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            raise IndexError
        return ops.lstm(**self.arguments)[0]


def test_same_seed_same_bits_in_training() -> None:
    a = Case("again", (9, 7, 2), 40, 90, p=0.3).arguments(torch.float32)
    first, second = run_with_gradients(ops.lstm, a), run_with_gradients(ops.lstm, a)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_seed_is_drawn_from_torchs_generator() -> None:
    a = Case("drawn", (5, 5), p=0.5).arguments(torch.float32, requires_grad=False) | {"seed": None}
    torch.manual_seed(3)
    first, second = ops.lstm(**a)[0], ops.lstm(**a)[0]
    torch.manual_seed(3)
    assert torch.equal(ops.lstm(**a)[0], first)
    assert not torch.equal(first, second)


def test_only_the_gradients_asked_for_are_computed() -> None:
    a = Case("partial", (5, 3)).arguments(torch.float32, requires_grad=False)
    a["weight_hh"].requires_grad_()
    output, _, _ = ops.lstm(**a)
    output.sum().backward()
    assert a["weight_hh"].grad is not None
    assert a["input"].grad is None


@pytest.mark.parametrize("bptt", [1, 2, 3, 4, 100])
def test_bptt_equals_detaching_the_state(bptt: int) -> None:
    """Ragged rows, a final state that is used, a projection too; forward is unchanged."""
    for case in (Case("bptt", (9, 8, 8, 4, 1), 5, 19, p=0.4), Case("bptt", (7, 4), 3, 9, projection=5)):
        arguments = case.arguments(torch.float64) | {"bptt": bptt}
        ours, expected = (run_with_gradients(function, arguments) for function in (ops.lstm, reference.lstm))
        for name, value in expected.items():
            torch.testing.assert_close(ours[name], value, atol=1e-11, rtol=1e-10, msg=lambda m: f"{name}: {m}")  # noqa: B023
        assert torch.equal(ours["output"], ops.lstm(**(arguments | {"bptt": 0}))[0])


def test_bfloat16_with_a_float32_cell_state_can_be_cut_anywhere() -> None:
    """Two calls equal one to the bit: nothing is rounded on the way."""
    a = Case("cut", (6, 6), 5, 40).arguments(torch.bfloat16, requires_grad=False)
    a["c0"] = a["c0"].float()
    output, _, c_n = ops.lstm(**a)
    assert c_n.dtype == torch.float32
    _, h, c = ops.lstm(**(a | {"input": a["input"][:6], "batch_sizes": a["batch_sizes"][:3]}))
    later = {"input": a["input"][6:], "batch_sizes": a["batch_sizes"][3:], "h0": h, "c0": c}
    second, _, c = ops.lstm(**(a | later))
    assert torch.equal(second, output[6:])
    assert torch.equal(c, c_n)


def test_gradient_through_the_final_states_alone() -> None:
    arguments = [Case("final", (5, 3, 1)).arguments(torch.float64) for _ in range(2)]
    for function, a in zip((ops.lstm, reference.lstm), arguments, strict=True):
        _, h_n, c_n = function(**a)
        (h_n.sin().sum() + c_n.cos().sum()).backward()
    for name in NAMES[:-1]:
        torch.testing.assert_close(arguments[0][name].grad, arguments[1][name].grad)


def test_autocast_runs_in_the_autocast_dtype() -> None:
    a = Case("autocast", (5, 3)).arguments(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, h_n, c_n = ops.lstm(**a)
    assert {output.dtype, h_n.dtype} == {torch.bfloat16}
    assert c_n.dtype == torch.float32
    output.float().sum().backward()
    assert a["weight_hh"].grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
        assert ops.lstm(**a)[0].dtype == torch.float32


def test_gradients_of_float32_weights_are_those_of_bfloat16_ones_unrounded() -> None:
    """Whole vectors, so that the sums are made in the gradients themselves; over two chunks of rows."""
    a = Case("weights", (135,) * 10, 96, 400, p=0.3).arguments(torch.bfloat16)
    master = {
        name: value.detach().float().requires_grad_() if name.startswith(("weight_ih", "weight_hh", "bias")) else value
        for name, value in a.items() if isinstance(value, torch.Tensor)
    }  # fmt: skip
    expected, ours = run_with_gradients(ops.lstm, a), run_with_gradients(ops.lstm, a | master)
    for name in ("grad_weight_ih", "grad_weight_hh"):
        assert ours[name].dtype == torch.float32
        assert torch.equal(ours[name].bfloat16(), expected[name]), name


def test_backward_inside_autocast() -> None:
    a = Case("autocast", (5, 3)).arguments(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run_with_gradients(ops.lstm, a)
        output = ops.lstm(**a)[0]
    (grad,) = torch.autograd.grad(output.float().square().sum(), a["weight_hh"])
    assert inside["grad_weight_hh"].dtype == grad.dtype == torch.float32


def test_nan_and_infinity_are_not_hidden() -> None:
    a = Case("nan", (3, 3), 5, 40).arguments(torch.float32, requires_grad=False)
    a["input"][0, 0] = torch.nan
    output, _, _ = ops.lstm(**a)
    assert output[0].isnan().all()
    assert output[1].isfinite().all()


def test_saturated_gates_stay_finite() -> None:
    a = Case("saturated", (4, 4), 5, 40).arguments(torch.float32)
    a["input"] = (a["input"].detach() * 1e4).requires_grad_()
    assert all(value.isfinite().all() for value in run_with_gradients(ops.lstm, a).values())


def test_double_backward_says_so() -> None:
    a = Case("double", (3, 2)).arguments(torch.float64)
    (grad,) = torch.autograd.grad(ops.lstm(**a)[0].sum(), a["input"], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        grad.sum().backward()


BAD = {
    "increasing": ({"batch_sizes": torch.tensor([1, 2])}, ValueError, "batch_sizes must not increase, got 1 then 2"),
    "zero": ({"batch_sizes": torch.tensor([2, 1, 0])}, ValueError, "must be positive, got 0 at step 2"),
    "sum": ({"batch_sizes": torch.tensor([2, 2])}, ValueError, r"must sum to the rows of input \(3\), got 4"),
    "empty": ({"batch_sizes": torch.tensor([], dtype=torch.int64)}, ValueError, "one-dimensional and not empty"),
    "int32": ({"batch_sizes": torch.tensor([2, 1], dtype=torch.int32)}, TypeError, "must be int64, got Int"),
    "batch": ({"h0": torch.zeros(3, 7), "c0": torch.zeros(3, 7)}, ValueError, "h0 must have .* = 2 rows, got 3"),
    "shape": ({"weight_ih": torch.zeros(28, 6)}, ValueError, r"weight_ih must have shape \[28, 5\], got \[28, 6\]"),
    "dtype": ({"weight_hh": torch.zeros(28, 7).double()}, TypeError, r"weight_hh must have the dtype of input"),
    "integers": ({"input": torch.zeros(3, 5, dtype=torch.int64)}, TypeError, "must be floating point, got Long"),
    "no features": ({"input": torch.zeros(3, 0)}, ValueError, "sizes must be positive"),
    "half": ({"bias_ih": None}, ValueError, "give both of bias_ih and bias_hh or neither"),
    "width": ({"h0": torch.zeros(2, 6), "weight_hh": torch.zeros(28, 6)}, ValueError, "same width without weight_hr"),
    "p": ({"weight_dropout": 1.0}, ValueError, r"weight_dropout must be in \[0, 1\), got 1"),
    "seed": ({"seed": torch.tensor(0.5), "weight_dropout": 0.5}, TypeError, "seed must be an int64 tensor"),
    "bptt": ({"bptt": -1}, ValueError, r"bptt must be 0 \(no limit\) or positive, got -1"),
    "bptt and reverse": ({"bptt": 2, "reverse": True}, ValueError, "bptt does not work with reverse"),
    "float16": (
        {k: torch.zeros(s, dtype=torch.float16) for k, s in {
            "input": (3, 5), "h0": (2, 7), "c0": (2, 7), "weight_ih": (28, 5), "weight_hh": (28, 7),
            "bias_ih": (28,), "bias_hh": (28,)}.items()},
        TypeError, "on CPU input must be float32, float64 or bfloat16, got Half",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    change, error, message = BAD[name]
    arguments = Case("bad", (2, 1)).arguments(torch.float32, requires_grad=False)
    with pytest.raises(error, match=message):
        ops.lstm(**(arguments | change))
