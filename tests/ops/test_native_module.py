"""The native module beside any torch and Python: what it asks of both, and how it bears another one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ops.cases import CASES
from ulmfit_fast import _C, ops
from ulmfit_fast.ops import reference


@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils' nm is not on PATH")
def test_it_asks_for_stable_functions_alone() -> None:
    """A C++ name of torch's, or a Python function outside the limited API, would tie it to one release."""
    listing = subprocess.run(["nm", "-DC", "--undefined-only", _C.__file__], capture_output=True, text=True, check=True)
    names = [line.split(maxsplit=1)[1] for line in listing.stdout.splitlines()]
    assert {"torch_library_impl", "PyModule_Create2"} <= set(names)
    assert not [name for name in names if re.search(r"\b(at|c10|torch|pybind11)::", name)]
    assert Path(_C.__file__).name == "_C.abi3.so"


def test_on_a_torch_without_openmp() -> None:
    """Its pool would let a team wait for a thread that never comes: one thread does it all, to the same bits."""
    case = next(case for case in CASES if sum(case.lengths) > 100)
    arguments = case.arguments(torch.float32, requires_grad=False)
    expected = ops.lstm(**arguments)
    weight, target = torch.randn(500, 40), torch.arange(64)
    loss = ops.linear_cross_entropy(torch.ones(64, 40), weight, target)
    weights = torch.randn(4 * 96, 70), torch.randn(4 * 96, 96)
    rows = [ops.quantize_rows(each) for each in weights]
    packed, quantized = ops.lstm_pack(*weights, dtype=torch.float32), ops.lstm_quantized_pack(*rows)
    _C.allow_teams(False)
    try:
        for mine, other in zip(ops.lstm(**arguments), expected, strict=True):
            assert torch.equal(mine, other)
        assert torch.equal(ops.linear_cross_entropy(torch.ones(64, 40), weight, target), loss)
        assert torch.equal(ops.lstm_pack(*weights, dtype=torch.float32), packed)
        assert torch.equal(ops.lstm_quantized_pack(*rows), quantized)
    finally:
        _C.allow_teams(True)


WITHOUT = """
import torch, sys
real = torch._C._any_requires_grad
if not {has}:
    del torch._C._any_requires_grad
import ulmfit_fast.ops.shared as shared
torch._C._any_requires_grad = real  # torch needs it, too
from ulmfit_fast import WeightDropLSTM
assert shared._HAS_KEYSETS is {has}
torch.manual_seed(1)
layer, x = WeightDropLSTM(5, 7, weight_dropout=0.3), torch.randn(6, 2, 5, requires_grad=True)
output, (h, c) = layer(x)
(output.square().sum() + c.sum()).backward()
try:
    torch.autograd.grad(torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)[0].sum(), x)
except RuntimeError as error:
    assert "double backward is not implemented" in str(error)
else:
    raise AssertionError
torch.save([x.grad, *(p.grad for p in layer.parameters())], sys.argv[1])
"""


def test_gradients_beside_a_torch_without_its_private_functions(tmp_path: Path) -> None:
    """What this package takes of them may go: then gradients come by torch's own registration, to the same bits."""
    for name, has in {"with": True, "without": False}.items():
        program = WITHOUT.format(has=has)
        run = [sys.executable, "-c", program, str(tmp_path / name)]
        finished = subprocess.run(run, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stderr
    pairs = zip(torch.load(tmp_path / "with"), torch.load(tmp_path / "without"), strict=True)
    assert all(torch.equal(mine, other) for mine, other in pairs)


def test_functions_that_are_no_ops_refuse_bad_arguments() -> None:
    sizes = (48, 64, 64, False)  # of whole vectors
    assert _C.lstm_packed_bytes("float64", *sizes) == 2 * _C.lstm_packed_bytes("float32", *sizes)
    with pytest.raises(ValueError, match="dtype must be float32, float64, bfloat16 or int8, got float16"):
        _C.lstm_packed_bytes("float16", *sizes)
    with pytest.raises(TypeError):
        _C.lstm_packed_bytes("float32", 48, 64)  # type: ignore[call-arg]
    assert _C.measure_read_bandwidth(1 << 20, seconds=0.01) > 1e8
    with pytest.raises(ValueError, match="at least 4096 a thread"):
        _C.measure_read_bandwidth(100)


@pytest.mark.parametrize("bytes_of", [1000, 3 << 20], ids=["small", "kept"])
def test_results_in_memory_of_either_kind(bytes_of: int) -> None:
    """From a megabyte on a result lies in memory of the module's own, which torch frees through the module."""
    rows = bytes_of // 4 // 50
    weight = torch.randn(7, 50)
    for _ in range(3):
        tokens = torch.randint(7, (rows,))
        output = ops.embedding(tokens, weight)
        assert torch.equal(output, reference.embedding(tokens, weight, None))
        assert output.is_contiguous()
        assert output.untyped_storage().nbytes() == rows * 50 * 4
    copy = output.clone()
    del output
    assert torch.equal(copy, weight[tokens])
