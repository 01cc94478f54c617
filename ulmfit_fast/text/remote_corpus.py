"""Corpus folders at addresses: copied to a folder of this machine, as token files are read in pieces from any place.

The copy is kept in ``ULMFIT_FAST_CACHE`` (by default ``~/.cache/ulmfit_fast``) for the next run. A token file that is
there already is not copied again; one begun and not finished is. Several processes may copy at once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.inputs import tells_kind
from ulmfit_fast.text.remote import copy_file, has_file, head_of, is_address, shown_path
from ulmfit_fast.text.shards import shard_names
from ulmfit_fast.text.token_file import HEADER_BYTES, MAGIC

_TRAIN, _VALID, _TOKENIZER = "train.tokens", "valid.tokens", "tokenizer.json"


def is_corpus(path: Path) -> bool:
    """Whether a path is that of a corpus folder, here or at an address. Raises InputError where that cannot be told."""
    if is_address(path):
        return not tells_kind(path) and has_file(path, _TRAIN)
    return (path / _TRAIN).exists()


def local_corpus(path: Path) -> Path:
    """The folder itself, or the copy of the one at an address.

    Raises:
        InputError: no corpus there, no network, no fsspec; the cache cannot be written.
    """
    if not is_address(path):
        return path
    folder = cache_folder() / "corpora" / hashlib.sha256(shown_path(path).encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (_TOKENIZER, _TRAIN):
            _copy(path, name, folder)
        for name in shard_names(folder / _TRAIN):
            _copy(path, name, folder)
        if has_file(path, _VALID):
            _copy(path, _VALID, folder)
    except OSError as error:
        raise InputError(
            f"{shown_path(path)}: cannot be copied to {folder} ({error.strerror or error}); ULMFIT_FAST_CACHE names "
            "another folder"
        ) from None
    return folder


def cache_folder() -> Path:
    """Where copies are kept."""
    given = os.environ.get("ULMFIT_FAST_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ulmfit_fast"


def _copy(path: Path, name: str, folder: Path) -> None:
    """One file, under a temporary name first. A token file's header: equal ones, equal files."""
    target = folder / name
    if target.exists():
        with target.open("rb") as file:
            head = file.read(HEADER_BYTES)
        if head.startswith(MAGIC) and head == head_of(path, name, HEADER_BYTES):
            return
    number, partial = tempfile.mkstemp(prefix=f".{name}.", suffix=".partial", dir=folder)
    os.close(number)
    try:
        copy_file(path, name, Path(partial))
        os.replace(partial, target)
    finally:
        Path(partial).unlink(missing_ok=True)
