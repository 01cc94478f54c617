"""Files of other projects, read without running anything that they hold: weights and vocabularies."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.storage.opening import opened_by_name


class _Nothing:
    """Stands for whatever fastai's optimizer state holds besides tensors. Takes any arguments and does nothing."""

    def __init__(self, *arguments: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_OF_THE_OPTIMIZER = (
    "fastcore.foundation.L", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
)  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """A file's state dict by the names of the model itself, floating-point. Raises InputError; runs nothing."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        state: Any
        if path.suffix == ".safetensors":
            with opened_by_name(path) as openable:
                state = safetensors.torch.load_file(openable)
        else:
            inert: Any = [(_Nothing, name) for name in _OF_THE_OPTIMIZER]
            with torch.serialization.safe_globals(inert), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the pickle's version
                state = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its bytes ask for
        if name := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path}: holds a {name[1]}, which would have to be unpickled and could run code; in the project that "
                "wrote it: torch.save(model.state_dict(), ...)"
            ) from None
        raise InputError(f"{path}: not a readable file of weights, or a damaged one ({_reason(error)})") from None
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]  # beside "opt", as learn.save writes it
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds no state_dict, a dictionary of tensors")
    return _without_wrappers({str(name): tensor.detach().float() for name, tensor in state.items()})


def _reason(error: Exception) -> str:
    return shortened(error) or type(error).__name__


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the names of the model itself: ``torch.compile`` and ``DataParallel`` put their own before."""
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


class _ForeignObjectError(Exception):
    """A pickle holds something that only running code would restore."""


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dictionaries, texts and numbers; whatever names a class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise _ForeignObjectError(f"it refers to {module}.{name}")


def read_vocabulary(path: Path) -> list[str]:
    """A file's tokens in the order of their rows. Raises InputError; runs nothing."""
    return as_words(str(path), read_plain(path))


def read_plain(path: Path) -> Any:
    """What a ``.pkl``, a ``.json`` or a text file (its lines) holds of lists, mappings, texts and numbers.

    Raises InputError; runs nothing.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if path.suffix in (".pkl", ".pickle"):
            with path.open("rb") as file:
                value = _PlainUnpickler(file).load()
        elif path.suffix == ".json":
            value = json.loads(path.read_text(encoding="utf-8-sig"))
        else:
            value = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    except _ForeignObjectError as error:
        raise InputError(
            f"{path}: holds more than a list of texts ({error}); there: json.dump(list(vocab), open('vocab.json', 'w'))"
        ) from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes ask for
        raise InputError(f"{path}: not a readable vocabulary ({_reason(error)})") from None
    return value


def as_words(source: str, value: Any) -> list[str]:
    """A vocabulary, listed or mapped to rows, in the order of its rows. Raises InputError."""
    if isinstance(value, Mapping):
        rows = list(value.values())
        if not all(type(row) is int for row in rows) or sorted(rows) != list(range(len(rows))):
            raise InputError(f"{source}: does not map tokens to the rows 0 to {len(value) - 1}")
        value = sorted(value, key=value.__getitem__)
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(word, str) for word in value):
        raise InputError(f"{source}: is not a list of tokens")
    return list(value)
