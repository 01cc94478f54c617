"""The layer in other people's models: ``nn.LSTM`` becomes ``WeightDropLSTM`` with the same Parameters, and back."""

from __future__ import annotations

import logging
import warnings
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import Parameter

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.awd_lstm import AWDLSTM
from ulmfit_fast.nn.lstm import WeightDropLSTM
from ulmfit_fast.nn.wrapper_keys import KEYS, forget_wrapper_keys, keys_of, use_wrapper_keys

_LOG = logging.getLogger(__name__)
# fastai's and awd-lstm-lm's (also fastai 0.7's). They are not imported: what counts is their form.
_WRAPPERS = ("WeightDropout", "WeightDrop")
_CALL_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook",
)  # fmt: skip
_STATE_DICT_HOOKS = (
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip
# Attributes of an instance that the new layer has of its own.
_OWN = {"flatten_parameters", "qconfig", "_qconfig", "weight_dropout", "_parameters", "_packed"}
# What a subclass may define and still be nothing but an nn.LSTM once it is made.
_HARMLESS = {
    "__init__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate_func__", "__firstlineno__",
    "__static_attributes__", "__parameters__", "__orig_bases__",
}  # fmt: skip


def replace_lstm(
    model: nn.Module,
    *,
    weight_dropout: float | None = None,
    keep_keys: bool = True,
    keys: str | None = None,
    strict: bool = True,
) -> nn.Module:
    """Put a ``WeightDropLSTM`` in the place of every ``nn.LSTM`` of a model, with the same Parameter objects.

    Outputs, states and gradients stay the same within rounding, an optimizer made before goes on, and ``state_dict``
    has the keys that it had. Modes, devices, dtypes, hooks and attributes go over; an LSTM that is used at several
    places stays one layer. A weight drop wrapper around an LSTM (fastai's ``WeightDropout``, awd-lstm-lm's
    ``WeightDrop``, recognised by name and attributes) becomes one layer with its probability as ``weight_dropout``.
    Every new layer loads the keys of either wrapper and of ``nn.LSTM``: encoder files of those projects, too. What is
    replaced is logged (INFO). Either everything is replaced or, with an error, nothing. ``torch.compile`` a layer
    afterwards. Code that asks for ``isinstance(layer, nn.LSTM)`` finds none any more.

    A subclass of ``nn.LSTM`` is replaced if it adds nothing but a constructor. What else it defines, another part of
    the program may call.

    >>> model = replace_lstm(nn.Sequential(nn.Embedding(100, 8), nn.LSTM(8, 16)))

    Args:
        model: changed in place.
        weight_dropout: probability of dropping recurrent weights in [0, 1), in all layers; None: 0 for an ``nn.LSTM``,
            the wrapper's own for a wrapper.
        keep_keys: ``state_dict`` writes a replaced wrapper's tensors under the wrapper's keys, so that the original
            project loads the file; False: under ``nn.LSTM``'s, which are those of ``named_parameters``, as
            ``torch.func.functional_call`` and distributed checkpoints want them.
        keys: whose keys ``state_dict`` writes for every new layer, a wrapper's or not, in place of what ``keep_keys``
            says: "fastai" (``weight_hh_l0_raw``, ``module.weight_ih_l0``), "awd-lstm-lm" (``module.weight_hh_l0_raw``)
            or "nn.LSTM".
        strict: an LSTM that cannot be replaced, or none at all, is an error; False: it is left with a warning.

    Returns:
        The model, or the new layer if the model itself is an LSTM or a wrapper.

    Raises:
        InputError: with ``strict``, none is there, or one cannot be replaced: pruned, parametrized, with a ``forward``
            of its own, quantized, scripted, compiled, with hooks inside or for state dicts on a wrapper, a wrapper that
            drops other weights than all recurrent ones or whole rows (``variational``).
    """
    _require_module("replace_lstm", model)
    if weight_dropout is not None and not 0 <= weight_dropout < 1:
        raise InputError(f"replace_lstm: weight_dropout must be in [0, 1), got {weight_dropout}")
    _check_keys("replace_lstm", keys)
    found, refused = _find(model, weight_dropout)
    _report_refused("replace_lstm", refused, strict)
    if not found and strict:
        already = sum(isinstance(module, WeightDropLSTM) for module in model.modules())
        raise InputError(
            f"replace_lstm: {type(model).__name__} holds no torch.nn.LSTM "
            + (f"(but {already} WeightDropLSTM already)" if already else "(other kinds of layers are not replaced)")
        )
    new_of: dict[int, nn.Module] = {}
    for one in found:
        layer = _made_of(WeightDropLSTM, one)
        layer.weight_dropout = one.weight_dropout
        if keys is not None:
            use_wrapper_keys(layer, keys_of(layer, keys), keys != "nn.LSTM")
        else:
            use_wrapper_keys(layer, one.keys or keys_of(layer, "nn.LSTM"), bool(one.keys) and keep_keys)
        new_of[id(one.outer)] = layer
    _LOG.info("replace_lstm: %d replaced: %s", len(found), ", ".join(one.path for one in found))
    return _put(model, new_of)


def to_nn_lstm(
    model: nn.Module, *, drop_weight_dropout: bool = False, keys: str | None = None, strict: bool = True
) -> nn.Module:
    """Put a plain ``nn.LSTM`` in the place of every ``WeightDropLSTM`` of a model, with the same Parameter objects.

    As for TorchScript, quantization or a machine without this package. All else goes over as in ``replace_lstm``, but
    ``state_dict`` has ``nn.LSTM``'s keys (a wrapper that ``replace_lstm`` took away does not come back).

    Args:
        model: changed in place.
        drop_weight_dropout: give up weight dropout, which ``nn.LSTM`` does not have; without it a layer with
            ``weight_dropout`` above 0 is an error.
        keys: as ``replace_lstm``: the new layers write these, and load those of either project and of ``nn.LSTM``;
            None: they know ``nn.LSTM``'s alone, by no hook.
        strict: a layer that cannot be replaced, or none at all, is an error; False: it is left with a warning.

    Returns:
        The model, or the new layer if the model itself is a ``WeightDropLSTM``.

    Raises:
        InputError: weight dropout would be lost; with ``strict``, also if none is there or one cannot be replaced (a
            subclass; layers of ``AWDLSTM``, which computes with their parameters by itself).
    """
    _require_module("to_nn_lstm", model)
    _check_keys("to_nn_lstm", keys)
    found, refused = [], []
    own = {id(layer) for module in model.modules() if isinstance(module, AWDLSTM) for layer in module.rnns}
    for path, module in _named_modules(model):
        if not isinstance(module, WeightDropLSTM) and not _is_scripted(module, "WeightDropLSTM"):
            continue
        if id(module) in own:
            reason: str | None = "AWDLSTM computes with its parameters by itself"
        elif type(module) is not WeightDropLSTM and isinstance(module, WeightDropLSTM):
            reason = "it is a subclass of WeightDropLSTM"
        else:
            reason = _why_not(module)
        if reason:
            refused.append(_Refused(path, module, reason))
        else:
            assert isinstance(module, WeightDropLSTM)
            found.append(_Found(path, module, module, dict(module._parameters), module.weight_dropout))
    dropping = [one.path for one in found if one.weight_dropout > 0]
    if dropping and not drop_weight_dropout:
        raise InputError(
            f"to_nn_lstm: nn.LSTM has no weight dropout, {', '.join(dropping)} has; say drop_weight_dropout=True to "
            "give it up, or set the layer's weight_dropout to 0"
        )
    _report_refused("to_nn_lstm", refused, strict)
    if not found and strict:
        raise InputError(f"to_nn_lstm: {type(model).__name__} holds no WeightDropLSTM")
    new_of: dict[int, nn.Module] = {}
    for one in found:
        layer = _made_of(nn.LSTM, one)
        forget_wrapper_keys(layer)
        if keys is not None:
            use_wrapper_keys(layer, keys_of(layer, keys), keys != "nn.LSTM")
        new_of[id(one.outer)] = layer
    _LOG.info("to_nn_lstm: %d replaced: %s", len(found), ", ".join(one.path for one in found))
    return _put(model, new_of)


@dataclass(frozen=True)
class _Found:
    path: str
    outer: nn.Module  # what other modules hold: the layer, or the wrapper around it
    lstm: nn.RNNBase
    parameters: dict[str, Parameter | None]  # by nn.LSTM's names, in the order of outer.parameters()
    weight_dropout: float
    keys: dict[str, str] | None = None  # a wrapper's: nn.LSTM's name -> key of its state dict


@dataclass(frozen=True)
class _Refused:
    path: str
    module: nn.Module
    reason: str


def _find(model: nn.Module, weight_dropout: float | None) -> tuple[list[_Found], list[_Refused]]:
    """The LSTMs that can be replaced, and those that cannot."""
    found: list[_Found] = []
    refused: list[_Refused] = []
    wrapped = {id(m.module): m for m in model.modules() if _is_wrapper(m)}
    holders = _holders(model)
    for path, module in _named_modules(model):
        if _is_wrapper(module):
            one = _unwrapped(path, module, weight_dropout)
            elsewhere = [holder for holder in holders.get(id(module.module), []) if holder is not module]
            if elsewhere:
                one = f"its LSTM is used outside of it, too (in {type(elsewhere[0]).__name__})"
        elif id(module) in wrapped or not (isinstance(module, nn.LSTM) or _is_scripted(module, "LSTM")
                                           or _is_quantized(module)):  # fmt: skip
            continue
        else:
            parameters = dict(module._parameters)
            one = _why_not(module) or _Found(path, module, module, parameters, weight_dropout or 0.0)  # type: ignore[arg-type]
        if any(type(holder).__name__ == "OptimizedModule" for holder in holders.get(id(module), [])):
            one = "it is compiled; replace it first, then torch.compile"
        if isinstance(one, str):
            refused.append(_Refused(path, module, one))
        else:
            found.append(one)
    return found, refused


def _is_wrapper(module: nn.Module) -> bool:
    return type(module).__name__ in _WRAPPERS and isinstance(module._modules.get("module"), nn.LSTM)


def _unwrapped(path: str, wrapper: Any, weight_dropout: float | None) -> _Found | str:
    """The layer that a weight drop wrapper amounts to, or why it amounts to none."""
    lstm = wrapper.module
    dropped = getattr(wrapper, "layer_names", getattr(wrapper, "weights", None))
    p = getattr(wrapper, "weight_p", getattr(wrapper, "dropout", None))
    if dropped is None or not isinstance(p, int | float):
        return f"it is no {type(wrapper).__name__} of fastai or awd-lstm-lm: layer_names or weights, and weight_p or " \
               "dropout are expected"  # fmt: skip
    dropped = [dropped] if isinstance(dropped, str) else list(dropped)
    names, parameters, keys = lstm._flat_weights_names, {}, {}
    for key, parameter in wrapper.named_parameters(remove_duplicate=False):
        name = key.removeprefix("module.").removesuffix("_raw")
        if name in names and (key.endswith("_raw") or name not in dropped):  # not the dropped copy of the last call
            parameters[name], keys[name] = parameter, key
        elif name not in names:
            return f"it has a parameter {key}, which nn.LSTM has not"
    if missing := [name for name in names if name not in parameters]:
        return f"{missing[0]} is no parameter, neither as module.{missing[0]} nor as {missing[0]}_raw"
    if reason := _why_not(lstm, held_elsewhere=True):
        return f"of its LSTM: {reason}"
    if wrapper._buffers or lstm._buffers or len(wrapper._modules) > 1 or lstm._modules:
        return "it has buffers or modules of its own"
    if "forward" in vars(wrapper):
        return "its forward was replaced"
    if any(getattr(wrapper, hooks) for hooks in _STATE_DICT_HOOKS):
        return "it has hooks for state dicts; remove them, and register them on the new layer"
    if any(getattr(lstm, hooks) for hooks in (*_CALL_HOOKS, *_STATE_DICT_HOOKS)):
        return "there are hooks on the LSTM inside; register them on the wrapper"
    if wrapper.training != lstm.training:
        return "it and its LSTM are in different modes; call train() or eval() on both"
    if weight_dropout is None:
        remedy = "say replace_lstm(model, weight_dropout=...) to drop elements of all recurrent weights instead"
        if not 0 <= p < 1:
            return f"its probability is {p}, expected is one in [0, 1); {remedy}"
        if p and getattr(wrapper, "variational", False):
            return f"variational=True drops whole rows, which WeightDropLSTM does not; {remedy}"
        if p and set(dropped) != {name for name in names if name.startswith("weight_hh")}:
            return f"it drops {', '.join(dropped)} alone, WeightDropLSTM all recurrent weights; {remedy}"
        weight_dropout = float(p)
    return _Found(path, wrapper, lstm, parameters, weight_dropout, keys)


def _why_not(module: nn.Module, held_elsewhere: bool = False) -> str | None:
    """Why an LSTM cannot be replaced. ``held_elsewhere``: a wrapper holds some of its parameters."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is TorchScript; replace it before it is scripted or traced"
    if _is_quantized(module):
        return "it is quantized"
    if hasattr(module, "parametrizations"):
        return "it is parametrized; call torch.nn.utils.parametrize.remove_parametrizations first"
    expected = getattr(module, "_flat_weights_names", [])
    lacking = [name for name in expected if module._parameters.get(name) is None]
    if lacking and not held_elsewhere:
        return (
            f"its {lacking[0]} is no parameter (it has {', '.join(module._parameters)}); where it is pruned or "
            "normalized, call torch.nn.utils.prune.remove or remove_weight_norm first"
        )
    for kind in type(module).__mro__:
        if kind in (nn.LSTM, WeightDropLSTM):
            break
        if extra := sorted(set(vars(kind)) - _HARMLESS):
            return f"it is a subclass of nn.LSTM with {', '.join(extra[:3])} of its own"
    replaced = [
        name for name, value in vars(module).items()
        if name not in _OWN and callable(value) and callable(getattr(nn.LSTM, name, None))
    ]  # fmt: skip
    if replaced:
        return f"its {replaced[0]} was replaced"
    if vars(module).get("_compiled_call_impl") is not None:
        return "it is compiled; replace it first, then compile"
    if getattr(module, "qconfig", None) is not None:
        return "it is prepared for quantization"
    return None


def _is_scripted(module: nn.Module, name: str) -> bool:
    return isinstance(module, torch.jit.ScriptModule) and getattr(module, "original_name", "") == name


def _is_quantized(module: nn.Module) -> bool:
    return type(module).__name__ == "LSTM" and ".quantiz" in type(module).__module__


def _made_of(kind: type[Any], one: _Found) -> Any:
    """A layer of that kind with the attributes, hooks and Parameters of what was found."""
    old = one.lstm
    # On meta nothing is allocated and no random number drawn. The dropout, about which it may warn, comes after.
    new = kind(
        old.input_size, old.hidden_size, num_layers=old.num_layers, bias=old.bias, batch_first=old.batch_first,
        bidirectional=old.bidirectional, proj_size=old.proj_size, device="meta",
    )  # fmt: skip
    # A wrapper leaves weights that are no Parameters on its LSTM, which would hide the Parameters.
    taken = {name: value for name, value in vars(old).items() if name not in _OWN and name not in one.parameters}
    vars(new).update(taken)
    if one.outer is not old:
        vars(new).update({name: vars(one.outer)[name] for name in (*_CALL_HOOKS, "training")})
    vars(new)["_parameters"] = dict(one.parameters)
    new._init_flat_weights()
    for hook in new._load_state_dict_pre_hooks.values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)
    return new


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((path or "the model itself", module) for path, module in model.named_modules())


def _holders(model: nn.Module) -> Mapping[int, list[nn.Module]]:
    """For the id of each module: the modules that have it as a child."""
    holders: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for child in module._modules.values():
            holders.setdefault(id(child), []).append(module)
    return holders


def _put(model: nn.Module, new_of: Mapping[int, nn.Module]) -> nn.Module:
    """Replace modules wherever the model holds them: as children, and in attributes and containers of other modules.

    What a list of Python still held would compute the same, but ``train()``, ``eval()`` and hooks would miss it.
    """
    seen: set[int] = set()

    def exchanged(value: Any) -> Any:
        if id(value) in new_of:
            return new_of[id(value)]
        if type(value) is tuple:
            items = tuple(exchanged(item) for item in value)
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        if isinstance(value, list | dict) and id(value) not in seen:
            seen.add(id(value))
            for key, item in list(enumerate(value) if isinstance(value, list) else value.items()):
                if (new := exchanged(item)) is not item:
                    value[key] = new
        return value

    for module in list(model.modules()):
        if not isinstance(module, torch.jit.ScriptModule):  # none of which are replaced
            exchanged(vars(module))
    return new_of.get(id(model), model)


def _report_refused(function: str, refused: list[_Refused], strict: bool) -> None:
    if not refused:
        return
    lines = [f"{one.path} ({type(one.module).__name__}): {one.reason}" for one in refused]
    if strict:
        raise InputError(f"{function}: cannot replace {'; '.join(lines)}. strict=False leaves it as it is")
    warnings.warn(f"{function}: left as it is: {'; '.join(lines)}", stacklevel=3)


def _check_keys(function: str, keys: str | None) -> None:
    if keys is not None and keys not in KEYS:
        raise InputError(f"{function}: keys must be one of {', '.join(map(repr, KEYS))}, got {keys!r}")


def _require_module(function: str, model: object) -> None:
    if not isinstance(model, nn.Module):
        hint = "; give its model" if isinstance(getattr(model, "model", None), nn.Module) else ""
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {type(model).__name__}{hint}")
