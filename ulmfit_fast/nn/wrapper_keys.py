"""State dict keys of the weight drop wrappers of fastai and awd-lstm-lm, for the layer that takes a wrapper's place.

fastai's ``WeightDropout`` stores ``weight_hh_l0_raw`` beside ``module.weight_ih_l0``, awd-lstm-lm's ``WeightDrop``
``module.weight_hh_l0_raw``. Files of either may hold a call's dropped copy, ``module.weight_hh_l0``, too.
"""

from __future__ import annotations

from typing import Any

from torch import nn

KEYS = ("nn.LSTM", "fastai", "awd-lstm-lm")
_ATTRIBUTE = "wrapper_keys"  # of a layer: nn.LSTM's name of a tensor -> its key in the wrapper's state dict


def keys_of(layer: nn.RNNBase, project: str) -> dict[str, str]:
    """nn.LSTM's name of each of the layer's parameters -> its key in a project's files, one of ``KEYS``.

    In the order in which the project has them.
    """
    names = list(layer._parameters)
    recurrent = [name for name in names if name.startswith("weight_hh")]
    if project == "fastai":
        return {name: f"{name}_raw" for name in recurrent} | {n: f"module.{n}" for n in names if n not in recurrent}
    if project == "awd-lstm-lm":
        return {n: f"module.{n}" for n in names if n not in recurrent} | {n: f"module.{n}_raw" for n in recurrent}
    return {name: name for name in names}


def use_wrapper_keys(layer: nn.RNNBase, keys: dict[str, str], write: bool) -> None:
    """Have ``load_state_dict`` read wrappers' keys beside nn.LSTM's and, with ``write``, ``state_dict`` write them.

    Args:
        layer: with nn.LSTM's parameters.
        keys: nn.LSTM's name of each parameter -> the key to write.
        write: whether ``state_dict`` has these keys instead of nn.LSTM's.
    """
    setattr(layer, _ATTRIBUTE, keys)
    layer.register_load_state_dict_pre_hook(_read_wrapper_keys)
    if write:
        layer.register_state_dict_post_hook(_write_wrapper_keys)


def forget_wrapper_keys(layer: nn.RNNBase) -> None:
    """Undo ``use_wrapper_keys``: the layer has nn.LSTM's keys alone."""
    vars(layer).pop(_ATTRIBUTE, None)
    for hooks in (layer._load_state_dict_pre_hooks, layer._state_dict_hooks):
        for number, hook in list(hooks.items()):
            if getattr(hook, "hook", hook) in (_read_wrapper_keys, _write_wrapper_keys):
                del hooks[number]


def _read_wrapper_keys(layer: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in getattr(layer, _ATTRIBUTE):
        # The raw weight is the one that was trained; a dropped copy beside it is not read.
        keys = [prefix + key for key in (f"{name}_raw", f"module.{name}_raw", name, f"module.{name}")]
        given = [state.pop(key) for key in keys if key in state]
        if given:
            state[prefix + name] = given[0]


def _write_wrapper_keys(layer: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    """The tensors stay in their order, as fastai's ``load_pretrained`` goes by the order alone."""
    keys = getattr(layer, _ATTRIBUTE)
    tensors = {key: state.pop(prefix + name) for name, key in keys.items() if prefix + name in state}
    state.update({prefix + key: tensor for key, tensor in tensors.items()})
