"""The native module: loaded, checked to belong to this torch, and what all ops need of it."""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, library
from torch.autograd import forward_ad

if sysconfig.get_config_var("Py_GIL_DISABLED"):  # which has no limited API; its loader might take _C all the same
    raise ImportError(
        "ulmfit_fast does not run on Python without a global lock (free-threaded, such as 3.14t), which has no limited "
        "API for the native module: use the ordinary build of this Python"
    )
try:
    from ulmfit_fast import _C
except ImportError as error:
    raise ImportError(
        f"ulmfit_fast's native module does not load beside torch {torch.__version__} ({error}). It needs torch 2.11 or "
        "newer: pip install 'torch>=2.11'. Where _C is missing, Python was started in a source folder that was not "
        "installed with -e: start it elsewhere"
    ) from error

native = torch.ops.ulmfit_fast
_registrations = library.Library("ulmfit_fast", "IMPL")  # undone when it is no longer there
# What register_autograd takes of torch that is private.
_KEYSETS = ("_AutoDispatchBelowAutograd", "_after_autograd_keyset", "_any_requires_grad")
_HAS_KEYSETS = all(hasattr(torch._C, name) for name in _KEYSETS) and hasattr(torch._ops.OpOverload, "redispatch")

# A team's threads wait for each other, which only OpenMP's bear (csrc/cpu/runtime/parallel.h).
_C.allow_teams("parallel backend: OpenMP" in torch.__config__.parallel_info())

# Arguments that the kernels read on the CPU: batch_sizes always, the seed there or where the other tensors are.
_ON_CPU = ("batch_sizes", "seed")

# What an op keeps besides its results (csrc/lstm_call.h).
KEEP_NOTHING, KEEP_STATES, KEEP_FOR_BACKWARD = 0, 1, 2


def build_info() -> dict[str, Any]:
    """How the native module was built: the oldest torch that it serves, the compiler, whether with CUDA; and the
    instruction set that its CPU kernels use here.
    """
    return dict(_C.build_info())


def register_fake(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``library.register_fake``, and a refusal where the op's tensors lie on different devices, or one is missing.

    The dispatcher takes the fake kernel as soon as one argument is on meta, whatever the others are: without the check
    it would answer for real tensors, with memory that nobody wrote.
    """
    arguments = getattr(native, op).default._schema.arguments
    names = [argument.name for argument in arguments]
    needed = [argument.name for argument in arguments if str(argument.type) == "Tensor"]
    if "batch_sizes" in names:
        refuse_capture(op)

    def register(fake: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*args: Any, **kwargs: Any) -> Any:
            given = dict(zip(names, args, strict=False)) | kwargs
            for name in needed:
                if given.get(name) is None:  # which the dispatcher takes for a tensor
                    raise TypeError(f"ulmfit_fast.ops.{op}: {name} must be a tensor, got None")
            check_devices(op, {name: value for name, value in given.items() if isinstance(value, Tensor)})
            return fake(*args, **kwargs)

        library.register_fake(f"ulmfit_fast::{op}", checked)
        return fake

    return register


def refuse_capture(op: str) -> None:
    """Keep the op out of the CUDA graphs of ``torch.compile``: a replay would repeat its launches for the
    ``batch_sizes`` of the capture, which no longer are those of the call.

    The tag belongs to the schema, but torch's stable ABI takes tags from 2.12 on only.
    """
    tags = getattr(native, op).default.tags
    if torch.Tag.cudagraph_unsafe not in tags:
        tags.append(torch.Tag.cudagraph_unsafe)


def register_autograd(
    op: str, backward: Callable[..., Any], setup_context: Callable[[Any, tuple[Any, ...], Any], None] | None = None
) -> None:
    """``library.register_autograd`` for ops whose schemas have neither defaults nor keyword-only arguments.

    It registers the same function. But torch's reads the whole schema again for each argument of each call, in case
    defaults are missing, which takes longer than all the rest of a small LSTM's forward. Beside a torch that has no
    longer the private functions that this takes, it is torch's.
    """
    if not _HAS_KEYSETS:
        library.register_autograd(f"ulmfit_fast::{op}", backward, setup_context=setup_context)
        return
    overload = getattr(native, op).default

    def run(keyset: Any, args: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return overload.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def forward(ctx: Any, *args_and_keyset: Any) -> Any:
        args = args_and_keyset[:-1]
        output = run(args_and_keyset[-1], args)
        if setup_context is not None:
            setup_context(ctx, args, output)
        return output

    def backward_of_all(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return (*backward(ctx, *grads), None)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_all)}
    function: Any = type(f"ulmfit_fast_{op}", (torch.autograd.Function,), methods)

    def implementation(keyset: Any, *args: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return function.apply(*args, keyset)
        return run(keyset, args)

    _registrations.impl(op, implementation, "Autograd", with_keyset=True)


def check_devices(function: str, tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless all the tensors, by the names of their arguments, lie where the first one lies.

    ``batch_sizes`` and ``seed`` may be on the CPU; ``batch_sizes`` must be, but on meta beside tensors on meta.
    """
    first = next((name for name in tensors if name not in _ON_CPU), None)
    if first is None:
        return
    device = tensors[first].device
    for name, tensor in tensors.items():
        if tensor.device == device and (name != "batch_sizes" or device.type in ("cpu", "meta")):
            continue
        if name in _ON_CPU and tensor.device.type == "cpu":
            continue
        where = "on CPU (as in PackedSequence)" if name == "batch_sizes" else f"on the device of {first} ({device})"
        remedy = "move one of them"
        if "meta" in (device.type, tensor.device.type):
            remedy = "a tensor on meta has no values: load or create them (load_state_dict(assign=True), to_empty)"
        raise ValueError(f"ulmfit_fast.ops.{function}: {name} must be {where}, got {tensor.device}; {remedy}")


def draw_seed(device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Tensor:
    """A fresh seed, int64 [], from torch's generator of ``device`` (which ``torch.manual_seed`` governs) or another."""
    return torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device=device, generator=generator)


def seed_or_drawn(seed: Tensor | None, weight_dropout: float, device: torch.device) -> Tensor:
    """The given seed, or one that fits: any where nothing is dropped."""
    if seed is not None:
        return seed
    return draw_seed(device) if weight_dropout > 0 else torch.zeros((), dtype=torch.int64, device="cpu")


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums, cell states and pooled states beside values of ``dtype``: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """What autocast computes in on a device that has kernels, None where it is off.

    torch.amp.is_autocast_available would ask for any device, but torch 2.11 cannot compile it.
    """
    if device_type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def cast_for_autocast(
    device: torch.device, inputs: tuple[Tensor, ...], weights: tuple[Tensor | None, ...] = ()
) -> tuple[Any, ...]:
    """All the tensors, inputs in the autocast dtype where autocast is on; float64 stays.

    Weights in float32 stay, too: the kernels round them as they read them, and their gradients are never rounded.
    """
    dtype = autocast_dtype(device.type)
    if dtype is None:
        return *inputs, *weights

    def cast(x: Tensor | None, stays: tuple[torch.dtype, ...]) -> Tensor | None:
        if x is None or x.dtype in stays:
            return x
        if dtype == torch.float16 and x.device.type == "cpu":
            raise TypeError(
                "ulmfit_fast.ops: autocast to float16 works on a GPU alone; on a CPU use torch.autocast('cpu', "
                "dtype=torch.bfloat16)"
            )
        return x.to(dtype)

    return (
        *(cast(x, (torch.float64,)) for x in inputs),
        *(cast(x, (torch.float64, torch.float32)) for x in weights),
    )


def sequence_lengths(batch_sizes: Tensor) -> Tensor:
    """Steps of each sequence of a packed batch, int64 [B]."""
    # In a trace an int would be a constant.
    rows = cast(int, batch_sizes[0]) if torch.jit.is_tracing() else int(batch_sizes[0])
    ending = torch.arange(rows, device=batch_sizes.device)  # sequence r runs as long as batch_sizes > r
    return batch_sizes.shape[0] - torch.searchsorted(batch_sizes.flip(0), ending, right=True)


def wants_gradient(tensors: tuple[Tensor | None, ...]) -> bool:
    """Whether backward may follow. While ``torch.jit.trace`` records nobody knows yet."""
    if torch.jit.is_tracing():
        return True
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def recorded_whole() -> AbstractContextManager[Any]:
    """While ``torch.jit.trace`` records, an op goes into the program as itself, not as the Python of its gradient.

    The program's op has a gradient again when it runs.
    """
    return torch.no_grad() if torch.jit.is_tracing() else nullcontext()


def refuse_forward_mode(name: str, tensors: tuple[Tensor | None, ...]) -> None:
    """Forward-mode differentiation would silently give zeros: the op has no such formula."""
    if forward_ad._current_level < 0:
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(
            f"ulmfit_fast.ops.{name}: forward-mode differentiation (jvp, dual tensors) is not implemented; use "
            "backward, or torch.nn.LSTM"
        )


def refuse_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "ulmfit_fast.ops: double backward is not implemented (backward was called with create_graph=True and its "
        "result differentiated again); use torch.nn.LSTM where second derivatives are needed"
    )


def refuse_backward(name: str, remedy: str) -> Callable[..., Any]:
    """A backward for ops that have none."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(f"ulmfit_fast.ops.{name}: has no gradient; {remedy}")

    return refuse


class _NotDifferentiableAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *of: Tensor | None) -> Tensor:
        return gradient.view_as(gradient)

    backward = staticmethod(refuse_double_backward)


def not_differentiable_again(gradients: Sequence[Tensor], of: tuple[Tensor | None, ...]) -> list[Tensor]:
    """The gradients, which with create_graph=True refuse to be differentiated with respect to ``of``."""
    if not torch.is_grad_enabled():
        return list(gradients)
    return [_NotDifferentiableAgain.apply(gradient, *of) for gradient in gradients]


def empty_gradients(
    input: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, weight_hr: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """The shapes that a backward returns, for tracing."""

    def like(x: Tensor | None, need: bool) -> Tensor:
        return (input if x is None else x).new_empty(x.shape if need and x is not None else (0,))

    needs_input, needs_h0, needs_ih, needs_hh, needs_bias, needs_hr = needs
    return (
        like(input, needs_input),
        like(h0, needs_h0),
        like(c0, needs_h0),
        like(weight_ih, needs_ih),
        like(weight_hh, needs_hh),
        weight_ih.new_empty((weight_hh.shape[0] if needs_bias else 0,)),
        like(weight_hr, needs_hr),
    )
