"""Whole training steps of the full-size language model beside fastai 2.8.12, where ours go, and the loss alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.bench_classifier import measure
from benchmarks.conftest import DTYPES, SMOKE, machine_facts
from benchmarks.language_models import IMPLEMENTATIONS, Sizes, parts_of_a_step
from benchmarks.memory_language_model import peak_of_a_step
from ulmfit_fast import ops

SIZES = Sizes(50, 8, 12, 3, 4, 6) if SMOKE else Sizes()


def test_step(benchmark: Any) -> None:
    pytest.importorskip("fastai", reason="pip install --no-deps -r requirements-fastai.txt")
    runs: dict[str, Callable[[], object]] = {
        f"{name}, {dtype}": make(SIZES, dtype == "bfloat16")
        for dtype in DTYPES for name, make in IMPLEMENTATIONS.items()
    }  # fmt: skip
    figures = measure(benchmark, runs, "ours, float32", 5)
    parts = {dtype: parts_of_a_step(SIZES, dtype == "bfloat16") for dtype in DTYPES}
    memory = {} if SMOKE else {name: peak_of_a_step(*name.split(", ")) for name in runs}
    benchmark.extra_info.update(
        {"kind": "language model", "task": f"training step of {SIZES.batch} x {SIZES.bptt} tokens",
         "tokens": SIZES.tokens, "gflop": SIZES.gflop, "parts": parts, "memory": memory} | figures | machine_facts()
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss(benchmark: Any, dtype: str) -> None:
    """linear_cross_entropy, forward and backward: ours, torch's own in chunks, and plain linear and cross_entropy."""
    rows, features, classes = SIZES.tokens, SIZES.embedding, SIZES.vocabulary
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=generator).to(getattr(torch, dtype)).requires_grad_()
    weight = (torch.randn(classes, features, generator=generator) / 20).to(x.dtype).requires_grad_()
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    target = torch.randint(0, classes, (rows,), generator=generator)

    def run(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), (x, weight, bias))

    runs = {f"ours, {dtype}": run(lambda: ops.linear_cross_entropy(x, weight, target, bias))}
    if hasattr(F, "linear_cross_entropy"):  # torch 2.13
        options = torch.nn.LinearCrossEntropyOptions()
        runs[f"torch's in chunks, {dtype}"] = run(
            lambda: F.linear_cross_entropy(x, weight, target, linear_bias=bias, options=options)
        )
    runs[f"linear and cross_entropy, {dtype}"] = run(lambda: F.cross_entropy(F.linear(x, weight, bias), target))
    figures = measure(benchmark, runs, f"ours, {dtype}", 5)
    benchmark.extra_info.update(
        {"kind": "language model", "task": f"loss and gradients, {rows:,} x {features} to {classes:,}", "tokens": rows,
         "gflop": SIZES.softmax_gflop} | figures | machine_facts()
    )  # fmt: skip


def test_gradient_threshold(benchmark: Any) -> None:
    """Ours with gradients below 2^-12 left out, on a model that has learned the words' frequencies; and its error."""
    rows, features, classes = SIZES.tokens, SIZES.embedding, SIZES.vocabulary
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=generator).requires_grad_()
    weight = (torch.randn(classes, features, generator=generator) / 20).requires_grad_()
    bias = (-torch.arange(1, classes + 1).log()).requires_grad_()
    target = torch.multinomial(1 / torch.arange(1.0, classes + 1), rows, replacement=True, generator=generator)

    def run(threshold: float) -> tuple[Tensor, ...]:
        loss = ops.linear_cross_entropy(x, weight, target, bias, gradient_threshold=threshold)
        return torch.autograd.grad(loss, (x, weight, bias))

    runs = {"ours, float32": lambda: run(2**-12), "ours without threshold, float32": lambda: run(0.0)}
    figures = measure(benchmark, runs, "ours, float32", 5)
    errors = {
        name: float((near - exact).norm() / exact.norm())
        for name, near, exact in zip(("input", "weight", "bias"), run(2**-12), run(0.0), strict=True)
    }
    benchmark.extra_info.update(
        {"kind": "language model", "task": "the same, logits' gradients below 2^-12 left out", "tokens": rows,
         "gflop": SIZES.softmax_gflop, "errors": errors} | figures | machine_facts()
    )  # fmt: skip
