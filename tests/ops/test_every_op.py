"""What holds for every op and every tensor that it takes: one device, no result twice, batches without rows."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, library
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.every_op import FOUND_ON_CPU, OPS, arguments_of, call, overload, tensors_of
from ulmfit_fast import ops

ARGUMENTS = [(op, name) for op in OPS for name in tensors_of(op)]
WITH_ROWS = [op for op in OPS if op not in ("add_steps", "dropconnect_mask", "lstm_pack", "lstm_quantized_pack")]
BACKWARDS = ["lstm_backward", "lstm_pool_backward", "linear_cross_entropy", "forget_mult_backward"]
ALONE = [("dropconnect_mask", "seed"), ("add_steps", "count")]  # the only tensor that says where an op runs
each_argument = pytest.mark.parametrize(("op", "name"), [a for a in ARGUMENTS if a not in ALONE])


@pytest.mark.parametrize("op", OPS)
def test_the_examples_are_complete(op: str) -> None:
    """Else what follows would pass over an argument, or over an op that came later."""
    arguments = arguments_of(op)
    assert set(arguments) == {a.name for a in overload(op)._schema.arguments}
    assert all(isinstance(arguments[name], Tensor) for name in tensors_of(op))
    for result in call(op, arguments):
        assert not result.is_floating_point() or result.isfinite().all()


@pytest.mark.parametrize("op", OPS)
def test_schemas_have_neither_defaults_nor_keywords(op: str) -> None:
    """What ``register_autograd`` counts on: the dispatcher hands over all arguments, by their places."""
    assert not any(a.kwarg_only or a.has_default_value() for a in overload(op)._schema.arguments)


@each_argument
def test_one_argument_on_meta(op: str, name: str) -> None:
    arguments = arguments_of(op)
    with pytest.raises(ValueError, match=rf"ulmfit_fast\.ops\.{op}: .*\b{name}\b.*meta"):
        call(op, arguments | {name: arguments[name].to("meta")})


@each_argument
def test_all_arguments_but_one_on_meta(op: str, name: str) -> None:
    real = arguments_of(op)
    on_meta = {n: v.to("meta") for n, v in real.items() if isinstance(v, Tensor)}
    assert all(result.is_meta for result in call(op, real | on_meta))
    if name in FOUND_ON_CPU:
        assert all(result.is_meta for result in call(op, real | on_meta | {name: real[name]}))
        return
    on_cpu = {n: v for n, v in real.items() if n in (name, *FOUND_ON_CPU)}
    with pytest.raises(ValueError, match=rf"ulmfit_fast\.ops\.{op}: .*\b{name}\b.*cpu"):
        call(op, real | on_meta | on_cpu)


@pytest.mark.parametrize("home", ["cpu", "cuda:0"])
@each_argument
def test_one_argument_on_another_device_while_tracing(op: str, name: str, home: str) -> None:
    """With fake tensors, whose devices this machine need not have."""

    def fake(tensor: Tensor, device: str) -> Tensor:
        return torch.empty_like(tensor, device=device)

    real = arguments_of(op)
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = {n: fake(v, "cpu" if n in FOUND_ON_CPU else home) for n, v in real.items() if isinstance(v, Tensor)}
        for result in call(op, real | there):
            assert str(result.device) == home
        with pytest.raises(ValueError, match=rf"ulmfit_fast\.ops\.{op}: .*\b{name}\b.*cuda:1"):
            call(op, real | there | {name: fake(real[name], "cuda:1")})


@each_argument
def test_the_kernels_check_it_themselves(op: str, name: str) -> None:
    """The dispatcher takes CUDA's kernels as soon as one argument is there; here the CPU's get one from elsewhere."""
    arguments = arguments_of(op)
    arguments[name] = arguments[name].to("meta")
    cpu = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    with pytest.raises(ValueError, match=rf"ulmfit_fast\.ops\.{op}: .*\b{name}\b.*meta"):
        overload(op).redispatch(cpu, *(arguments[a.name] for a in overload(op)._schema.arguments))


@pytest.mark.parametrize("lengths", [(3, 2, 1), ()], ids=["rows", "no rows"])
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str, lengths: tuple[int, ...]) -> None:
    """Results are no argument and no other result; their shapes, dtypes and strides are those that tracing expects."""
    arguments = arguments_of(op, lengths)
    library.opcheck(overload(op), tuple(arguments[a.name] for a in overload(op)._schema.arguments))


def _same_as_with_all(op: str, arguments: dict[str, Any]) -> None:
    """Each subset of ``needs`` gives those gradients that all of them together have, the others empty."""
    first = 2 if op == "linear_cross_entropy" else 0
    all_of_them = call(op, arguments)[first:]
    index = list(range(len(arguments["needs"])))  # of each gradient in needs
    if op.startswith("lstm"):
        index = [0, 1, 1, 2, 3, 4, 5]  # h0 and c0 share one
    for needs in itertools.product((False, True), repeat=len(arguments["needs"])):
        given = arguments | {"needs": list(needs)}
        results = call(op, given)
        for i, (result, expected) in enumerate(zip(results[first:], all_of_them, strict=True)):
            assert result.dtype == expected.dtype
            assert torch.equal(result, expected if needs[index[i]] else expected.new_empty(0)), (needs, i)
        positional = tuple(given[a.name] for a in overload(op)._schema.arguments)
        library.opcheck(overload(op), positional, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("lengths", [(3, 2, 1), ()], ids=["rows", "no rows"])
@pytest.mark.parametrize("projection", [0, 3])
@pytest.mark.parametrize("op", BACKWARDS)
def test_every_subset_of_gradients(op: str, projection: int, lengths: tuple[int, ...]) -> None:
    if projection and op != "lstm_backward":
        return
    arguments = arguments_of(op, lengths, torch.float64, projection)
    _same_as_with_all(op, arguments)


@pytest.mark.parametrize("op", BACKWARDS)
def test_every_subset_of_gradients_of_master_weights(op: str) -> None:
    """Float32 weights beside bfloat16 inputs: each result, an empty one too, has the dtype of what it belongs to."""
    half = arguments_of(op, dtype=torch.bfloat16)
    weights = {n: v.float() for n, v in half.items() if n.startswith(("weight_", "bias")) and isinstance(v, Tensor)}
    weights |= {"weight": half["weight"].float()} if "weight" in half else {}
    _same_as_with_all(op, half | weights)


@pytest.mark.parametrize("op", WITH_ROWS)
def test_without_rows(op: str) -> None:
    """Results without rows; gradients of weights are zero, and the pooled state is as it was, but no alias of it."""
    arguments = arguments_of(op, ())
    names = [result.name for result in overload(op)._schema.returns]
    for name, result in zip(names, call(op, arguments), strict=True):
        kept = name.removesuffix("_n")
        if op in ("lstm_pool", "lstm_pool_packed", "lstm_pool_quantized", "forget_mult") and kept in (
            "total",
            "maximum",
            "argmax",
        ):
            assert torch.equal(result, arguments[kept])
            assert not torch._C._is_alias_of(result, arguments[kept])
        else:
            assert not result.count_nonzero()


def test_batch_sizes_without_rows() -> None:
    """Zeros say that there are no sequences; beside rows, or for no step at all, they are refused as before."""
    a = arguments_of("lstm")
    with pytest.raises(
        ValueError, match="batch_sizes must be positive, got 0 at step 3; drop sequences of length zero"
    ):
        call("lstm", a | {"batch_sizes": torch.cat([a["batch_sizes"], torch.zeros(1, dtype=torch.int64)])})
    empty = arguments_of("lstm", ())
    with pytest.raises(ValueError, match="one-dimensional and not empty"):
        call("lstm", empty | {"batch_sizes": torch.zeros(0, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"h0 must have batch_sizes\[0\] = 0 rows, got 3"):
        call("lstm", empty | {"h0": a["h0"], "c0": a["c0"]})


def test_a_pooled_state_without_aliases() -> None:
    for dtype in (torch.float32, torch.float64):
        state = ops.PooledState.empty(3, 7, dtype)
        a = arguments_of("lstm_pool", dtype=dtype)
        inputs = [a[n] for n in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        after = ops.lstm_pool(*inputs, state).state
        for one, other in itertools.combinations((*state, *after), 2):
            assert not torch._C._is_alias_of(one, other)


def test_a_pooled_state_whose_last_is_elsewhere() -> None:
    state = ops.PooledState.empty(3, 7)
    a = arguments_of("lstm_pool")
    inputs = [a[n] for n in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    with pytest.raises(ValueError, match=r"state\.last must have the shape .* on meta"):
        ops.lstm_pool(*inputs, state._replace(last=state.last.to("meta")))
    with pytest.raises(ValueError, match=r"state\.last must have the shape .*\(3, 7\).* got \(3, 6\)"):
        ops.lstm_pool(*inputs, state._replace(last=state.last[:, :6]))


def test_defaults_of_torch_do_not_reach_the_ops() -> None:
    """Tensors that the ops make themselves: the seed, the pooled state's counts."""
    a = arguments_of("lstm_pool")
    inputs = [a[n] for n in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")]

    weight, target = torch.randn(4, 5), torch.arange(6) % 4

    def run() -> list[Tensor]:
        torch.manual_seed(3)
        output = ops.lstm(*inputs, weight_dropout=0.5)
        pooled = ops.lstm_pool(*inputs, ops.PooledState.empty(3, 7))
        loss = ops.linear_cross_entropy(a["input"], weight, target)
        return [*output, *pooled.state, pooled.h_n, loss, ops.sequence_lengths(a["batch_sizes"]), ops.draw_seed()]

    expected = run()
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        actual = run()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(dtype)
    for mine, value in zip(actual, expected, strict=True):
        assert mine.dtype == value.dtype
        assert torch.equal(mine, value)
