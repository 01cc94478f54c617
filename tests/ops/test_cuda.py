"""Every op on a GPU, against the reference in float64 and the CPU kernels. Skipped where there is no GPU.

ULMFIT_FAST_TEST_DEVICE=cpu runs the same tests on the CPU: then it is the tests that are tested or, with
ULMFIT_FAST_CUDA_ON_HOST, the CUDA code without a GPU (`make cuda-on-host`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, library, nn

from tests.ops import every_op
from tests.ops import test_embedding as embedding
from tests.ops import test_forget_mult as recurrence
from tests.ops import test_linear as linear
from tests.ops import test_linear_cross_entropy as cross_entropy
from tests.ops import test_lstm as lstm
from tests.ops import test_lstm_pool as lstm_pool
from tests.ops.cases import CASES, TOLERANCE, Case, batch_sizes_of
from tests.training import test_resume as resume
from ulmfit_fast import BPT3C, AWDLSTMConfig, QRNNConfig, WeightDropLSTM, ops
from ulmfit_fast.nn.encoders import make_encoder
from ulmfit_fast.ops import reference
from ulmfit_fast.text.batching import pack_documents

DEVICE = os.environ.get("ULMFIT_FAST_TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
CUDA_CODE = ON_GPU or "ULMFIT_FAST_CUDA_ON_HOST" in os.environ
USABLE = not ON_GPU or (torch.cuda.is_available() and ops.build_info()["cuda"])
pytestmark = pytest.mark.skipif(not USABLE, reason="needs a GPU and a build with ULMFIT_FAST_CUDA=1")
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="only a GPU has this")

TOLERANCES = TOLERANCE | {torch.float16: (1e-2, 1e-2)}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, *([torch.float16] if CUDA_CODE else [])]
NO_DROPOUT = dict.fromkeys(("embed_p", "input_p", "hidden_p", "weight_p", "output_p"), 0.0)
SMALL = [case for case in CASES if sum(case.lengths) < 100]


def move(value: Any, device: str = DEVICE) -> Any:
    """To the device as a leaf; batch_sizes stay where the ops want them."""
    if not isinstance(value, Tensor):
        return type(value)(*(move(x, device) for x in value)) if isinstance(value, ops.PooledState) else value
    return value.detach().to(device).requires_grad_(value.requires_grad)


def on_device(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name == "batch_sizes" else move(value) for name, value in arguments.items()}


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    absolute, relative = TOLERANCES[dtype]
    for name, value in expected.items():
        assert actual[name].device.type == DEVICE
        difference = (actual[name].cpu().double() - value.double()).abs()
        assert (difference <= absolute + relative * value.double().abs()).all(), f"{name}: {difference.max()}"


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lstm(case: Case, dtype: torch.dtype) -> None:
    if dtype.itemsize == 2 and case not in SMALL:
        pytest.skip("its rounding grows with the number of steps")
    arguments = case.arguments(dtype)
    exact = cross_entropy.in_double(arguments)
    expected = lstm.run_with_gradients(reference.lstm, exact)
    actual = lstm.run_with_gradients(ops.lstm, on_device(arguments))
    assert_near(actual, expected, dtype)


CHUNKED = [
    Case("bptt, ragged", (9, 8, 8, 4, 1), 5, 19, p=0.4),
    Case("bptt, dense", (9,) * 4, 5, 19),
    Case("bptt, projection", (7, 4), 3, 9, projection=5),
    Case("bptt, more chunks than a launch takes", (80, 79, 66), 3, 5, p=0.2),
]


@pytest.mark.parametrize("bptt", [1, 2, 4, 100])
@pytest.mark.parametrize("case", CHUNKED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lstm_in_chunks(case: Case, dtype: torch.dtype, bptt: int) -> None:
    arguments = case.arguments(dtype) | {"bptt": bptt}
    expected = lstm.run_with_gradients(reference.lstm, cross_entropy.in_double(arguments))
    assert_near(lstm.run_with_gradients(ops.lstm, on_device(arguments)), expected, dtype)


@pytest.mark.parametrize("bptt", [0, 3])
@pytest.mark.parametrize("case", [c for c in lstm_pool.POOL_CASES if sum(c.lengths) < 100], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lstm_pool(case: Case, dtype: torch.dtype, bptt: int) -> None:
    arguments = lstm_pool.pool_arguments(case, dtype) | {"bptt": bptt}
    exact = {name: lstm_pool.in_double(value) for name, value in arguments.items()}
    expected = lstm_pool.run_with_gradients(lstm_pool.run_reference, exact)
    actual = lstm_pool.run_with_gradients(lstm_pool.run_ops, on_device(arguments))
    if dtype.itemsize == 2:  # rounding may choose another of two nearly equal maxima
        for results in (expected, actual):
            del results["argmax"]
    assert_near(actual, expected, dtype)


SCANS = [*recurrence.CASES[:7], recurrence.Case("in chunks", (200, 200, 131, 131, 66, 1), 9)]


@pytest.mark.parametrize("bptt", [0, 3, 70])
@pytest.mark.parametrize("pooled", [False, True], ids=["output", "pooled"])
@pytest.mark.parametrize("case", SCANS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forget_mult(case: Any, dtype: torch.dtype, pooled: bool, bptt: int) -> None:
    """Of the last case's columns a GPU has too few: its steps are cut into chunks."""
    if dtype.itemsize == 2 and (pooled or case is SCANS[-1]):
        return  # rounding chooses another of two nearly equal maxima, or adds up
    arguments = case.arguments(dtype, pooled)
    expected = recurrence.with_gradients(recurrence.run_reference, recurrence.in_double(arguments), bptt)
    actual = recurrence.with_gradients(recurrence.run_ops, on_device(arguments), bptt)
    assert_near(actual, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear(dtype: torch.dtype) -> None:
    inputs = linear.draw(30, 20, 50, dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]

    def run(function: Any, given: Any) -> dict[str, Tensor]:
        y = function(*given)
        return dict(zip("yxwb", (y, *torch.autograd.grad(y.sin().sum(), given)), strict=True))

    assert_near(run(ops.linear, [move(x) for x in inputs]), run(torch.nn.functional.linear, exact), dtype)


@pytest.mark.parametrize("case", cross_entropy.CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_linear_cross_entropy_op(case: Any, dtype: torch.dtype) -> None:
    arguments = case.arguments(dtype)
    expected = cross_entropy.run_with_gradients(reference.linear_cross_entropy, cross_entropy.in_double(arguments))
    assert_near(cross_entropy.run_with_gradients(ops.linear_cross_entropy, on_device(arguments)), expected, dtype)


def test_what_ignored_rows_hold_does_not_matter() -> None:
    arguments = cross_entropy.Case("ignored", 6, 4, 9).arguments(torch.float32)
    arguments["target"][[1, 4]] = -100
    expected = cross_entropy.run_with_gradients(ops.linear_cross_entropy, on_device(arguments))
    with torch.no_grad():
        arguments["input"][[1, 4]] = torch.nan
    actual = cross_entropy.run_with_gradients(ops.linear_cross_entropy, on_device(arguments))
    assert_near(actual, {name: value.cpu() for name, value in expected.items()}, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_embedding_and_locked_dropout(dtype: torch.dtype) -> None:
    tokens, weight, mask = embedding.draw(200, 40, 130, dtype, True)
    sizes = batch_sizes_of((90, 60, 50))
    locked = (torch.rand(3, 130) < 0.5).to(torch.float64 if dtype == torch.float64 else torch.float32) * 2

    def run(device: str) -> tuple[Tensor, Tensor]:
        w = move(weight, device)
        x = ops.embedding(move(tokens, device), w, move(mask, device))
        x = ops.locked_dropout(x, move(locked, device), sizes)
        (grad,) = torch.autograd.grad((x * torch.linspace(-1, 1, 130).to(device)).sum().to(dtype), w)
        return x, grad

    for mine, expected in zip(run(DEVICE), run("cpu") if dtype != torch.float16 else run(DEVICE), strict=True):
        assert_near({"x": mine}, {"x": expected.cpu()}, dtype)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_masks_are_the_cpus_bit_for_bit(p: float) -> None:
    for seed in (0, 1, 2**62 + 12345):
        cpu = ops.dropconnect_mask(torch.tensor(seed), 133, 77, p)
        assert torch.equal(ops.dropconnect_mask(torch.tensor(seed, device=DEVICE), 133, 77, p).cpu(), cpu)


def test_gradcheck() -> None:
    a = on_device(Case("gradcheck", (4, 2, 1), 3, 5, p=0.5).arguments(torch.float64))
    names = [name for name in lstm.NAMES if a[name] is not None]
    assert torch.autograd.gradcheck(
        lambda *x: ops.lstm(**(a | dict(zip(names, x, strict=True)))), [a[name] for name in names]
    )
    c = on_device(cross_entropy.Case("gradcheck", 6, 4, 9).arguments(torch.float64))
    assert torch.autograd.gradcheck(
        lambda x, w, b: ops.linear_cross_entropy(x, w, c["target"], b), [c[n] for n in ("input", "weight", "bias")]
    )


def test_opcheck() -> None:
    a = on_device(Case("opcheck", (4, 2, 1), p=0.5).arguments(torch.float32))
    library.opcheck(torch.ops.ulmfit_fast.lstm.default, (
        *(a[name] for name in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")),
        None, a["seed"], 0.5, False, 0, 2,
    ))  # fmt: skip
    c = on_device(cross_entropy.Case("opcheck", 6, 4, 9).arguments(torch.float32))
    row_weight = torch.full((6,), 1 / 6, device=DEVICE)
    library.opcheck(
        torch.ops.ulmfit_fast.linear_cross_entropy.default,
        (c["input"], c["weight"], c["bias"], c["target"], row_weight, -100, 0.0, 0.0, [True] * 3),
    )


def test_same_bits_twice_and_under_compile() -> None:
    a = on_device(Case("bits", (40, 33, 7), 50, 70, p=0.3).arguments(torch.float32))
    compiled = torch.compile(ops.lstm, fullgraph=True, backend="aot_eager")
    first = lstm.run_with_gradients(ops.lstm, a)
    for function in (ops.lstm, compiled):
        for name, value in lstm.run_with_gradients(function, a).items():
            assert torch.equal(value, first[name]), name


def test_master_weights_beside_half_precision() -> None:
    a = on_device(Case("autocast", (9, 5), 20, 30).arguments(torch.float32))
    exact = lstm.run_with_gradients(ops.lstm, a)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        actual = lstm.run_with_gradients(ops.lstm, a)
    assert actual["grad_weight_hh"].dtype == torch.float32
    assert_near(actual, {name: value.cpu() for name, value in exact.items()}, torch.bfloat16)


@pytest.mark.parametrize("training", [True, False])
def test_layer_is_nn_lstm(training: bool) -> None:
    """In eval mode cuDNN refuses to go backward: there the CPU's nn.LSTM is the judge."""
    ours = WeightDropLSTM(12, 20, num_layers=2, bidirectional=True).to(DEVICE).train(training)
    theirs = nn.LSTM(12, 20, num_layers=2, bidirectional=True)
    theirs.load_state_dict({name: value.cpu() for name, value in ours.state_dict().items()})
    x = torch.randn(9, 4, 12)
    results = []
    for layer, values in ((ours, move(x)), (theirs, x)):
        output, (h, c) = layer(values)
        (output.sin().sum() + h.cos().sum() + c.sum()).backward()
        results.append([output, h, c, *(p.grad for p in layer.parameters())])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine.cpu(), expected, atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("config", [AWDLSTMConfig(50, 8, 12, **NO_DROPOUT), QRNNConfig(50, 8, 12, 3, **NO_DROPOUT)])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("memory", ["recompute", "store"])
def test_documents_are_the_cpus(memory: Any, backprop: Any, config: Any) -> None:
    encoder = make_encoder(config).double().train()
    documents = pack_documents([torch.randint(0, 50, (n,)) for n in (72, 2, 50, 71, 1)])
    results = []
    for device in ("cpu", DEVICE):
        encoder.to(device).zero_grad()
        pooled = BPT3C(encoder, bptt=7, memory=memory, backprop=backprop)(documents.to(device))
        pooled.square().sum().backward()
        # Copies: moving the encoder on moves its gradients, too, in place.
        results.append([pooled.cpu(), *(p.grad.clone().cpu() for p in encoder.parameters())])
    for cpu, mine in zip(*results, strict=True):
        torch.testing.assert_close(mine, cpu, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", [AWDLSTMConfig, QRNNConfig])
@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("autocast", [False, True])
def test_documents_with_dropout(autocast: bool, mask_scope: Any, kind: Any) -> None:
    """Outside torch's deterministic mode, too, the same seed gives the same bits, whatever is recomputed or stored."""
    torch.use_deterministic_algorithms(False)
    encoder = make_encoder(kind(50, 8, 12, 3, weight_p=0.5, embed_p=0.1)).to(DEVICE).train()
    documents = pack_documents([torch.randint(0, 50, (n,)) for n in (72, 2, 50, 71, 1)]).to(DEVICE)
    results = []
    for memory in ("recompute", "recompute", "store"):
        torch.manual_seed(3)
        encoder.zero_grad()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=autocast):
            pooled = BPT3C(encoder, bptt=7, memory=memory, mask_scope=mask_scope)(documents)  # type: ignore[arg-type]
        pooled.float().square().sum().backward()
        results.append([pooled, *(p.grad for p in encoder.parameters())])
    for again in results[1:]:
        for mine, first in zip(again, results[0], strict=True):
            assert mine.isfinite().all()
            tolerance = 0.0 if again is results[1] else 2e-2 if autocast else 1e-5
            torch.testing.assert_close(mine, first, atol=tolerance, rtol=tolerance)


@needs_gpu
def test_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Language model and classifier, with all dropouts, killed after every other checkpoint."""
    for train in (resume.train_adam, resume.classify):
        whole = train(None, False)
        assert next(whole.model.parameters()).is_cuda
        resume.assert_same(resume.train_killed(train, tmp_path / train.__name__, monkeypatch), whole)


@needs_gpu
def test_more_elements_than_an_int_counts() -> None:
    hidden, rows = 2048, 140_000  # gates of two steps: 2.3e9 elements
    if torch.cuda.get_device_properties(0).total_memory < 60e9:
        pytest.skip("needs 60 GB of GPU memory")
    generator = torch.Generator(DEVICE).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.bfloat16) / shape[-1] ** 0.5

    weights = [draw(4 * hidden, 16).requires_grad_(), draw(4 * hidden, hidden), draw(4 * hidden), draw(4 * hidden)]
    x, zeros = draw(2 * rows, 16), torch.zeros(rows, hidden, device=DEVICE, dtype=torch.bfloat16)
    output, _, _ = ops.lstm(x, torch.tensor([rows, rows]), zeros, zeros, *weights)
    last = torch.cat([x[rows - 5 : rows], x[-5:]])
    few, _, _ = ops.lstm(last, torch.tensor([5, 5]), zeros[:5], zeros[:5], *weights)
    torch.testing.assert_close(output[-5:], few[-5:], atol=2e-2, rtol=2e-2)
    (grad,) = torch.autograd.grad(output.float().sum(), weights[0])
    assert grad.isfinite().all()


@needs_gpu
def test_other_devices_and_streams() -> None:
    a = Case("device", (5, 3), p=0.5).arguments(torch.float32)
    expected = lstm.run_with_gradients(ops.lstm, on_device(a))
    device = f"cuda:{torch.cuda.device_count() - 1}"
    moved = {name: value if name == "batch_sizes" else move(value, device) for name, value in a.items()}
    with torch.cuda.stream(torch.cuda.Stream(device)):
        actual = lstm.run_with_gradients(ops.lstm, moved)
    torch.cuda.synchronize(device)
    for name, value in expected.items():
        assert actual[name].device == torch.device(device)
        assert torch.equal(actual[name].cpu(), value.cpu())


@needs_gpu
@pytest.mark.parametrize("op", every_op.OPS)
def test_one_argument_on_another_device(op: str) -> None:
    """Alone on the GPU, or alone not there."""
    real = every_op.arguments_of(op)
    for name in every_op.tensors_of(op):
        alone_there = {name: move(real[name])}
        alone_here = {n: v if n == name or n in every_op.FOUND_ON_CPU else move(v) for n, v in real.items()}
        if name not in every_op.FOUND_ON_CPU:
            with pytest.raises(ValueError, match=rf"ulmfit_fast\.ops\.{op}: .*\b{name}\b.*cpu"):
                every_op.call(op, real | alone_here)
        if op != "dropconnect_mask":
            with pytest.raises(ValueError, match=rf"ulmfit_fast\.ops\.{op}: .*\b{name}\b.*cuda"):
                every_op.call(op, real | alone_there)


@needs_gpu
def test_a_pooled_state_elsewhere() -> None:
    a = on_device(Case("mixed", (2, 1)).arguments(torch.float32, requires_grad=False))
    a = {name: value for name, value in a.items() if name not in ("weight_hr", "reverse")}
    with pytest.raises(ValueError, match="must be on the device of input"):
        ops.lstm_pool(**a, state=ops.PooledState.empty(2, a["c0"].shape[1]))
