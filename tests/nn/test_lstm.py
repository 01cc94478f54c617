"""``WeightDropLSTM`` against ``torch.nn.LSTM``: every constructor option, every kind of input, the same errors."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from ulmfit_fast import WeightDropLSTM, ops

OPTIONS = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional", "proj_size"), values, strict=True))
    for values in itertools.product((1, 2), (True, False), (False, True), (False, True), (0, 3))
]
LENGTHS = (7, 2, 5, 5, 1)  # not sorted
BATCH = len(LENGTHS)


def pair(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[nn.LSTM, WeightDropLSTM]:
    theirs = nn.LSTM(4, 6, **options, dtype=dtype)
    ours = WeightDropLSTM(4, 6, **options, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_input(kind: str, batch_first: bool) -> Any:
    x = torch.randn(BATCH, 7, 4, dtype=torch.float64) if batch_first else torch.randn(7, BATCH, 4, dtype=torch.float64)
    if kind == "dense":
        return x
    if kind == "unbatched":
        return torch.randn(7, 4, dtype=torch.float64)
    return pack_padded_sequence(x, torch.tensor(LENGTHS), batch_first=batch_first, enforce_sorted=False)


def make_state(kind: str, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    layers = options["num_layers"] * (2 if options["bidirectional"] else 1)
    shape = (layers,) if kind == "unbatched" else (layers, BATCH)
    return (
        torch.randn(*shape, options["proj_size"] or 6, dtype=torch.float64),
        torch.randn(*shape, 6, dtype=torch.float64),
    )


def run(layer: nn.Module, x: Any, state: Any) -> dict[str, Tensor]:
    """Everything that comes out and every gradient, by name."""
    leaf = (x.data if isinstance(x, PackedSequence) else x).clone().requires_grad_()
    x = PackedSequence(leaf, *x[1:]) if isinstance(x, PackedSequence) else leaf
    state = None if state is None else tuple(s.clone().requires_grad_() for s in state)
    output, (h_n, c_n) = layer(x, state)
    data = output.data if isinstance(output, PackedSequence) else output
    results = {"output": data, "h_n": h_n, "c_n": c_n}
    loss = sum((v * torch.linspace(-1, 2, v.numel(), dtype=v.dtype).view_as(v)).sum() for v in results.values())
    leaves = {"x": leaf} | dict(layer.named_parameters())
    if state is not None:
        leaves |= {"h0": state[0], "c0": state[1]}
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return results | {f"grad_{name}": grad for name, grad in zip(leaves, grads, strict=True)}


@pytest.mark.parametrize("kind", ["dense", "packed", "unbatched"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(int(v)) for v in o.values()))
def test_equals_nn_lstm(options: dict[str, Any], kind: str, with_state: bool) -> None:
    theirs, ours = pair(**options)
    x = make_input(kind, options["batch_first"])
    state = make_state(kind, options) if with_state else None
    expected, actual = run(theirs, x, state), run(ours, x, state)
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-11, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_packed_output_keeps_the_order_of_the_sequences() -> None:
    sequences = [torch.randn(n, 4) for n in LENGTHS]
    packed = pack_sequence(sequences, enforce_sorted=False)
    output, _ = WeightDropLSTM(4, 6)(packed)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(output, name), getattr(packed, name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precisions(dtype: torch.dtype) -> None:
    theirs, ours = pair(dtype=dtype, num_layers=2)
    x = torch.randn(9, 5, 4, dtype=dtype)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for mine, reference in zip(ours(x)[1], theirs(x)[1], strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, reference, atol=tolerance, rtol=tolerance)


def test_constructor_has_nn_lstms_arguments() -> None:
    arguments = (4, 6, 2, False, True, 0.1, True, 3, "meta", torch.float64)
    theirs, ours = nn.LSTM(*arguments), WeightDropLSTM(*arguments, weight_dropout=0.5)
    for name in ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert (mine.dtype, mine.device, mine.shape) == (expected.dtype, expected.device, expected.shape)
    assert ours.weight_dropout == 0.5
    with pytest.raises(TypeError, match=r"device must be .* got 0\.5; weight_dropout goes by keyword"):
        WeightDropLSTM(4, 6, 2, False, True, 0.1, True, 3, 0.5)  # type: ignore[arg-type]


def test_state_dict_loads_both_ways() -> None:
    theirs, ours = (
        nn.LSTM(4, 6, 2, bidirectional=True, proj_size=3),
        WeightDropLSTM(4, 6, 2, bidirectional=True, proj_size=3, weight_dropout=0.5),
    )
    assert list(theirs.state_dict()) == list(ours.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_initialisation_is_nn_lstms() -> None:
    torch.manual_seed(5)
    theirs = nn.LSTM(4, 6).state_dict()
    torch.manual_seed(5)
    ours = WeightDropLSTM(4, 6).state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_weight_drop_acts_in_training_only() -> None:
    layer = WeightDropLSTM(4, 6, weight_dropout=0.5)
    plain = nn.LSTM(4, 6)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3, 4)
    expected = plain(x)[0]
    first, second = layer(x)[0], layer(x)[0]
    torch.testing.assert_close(first[0], expected[0])  # the first step starts from zero
    assert (first[1:] != expected[1:]).all()
    assert not torch.equal(first, second)
    layer.eval()
    torch.testing.assert_close(layer(x)[0], expected)


def test_each_layer_and_direction_draws_its_own_mask_and_seeds_repeat_it() -> None:
    layer = WeightDropLSTM(6, 6, 2, bidirectional=True, weight_dropout=0.5)
    seeds = [torch.tensor(s) for s in (11, 12, 13, 14)]
    output, _ = layer(torch.randn(6, 4, 6), seeds=seeds)
    output.sum().backward()
    for (name, parameter), seed in zip(
        [(n, p) for n, p in layer.named_parameters() if "weight_hh" in n], seeds, strict=True
    ):
        assert torch.equal(parameter.grad != 0, ops.dropconnect_mask(seed, 24, 6, 0.5)), name


def test_the_parameter_stays_whole() -> None:
    layer = WeightDropLSTM(4, 6, weight_dropout=0.9)
    before = layer.weight_hh_l0.detach().clone()
    layer(torch.randn(5, 2, 4))[0].sum().backward()
    assert torch.equal(layer.weight_hh_l0, before)


def test_dropout_between_layers() -> None:
    layer = WeightDropLSTM(4, 6, 2, dropout=0.5)
    x = torch.randn(5, 3, 4)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last"):
        WeightDropLSTM(4, 6, dropout=0.5)


def test_backward_in_eval_mode() -> None:
    layer = WeightDropLSTM(4, 6, weight_dropout=0.5).eval()
    x = torch.randn(5, 3, 4, requires_grad=True)
    layer(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("weight_dropout", [0.0, 0.5])
def test_compiles_without_a_graph_break(weight_dropout: float) -> None:
    layer = WeightDropLSTM(4, 6, 2, bidirectional=True, weight_dropout=weight_dropout)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, 4)
    seeds = [torch.tensor(s) for s in (11, 12, 13, 14)]
    expected, actual = layer(x, seeds=seeds), compiled(x, seeds=seeds)
    torch.testing.assert_close(actual, expected)
    expected[0].sum().backward()
    grads = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    actual[0].sum().backward()
    for parameter, grad in zip(layer.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert compiled(x)[0].shape == expected[0].shape  # seeds drawn inside the graph


@pytest.mark.xfail(torch.__version__.startswith("2.12."), reason="torch 2.12 compiles no PackedSequence at all")
def test_compiles_with_packed_input() -> None:
    layer = WeightDropLSTM(4, 6)

    def run_packed(data: Tensor, batch_sizes: Tensor) -> Tensor:
        return layer(PackedSequence(data, batch_sizes))[0].data

    packed = pack_sequence([torch.randn(n, 4) for n in (5, 3, 1)])
    compiled = torch.compile(run_packed, fullgraph=True, backend="aot_eager")
    expected = run_packed(packed.data, packed.batch_sizes)
    torch.testing.assert_close(compiled(packed.data, packed.batch_sizes), expected)


def test_exports_with_any_length_and_batch() -> None:
    layer = WeightDropLSTM(4, 6, 2, bidirectional=True).eval()
    shapes = {0: torch.export.Dim("steps", min=1, max=99), 1: torch.export.Dim("batch", min=1, max=99)}
    exported = torch.export.export(layer, (torch.randn(5, 3, 4),), dynamic_shapes=(shapes,)).module()
    for steps, batch in ((5, 3), (9, 2), (1, 1)):
        x = torch.randn(steps, batch, 4)
        torch.testing.assert_close(exported(x), layer(x))


def test_called_by_several_threads_at_once() -> None:
    """As servers do: each call has the bits that it has alone."""
    layer = WeightDropLSTM(16, 40)
    parameters = list(layer.parameters())

    def run(x: Tensor) -> list[Tensor]:
        output, (h, c) = layer(x)
        return [output.detach(), *torch.autograd.grad(output.square().sum() + h.sum() + c.sum(), parameters)]

    inputs = [torch.randn(20, batch, 16) for batch in (1, 3, 8, 17, 40, 64) * 3]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, inputs))
    for x, results in zip(inputs, together, strict=True):
        for mine, alone in zip(results, run(x), strict=True):
            assert torch.equal(mine, alone)


def test_works_inside_checkpointing() -> None:
    layer = WeightDropLSTM(4, 6, weight_dropout=0.5)
    x = torch.randn(5, 3, 4, requires_grad=True)
    torch.manual_seed(1)
    output = torch.utils.checkpoint.checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)
    (grad,) = torch.autograd.grad(output.sum(), x)
    torch.manual_seed(1)
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    assert torch.equal(grad, expected)


def test_single_threaded_and_in_data_loader_workers() -> None:
    layer = WeightDropLSTM(4, 6).eval()
    items = [torch.randn(5, 4) for _ in range(4)]
    expected = torch.stack([layer(item)[0].detach() for item in items])
    loader = torch.utils.data.DataLoader(_Encoded(items, layer), batch_size=4, num_workers=1)
    assert torch.equal(next(iter(loader)), expected)


class _Encoded(torch.utils.data.Dataset):
    def __init__(self, items: list[Tensor], layer: nn.Module) -> None:
        self.items, self.layer = items, layer

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Tensor:
        return self.layer(self.items[index])[0].detach()


def test_forcing_an_instruction_set() -> None:
    """All builds of the kernels agree; run in processes of their own, as the choice is made once."""
    import subprocess
    import sys

    code = (
        "import torch; from ulmfit_fast import WeightDropLSTM, ops; torch.manual_seed(0);"
        "l = WeightDropLSTM(20, 37, weight_dropout=0.5); x = torch.randn(9, 7, 20, requires_grad=True);"
        "o, _ = l(x, seeds=[torch.tensor(3)]); o.square().sum().backward();"
        "print(ops.build_info()['isa'], *(f'{v.double().sum():.9f}' for v in (o, x.grad, l.weight_hh_l0.grad)))"
    )
    results = {}
    for isa in ("portable", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"):
        finished = subprocess.run(
            [sys.executable, "-c", code], env=_environment(isa), capture_output=True, text=True, check=False
        )
        if "lacks it" in finished.stderr:
            continue
        assert finished.returncode == 0, finished.stderr
        name, *values = finished.stdout.split()
        assert name == isa
        results[isa] = [float(value) for value in values]
    for isa, values in results.items():
        assert values == pytest.approx(results["portable"], rel=1e-4, abs=1e-4), isa
    unknown = subprocess.run(
        [sys.executable, "-c", code], env=_environment("sse9"), capture_output=True, text=True, check=False
    )
    assert "expected avx512_bf16, avx512_vnni, avx512, avx2_vnni, avx2 or portable" in unknown.stderr


def _environment(isa: str) -> dict[str, str]:
    import os

    return os.environ | {"ULMFIT_FAST_ISA": isa}
