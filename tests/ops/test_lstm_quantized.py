"""LSTM layers on int8 weights: against whole numbers in plain PyTorch, bit for bit where bits are promised."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import Case
from ulmfit_fast import ops
from ulmfit_fast.ops import PooledState, QuantizedRows

CASES = [
    Case("dense", (6, 6, 6)),
    Case("ragged", (9, 7, 7, 2, 1)),
    Case("one row", (11,)),
    Case("one unit", (4, 2), 1, 1),
    Case("no bias", (5, 3), bias=False),
    Case("reverse, ragged", (8, 8, 5, 1), 33, 67, reverse=True),
    Case("whole vectors", (5, 5, 2), 16, 64),
    Case("many rows", tuple(sorted((1 + 7 * i % 13 for i in range(47)), reverse=True)), 20, 24),
    Case("several chunks", (300, 299, 150), 9, 17),
    Case("deep sums", (3, 2), 600, 180),
    Case("large", (4, 3), 400, 300),  # by several threads
]


def arguments(case: Case) -> dict[str, Any]:
    """Of ``ops.lstm_quantized``; the weights as ``weight_ih`` and ``weight_hh``."""
    a = case.arguments(torch.float32, requires_grad=False)
    taken = {name: a[name] for name in ("input", "batch_sizes", "h0", "c0", "bias_ih", "bias_hh", "reverse")}
    weights = {name: ops.quantize_rows(2 * a[name]) for name in ("weight_ih", "weight_hh")}
    return taken | weights


def run(weight_ih: QuantizedRows, weight_hh: QuantizedRows, **others: Any) -> tuple[Tensor, ...]:
    return ops.lstm_quantized(packed=ops.lstm_quantized_pack(weight_ih, weight_hh), **others)


def quantized(rows: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Whole numbers, in int64, and their scales."""
    largest = rows.abs().amax(1).clamp(min=least)
    inverse = torch.where(largest > 0, 127 / largest, 0.0)
    return (rows * inverse.unsqueeze(1)).round().long(), largest / 127


def product(rows: Tensor, least: float, weight: QuantizedRows) -> Tensor:
    """Exact sums, then float32 in the order that is promised."""
    whole, scale = quantized(rows, least)
    sums = whole @ weight.values.long().t()
    assert sums.abs().max() < 2**31
    return sums.float() * (weight.scale.unsqueeze(0) * scale.unsqueeze(1))


def reference(
    input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, weight_ih: QuantizedRows, weight_hh: QuantizedRows,
    bias_ih: Tensor | None, bias_hh: Tensor | None, reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    bias = bias_ih + bias_hh if bias_ih is not None and bias_hh is not None else 0.0
    projected = product(input, 0.0, weight_ih) + bias
    h, c, output = h0.clone(), c0.clone(), input.new_empty(len(input), h0.shape[1])
    begins = torch.cumsum(batch_sizes, 0) - batch_sizes
    steps = range(len(batch_sizes))
    for step in reversed(steps) if reverse else steps:
        rows, begin = int(batch_sizes[step]), int(begins[step])
        gates = projected[begin : begin + rows] + product(h[:rows], 1.0, weight_hh)
        i, f, g, o = gates.chunk(4, dim=1)
        c[:rows] = f.sigmoid() * c[:rows] + i.sigmoid() * g.tanh()
        h[:rows] = o.sigmoid() * c[:rows].tanh()
        output[begin : begin + rows] = h[:rows]
    return output, h, c


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_whole_numbers_in_plain_torch(case: Case) -> None:
    """Within the rounding of sigmoid and tanh, which may move h to another whole number now and then."""
    a = arguments(case)
    for ours, expected in zip(run(**a), reference(**a), strict=True):
        difference = (ours - expected).abs()
        assert difference.max() < 0.02
        assert (difference > 1e-6).float().mean() < 0.02


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 31, 400, 1152])
@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7, 13])
def test_the_product_is_exact(columns: int, rows: int) -> None:
    """Whole numbers of the largest size in every place, signs included: nothing saturates, nothing is left out.

    With h0 and W_hh zero the cell of a first step shows the sums: c = s(i) tanh(g), h = s(o) tanh(c).
    """
    hidden = 21
    generator = torch.Generator().manual_seed(columns)
    signs = 127 * (2 * torch.randint(0, 2, (4 * hidden, columns), generator=generator) - 1)
    signs[0], signs[1] = 127, -127  # the extremes
    values = signs.to(torch.int8)
    scale = torch.full((4 * hidden,), 2.0 / (127 * 127 * columns))
    weight = QuantizedRows(values, scale)
    x = (2 * torch.randint(0, 2, (rows, columns), generator=generator) - 1).float()
    x[0] = 1.0
    zero = QuantizedRows(torch.zeros(4 * hidden, hidden, dtype=torch.int8), torch.ones(4 * hidden))
    state = torch.zeros(rows, hidden)
    a = {"input": x, "batch_sizes": torch.tensor([rows]), "h0": state, "c0": state, "bias_ih": None, "bias_hh": None}
    ours = run(weight, zero, **a, reverse=False)
    for result, expected in zip(ours, reference(**a, weight_ih=weight, weight_hh=zero, reverse=False), strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)


def test_error_against_float32_is_bounded() -> None:
    a = arguments(Case("bound", (30,) * 8, 400, 300))
    exact = ops.lstm(
        *(a[name] for name in ("input", "batch_sizes", "h0", "c0")), a["weight_ih"].restored(),
        a["weight_hh"].restored(), a["bias_ih"], a["bias_hh"],
    )  # fmt: skip
    for ours, expected in zip(run(**a), exact, strict=True):
        difference = (ours - expected).abs()
        assert difference.max() < 0.1
        assert difference.square().mean().sqrt() < 0.015


def test_quantized_rows() -> None:
    matrix = torch.randn(9, 30)
    matrix[4] = 0
    rows = ops.quantize_rows(matrix)
    assert rows.values.dtype == torch.int8
    assert rows.values.abs().amax(1).tolist() == [127] * 4 + [0] + [127] * 4
    assert ((rows.restored() - matrix).abs() <= rows.scale.unsqueeze(1) * 0.5001).all()


def of_row(a: dict[str, Any], row: int, lengths: tuple[int, ...]) -> dict[str, Any]:
    begins = torch.cumsum(a["batch_sizes"], 0) - a["batch_sizes"]
    own = [int(begins[t]) + row for t in range(lengths[row])]
    return a | {
        "input": a["input"][own], "batch_sizes": torch.ones(lengths[row], dtype=torch.int64),
        "h0": a["h0"][row : row + 1], "c0": a["c0"][row : row + 1],
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_alone_has_the_same_bits(threads: int, reverse: bool) -> None:
    lengths = (23, 20, 20, 11, 8, 8, 8, 3)
    a, before = arguments(Case("alone", lengths, 150, 171, reverse=reverse)), torch.get_num_threads()
    expected = run(**a)
    try:
        torch.set_num_threads(threads)
        for row in range(len(lengths)):
            own = of_row(a, row, lengths)
            output, h, c = run(**own)
            begins = torch.cumsum(a["batch_sizes"], 0) - a["batch_sizes"]
            rows = [int(begins[t]) + row for t in range(lengths[row])]
            assert torch.equal(output, expected[0][rows])
            assert torch.equal(h[0], expected[1][row])
            assert torch.equal(c[0], expected[2][row])
    finally:
        torch.set_num_threads(before)


def test_where_a_sequence_is_cut_does_not_matter() -> None:
    a = arguments(Case("cut", (30, 30), 40, 50))
    a["h0"] = a["h0"].tanh()
    whole = run(**a)
    first = run(**a | {"input": a["input"][:22], "batch_sizes": a["batch_sizes"][:11]})
    second = run(
        **a | {"input": a["input"][22:], "batch_sizes": a["batch_sizes"][11:], "h0": first[1], "c0": first[2]}
    )  # fmt: skip
    assert torch.equal(torch.cat([first[0], second[0]]), whole[0])
    assert torch.equal(second[1], whole[1])
    assert torch.equal(second[2], whole[2])


def test_pooled_states_are_those_of_the_states() -> None:
    a = arguments(Case("pool", (9, 7, 7, 2, 1), 12, 30))
    a.pop("reverse")
    weights = a.pop("weight_ih"), a.pop("weight_hh")
    packed = ops.lstm_quantized_pack(*weights)
    output, h, c = ops.lstm_quantized(**a, packed=packed)
    state = PooledState.empty(7, 30)._replace(pool_from=torch.tensor([0, 3, 0, 1, 0, 0, 0]))
    pooled = ops.lstm_pool_quantized(**a, packed=packed, state=state)
    assert torch.equal(pooled.h_n, h)
    assert torch.equal(pooled.c_n, c)
    begins = torch.cumsum(a["batch_sizes"], 0) - a["batch_sizes"]
    for row, length in enumerate((9, 7, 7, 2, 1)):
        states = torch.stack([output[int(begins[t]) + row] for t in range(length)])[int(state.pool_from[row]) :]
        assert torch.equal(pooled.state.total[row], states.double().cumsum(0)[-1])
        assert torch.equal(pooled.state.maximum[row], states.amax(0))
        assert torch.equal(pooled.state.last[row], h[row])
    assert pooled.state.count.tolist() == [9, 7, 7, 2, 1, 0, 0]


def bits() -> str:
    """Of all cases, for comparison between processes."""
    digest = hashlib.sha256()
    for case in CASES:
        for result in run(**arguments(case)):
            digest.update(result.numpy().tobytes())
    return digest.hexdigest()


def test_the_same_bits_on_every_instruction_set() -> None:
    found = {}
    for isa in ("portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"):
        code = "from tests.ops.test_lstm_quantized import bits; print('bits', bits())"
        finished = subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ | {"ULMFIT_FAST_ISA": isa},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "lacks it" in finished.stderr:
            continue
        assert finished.returncode == 0, finished.stderr
        found[isa] = finished.stdout.split()[-1]
    assert set(found.values()) == {bits()}
    assert "portable" in found


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_not_rounded_away(value: float) -> None:
    """A text whose model computes NaN is refused (inference.prediction), so int8 must not hide it."""
    a = arguments(Case("nan", (4, 4), 9, 20))
    a["input"][2, 3] = value  # the first row's second step
    output, h, _ = run(**a)
    assert output[0:2].isfinite().all()
    assert output[2].isnan().all()
    assert h[0].isnan().all()
    assert h[1].isfinite().all()


def test_rows_of_zeros_and_of_very_small_and_large_numbers() -> None:
    a = arguments(Case("scales", (5,), 9, 20))
    a["input"] *= torch.tensor([0.0, 1e-42, 1e-30, 1e30, 1.0]).unsqueeze(1)
    a["h0"] *= 1000
    for ours, expected in zip(run(**a), reference(**a), strict=True):
        assert ours.isfinite().all()
        assert (ours - expected).abs().max() < 0.02


def test_bad_arguments() -> None:
    a = arguments(Case("bad", (5, 3), 9, 20))
    weight_ih, weight_hh = a.pop("weight_ih"), a.pop("weight_hh")
    packed = ops.lstm_quantized_pack(weight_ih, weight_hh)
    with pytest.raises(ValueError, match="lstm_quantized: packed must be these weights as they were packed"):
        ops.lstm_quantized(**a, packed=packed[:-1])
    with pytest.raises(TypeError, match="lstm_quantized: input must be float32, got Double"):
        ops.lstm_quantized(**a | {"input": a["input"].double()}, packed=packed)
    with pytest.raises(ValueError, match="lstm_quantized: c0 must have shape"):
        ops.lstm_quantized(**a | {"c0": a["c0"][:1]}, packed=packed)
    with pytest.raises(TypeError, match="weight_ih must be int8 and its scale float32, got Float"):
        ops.lstm_quantized_pack(QuantizedRows(weight_ih.values.float(), weight_ih.scale), weight_hh)
    with pytest.raises(ValueError, match="scale_hh must have shape"):
        ops.lstm_quantized_pack(weight_ih, QuantizedRows(weight_hh.values, weight_hh.scale[1:]))
    too_deep = QuantizedRows(torch.zeros(4, 131073, dtype=torch.int8), torch.zeros(4))
    with pytest.raises(ValueError, match="weight_ih must have at most 131072 columns"):
        ops.lstm_quantized_pack(too_deep, QuantizedRows(torch.zeros(4, 1, dtype=torch.int8), torch.zeros(4)))
    output, *_ = ops.lstm_quantized(**a | {"input": a["input"].requires_grad_()}, packed=packed)
    with pytest.raises(RuntimeError, match="lstm_quantized: has no gradient; int8 layers only predict"):
        output.sum().backward()


def test_no_rows() -> None:
    a = arguments(Case("none", (1,), 9, 20))
    empty = {"input": a["input"][:0], "h0": a["h0"][:0], "c0": a["c0"][:0], "batch_sizes": torch.zeros(2).long()}
    output, h, c = run(**a | empty)
    assert output.shape == h.shape == c.shape == (0, 20)
