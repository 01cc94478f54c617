"""The ``linear_cross_entropy`` op against its reference and against ``F.cross_entropy`` of ``F.linear``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, library
from torch.nn import functional as F

from ulmfit_fast import ops
from ulmfit_fast.ops import reference

NAMES = ("input", "weight", "bias")
# Of the largest element. float32: sums over some hundred terms; bfloat16: probabilities and gradients have 8 bits.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1.5e-2}


@dataclass(frozen=True)
class Case:
    name: str
    rows: int
    features: int
    classes: int
    bias: bool = True
    ignored: bool = False
    label_smoothing: float = 0.0
    reduction: str = "mean"

    def __str__(self) -> str:
        return self.name

    def arguments(self, dtype: torch.dtype, requires_grad: bool = True) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(len(self.name))

        def draw(*shape: int) -> Tensor:
            values = 2 * torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
            return values.to(dtype).requires_grad_(requires_grad)

        target = torch.randint(0, self.classes, (self.rows,), generator=generator)
        if self.ignored:
            target[::3] = -100
        return {
            "input": draw(self.rows, self.features),
            "weight": draw(self.classes, self.features),
            "target": target,
            "bias": draw(self.classes) if self.bias else None,
            "label_smoothing": self.label_smoothing,
            "reduction": self.reduction,
        }


CASES = [
    Case("one of everything", 1, 1, 1),
    Case("few", 5, 3, 4),
    Case("two classes, no bias", 9, 17, 2, bias=False),
    Case("two classes, whole panels", 9, 128, 2),
    Case("a row", 1, 40, 300),
    Case("whole panels", 96, 64, 192),
    Case("odd sizes", 101, 37, 197),
    Case("several blocks", 300, 20, 211),
    Case("rows to ignore", 301, 21, 77, ignored=True),
    Case("smoothing", 64, 9, 131, label_smoothing=0.1),
    Case("smoothing alone", 33, 9, 65, label_smoothing=1.0),
    Case("sum", 40, 12, 50, reduction="sum", ignored=True),
    Case("none", 40, 12, 50, reduction="none", ignored=True, label_smoothing=0.2),
]


def run_with_gradients(function: Any, arguments: dict[str, Any]) -> dict[str, Tensor]:
    loss = function(**arguments)
    leaves = {name: arguments[name] for name in NAMES if arguments[name] is not None}
    scalar = (loss * torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view_as(loss).to(loss.device)).sum()
    gradients = torch.autograd.grad(3 * scalar, list(leaves.values()))
    return {"loss": loss.detach()} | {f"grad_{n}": g for n, g in zip(leaves, gradients, strict=True)}


def in_double(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v.detach().double().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in arguments.items()
    }


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        scale = float(value.detach().abs().max()) or 1.0
        torch.testing.assert_close(actual[name].double(), value, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_reference(case: Case, dtype: torch.dtype) -> None:
    arguments = case.arguments(dtype)
    expected = run_with_gradients(reference.linear_cross_entropy, in_double(arguments))
    actual = run_with_gradients(ops.linear_cross_entropy, arguments)
    assert actual["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual["grad_weight"].dtype == actual["grad_input"].dtype == dtype
    assert_near(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_is_torchs_cross_entropy(case: Case) -> None:
    arguments = case.arguments(torch.float64)
    theirs = F.cross_entropy(
        F.linear(arguments["input"], arguments["weight"], arguments["bias"]), arguments["target"],
        reduction=case.reduction, label_smoothing=case.label_smoothing,
    )  # fmt: skip
    torch.testing.assert_close(reference.linear_cross_entropy(**arguments), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_several_chunks_of_rows(dtype: torch.dtype) -> None:
    """Enough rows and classes that no chunk holds all."""
    arguments = Case("chunks", 2300 if dtype == torch.float32 else 4600, 8, 20_011, ignored=True).arguments(dtype)
    expected = run_with_gradients(
        lambda **a: F.cross_entropy(F.linear(a["input"], a["weight"], a["bias"]), a["target"]), in_double(arguments)
    )
    assert_near(run_with_gradients(ops.linear_cross_entropy, arguments), expected, TOLERANCE[dtype])


@pytest.mark.parametrize("wanted", [("input",), ("weight",), ("bias",), ("weight", "bias"), ()], ids=str)
def test_only_what_is_wanted(wanted: tuple[str, ...]) -> None:
    arguments = Case("wanted", 70, 9, 130).arguments(torch.float64, requires_grad=False)
    for name in wanted:
        arguments[name].requires_grad_()
    loss = ops.linear_cross_entropy(**arguments)
    expected = reference.linear_cross_entropy(**arguments)
    torch.testing.assert_close(loss, expected)
    assert loss.requires_grad == bool(wanted)
    for name in wanted:
        mine, theirs = (torch.autograd.grad(x, arguments[name], retain_graph=True) for x in (loss, expected))
        torch.testing.assert_close(mine, theirs)


def test_leading_dimensions_and_strides() -> None:
    a = Case("strides", 24, 10, 30).arguments(torch.float64, requires_grad=False)
    x = a["input"].view(4, 6, 10).transpose(0, 1)
    target = a["target"].view(4, 6).T
    expected = F.cross_entropy((x @ a["weight"].T).permute(0, 2, 1), target, reduction="none")
    weight = a["weight"].T.contiguous().T
    torch.testing.assert_close(ops.linear_cross_entropy(x, weight, target, reduction="none"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_depend_on_neither_other_rows_nor_threads(dtype: torch.dtype) -> None:
    a = Case("bits", 530, 33, 1000, reduction="none").arguments(dtype)
    whole = run_with_gradients(ops.linear_cross_entropy, a)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 3)
        for name, value in run_with_gradients(ops.linear_cross_entropy, a).items():
            assert torch.equal(value, whole[name]), name
    finally:
        torch.set_num_threads(threads)
    order = torch.randperm(530)[:77]
    part = ops.linear_cross_entropy(a["input"][order], a["weight"], a["target"][order], a["bias"], reduction="none")
    assert torch.equal(part, whole["loss"][order])


def test_autocast_keeps_the_weights_and_their_gradients_in_float32() -> None:
    a = Case("autocast", 200, 16, 50).arguments(torch.float32)
    exact = run_with_gradients(ops.linear_cross_entropy, a)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = run_with_gradients(ops.linear_cross_entropy, a)
    assert {value.dtype for value in actual.values()} == {torch.float32}
    assert_near(actual, {name: value.double() for name, value in exact.items()}, 2e-2)
    # Not rounded on the way out: some of its bits lie below bfloat16's eight.
    assert not torch.equal(actual["grad_weight"], actual["grad_weight"].bfloat16().float())


def test_gradient_threshold() -> None:
    """What is left out is smaller than the threshold; nothing else changes, and much of it can be left out."""
    a = Case("threshold", 600, 24, 2000).arguments(torch.float64)
    with torch.no_grad():
        a["bias"] -= torch.arange(2000) / 200  # rare classes last
    exact = run_with_gradients(ops.linear_cross_entropy, a)
    threshold = 1e-4
    near = run_with_gradients(lambda **k: ops.linear_cross_entropy(**k, gradient_threshold=threshold), a)
    assert torch.equal(near["loss"], exact["loss"])
    error = (near["grad_bias"] - exact["grad_bias"]).abs()
    assert 0 < error.max() <= 3 * threshold
    assert (near["grad_input"] - exact["grad_input"]).norm() < 1e-2 * exact["grad_input"].norm()
    none = run_with_gradients(lambda **k: ops.linear_cross_entropy(**k, gradient_threshold=1e-300), a)
    assert all(torch.equal(none[name], exact[name]) for name in exact)


def test_confident_rows_keep_small_gradients() -> None:
    """softmax - 1 of a target that is nearly certain, in bfloat16, where 0.999 rounds to 1."""
    x, weight = torch.tensor([[7.0]]).bfloat16().requires_grad_(), torch.tensor([[1.0], [0.0]]).bfloat16()
    ops.linear_cross_entropy(x, weight, torch.tensor([0])).backward()
    expected = torch.sigmoid(torch.tensor(7.0)) - 1
    torch.testing.assert_close(x.grad.float()[0, 0], expected, atol=0, rtol=1e-2)


def test_large_and_forbidden_logits() -> None:
    x, weight = torch.tensor([[1e4], [-1e4]]), torch.tensor([[1.0], [-1.0], [0.5]])
    bias = torch.tensor([0.0, 0.0, -torch.inf])
    loss = ops.linear_cross_entropy(x, weight, torch.tensor([0, 0]), bias, reduction="none")
    torch.testing.assert_close(loss, torch.tensor([0.0, 2e4]))
    x[0, 0] = torch.nan
    loss = ops.linear_cross_entropy(x, weight, torch.tensor([0, 0]), reduction="none")
    assert loss[0].isnan()
    assert loss[1] == 2e4


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives_are_refused(reduction: str) -> None:
    a = Case("second", 5, 3, 4, reduction=reduction).arguments(torch.float64)
    (grad,) = torch.autograd.grad(ops.linear_cross_entropy(**a).sum(), a["input"], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        grad.square().sum().backward()


def test_backward_again_and_again() -> None:
    """With retain_graph the gradients given out are not the ones kept."""
    a = Case("again", 50, 9, 130).arguments(torch.float64)
    loss = ops.linear_cross_entropy(**a)
    first = torch.autograd.grad(loss, a["weight"], retain_graph=True)[0].clone()
    for _ in range(3):
        a["weight"].grad = None
        loss.backward(retain_graph=True)
        assert torch.equal(a["weight"].grad, first)
        a["weight"].grad.zero_()
    grad = torch.autograd.grad(loss, a["input"])[0]
    assert not grad.requires_grad


def test_threshold_hides_no_nan_and_leaves_rows_independent() -> None:
    a = Case("threshold rows", 300, 24, 2000).arguments(torch.float32, requires_grad=False)
    a["bias"] -= torch.arange(2000) / 200
    x = a["input"].clone().requires_grad_()

    def grads(rows: slice) -> Tensor:
        loss = ops.linear_cross_entropy(
            x[rows], a["weight"], a["target"][rows], a["bias"], reduction="sum", gradient_threshold=1e-3
        )
        return torch.autograd.grad(loss, x)[0][rows]

    whole = grads(slice(None))
    assert all(torch.equal(grads(slice(i, i + 1))[0], whole[i]) for i in range(0, 300, 23))
    with torch.no_grad():
        x[3, 0] = torch.nan
    assert grads(slice(None))[3].isnan().all()


def test_nothing_counts() -> None:
    a = Case("nothing", 5, 3, 4).arguments(torch.float32)
    a["target"].fill_(-100)
    assert ops.linear_cross_entropy(**a).isnan()
    total = ops.linear_cross_entropy(**(a | {"reduction": "sum"}))
    total.backward()
    assert total == 0
    assert a["weight"].grad.abs().max() == a["input"].grad.abs().max() == 0


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(reduction: str) -> None:
    a = Case("gradcheck", 6, 4, 9, label_smoothing=0.1, reduction=reduction).arguments(torch.float64)
    rest = {k: v for k, v in a.items() if k not in NAMES}
    assert torch.autograd.gradcheck(
        lambda x, w, b: ops.linear_cross_entropy(x, w, bias=b, **rest), [a[name] for name in NAMES]
    )


def test_opcheck() -> None:
    a = Case("opcheck", 6, 4, 9).arguments(torch.float32)
    row_weight = torch.full((6,), 1 / 6)
    for weight, needs in ((row_weight, [True] * 3), (None, [False] * 3)):
        library.opcheck(
            torch.ops.ulmfit_fast.linear_cross_entropy.default,
            (a["input"], a["weight"], a["bias"], a["target"], weight, -100, 0.0, 0.0, needs),
        )


def test_compile_without_a_graph_break() -> None:
    a = Case("compile", 30, 8, 40).arguments(torch.float32)
    compiled = torch.compile(ops.linear_cross_entropy, fullgraph=True, backend="aot_eager")
    for name, value in run_with_gradients(compiled, a).items():
        torch.testing.assert_close(value, run_with_gradients(ops.linear_cross_entropy, a)[name])


BAD = {
    "weight": ({"weight": torch.zeros(4, 2)}, ValueError, r"weight must be \[classes, 3\] to fit input, got \[4, 2\]"),
    "target": ({"target": torch.zeros(4, dtype=torch.int64)}, ValueError, r"target must be \(5,\), one class for each"),
    "float target": ({"target": torch.zeros(5)}, TypeError, "target must be int64 class indices, got Float"),
    "class": ({"target": torch.tensor([0, 1, 4, 0, 0])}, IndexError, r"target\[2\] must be in \[0, 4\) .* got 4"),
    "bias": ({"bias": torch.zeros(5)}, ValueError, r"bias must have shape \[4\], got \[5\]"),
    "dtype": (
        {"weight": torch.zeros(4, 3).double()},
        TypeError,
        "weight must have the dtype of input .*, got Double",
    ),
    "smoothing": ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must be in \[0, 1\], got 1.5"),
    "threshold": ({"gradient_threshold": -1.0}, ValueError, r"gradient_threshold must be in \[0, 1\), got -1"),
    "reduction": ({"reduction": "max"}, ValueError, "reduction must be one of .* got 'max'"),
    "integers": ({"input": torch.zeros(5, 3).long()}, TypeError, "input must be floating point, got Long"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    change, error, message = BAD[name]
    arguments = Case("bad", 5, 3, 4).arguments(torch.float32, requires_grad=False)
    with pytest.raises(error, match=message):
        ops.linear_cross_entropy(**(arguments | change))
