"""A training run's whole state in one file, from which it goes on to the same bits: ``checkpoint.safetensors``.

Tensors stand in the file by path; everything else is JSON in its header. Each tensor and the JSON have a checksum. No
pickle is written or read.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ulmfit_fast.core.atomic_write import errors_name
from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.storage.tensor_file import read_tensors

CHECKPOINT = "checkpoint.safetensors"
_VERSION = "3"
_ITEMS, _TENSOR = "__items__", "__tensor__"


def save_state(folder: str | Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, strings and None, under a temporary name first."""
    path = Path(os.path.realpath(Path(folder) / CHECKPOINT))  # through a link
    tensors: dict[str, Tensor] = {}
    facts = json.dumps(_encode(state, "", tensors))
    checks = json.dumps({name: _checksum(tensor) for name, tensor in tensors.items()})
    metadata = {
        "version": _VERSION, "facts": facts, "checks": checks, "crc": str(zlib.crc32((facts + checks).encode())),
    }  # fmt: skip
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with errors_name(path), temporary.open("wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # the umask's; the library's own would be 0600
            if not _is_utf8(temporary):  # the library takes no such name: by way of memory
                file.write(safetensors.torch.save(tensors, metadata))
        if _is_utf8(temporary):
            safetensors.torch.save_file(tensors, temporary, metadata)
            temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except safetensors.SafetensorError as error:  # of the file system, mostly
        number = re.search(r"\(os error (\d+)\)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, f"the checkpoint cannot be written ({shortened(error)})", str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def load_state(folder: str | Path) -> dict[str, Any] | None:
    """What ``save_state`` wrote; None where there is nothing.

    Raises:
        InputError: the file cannot be read, is truncated, altered, or of another version.
    """
    path = Path(folder) / CHECKPOINT
    if not path.exists():
        return None
    remedy = "delete it to start the run again"
    try:
        tensors, metadata = read_tensors(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: truncated or damaged ({shortened(error)}); {remedy}") from None
    if metadata.get("version") != _VERSION:
        raise InputError(f"{path}: not a checkpoint of this version of ulmfit_fast; {remedy}")
    facts, checks = metadata.get("facts", ""), metadata.get("checks", "")
    if str(zlib.crc32((facts + checks).encode())) != metadata.get("crc"):
        raise InputError(f"{path}: altered: its header does not fit its checksum; {remedy}")
    expected = json.loads(checks)
    if set(expected) != set(tensors):
        raise InputError(f"{path}: altered: its tensors are not those it was written with; {remedy}")
    for name, tensor in tensors.items():
        if _checksum(tensor) != expected[name]:
            raise InputError(f"{path}: altered: {name} does not fit its checksum; {remedy}")
    state: dict[str, Any] = _decode(json.loads(facts), tensors)
    return state


def _is_utf8(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def checksum(state: dict[str, Tensor]) -> int:
    """A checksum of a state dict: of names, types, shapes and bits."""
    result = 0
    for name, tensor in state.items():
        result = zlib.crc32(f"{name} {_checksum(tensor)}".encode(), result)
    return result


def _checksum(tensor: Tensor) -> int:
    kind = f"{tensor.dtype} {list(tensor.shape)}"
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return zlib.crc32(data, zlib.crc32(kind.encode()))


def _encode(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # Two names for one memory would be refused.
        tensors[path] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {_TENSOR: path}
    if isinstance(value, dict):
        return {_ITEMS: [[k, _encode(v, f"{path}/{k}" if path else str(k), tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_encode(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"save_state: {path} is a {type(value).__name__}; expected tensors, numbers, strings and None")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {k: _decode(v, tensors) for k, v in value[_ITEMS]}
    return value
