"""A corpus of token ids in several files: each is written, checked and read by itself.

The file that stands for the corpus is then a manifest, JSON with the shards' names, sizes and checksums. A shard is a
token file (``text.token_file``): of its ids a process loads and checks those that it reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.text.token_file import TokenFile, write_token_file

_FORMAT = "ulmfit_fast token shards"
_VERSION = 1
_LARGEST_MANIFEST = 64 << 20  # bytes
_AGAIN = "tokenize again: ulmfit-fast tokenize --overwrite"


class ShardedTokens:
    """Several token files, one after the other, as one corpus.

    Args:
        path: the manifest, which ``write_shards`` wrote.

    Raises:
        InputError: no manifest, or an altered one; a shard that is missing, altered or of another run; on reading, too.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = _read_manifest(self.path)
        self.source: dict[str, Any] = manifest["source"]
        self.shards: list[TokenFile] = []
        self.checksum = 0
        for entry in manifest["shards"]:
            shard = TokenFile(self.path.parent / entry["file"])
            if (shard.checksum, int(shard.offsets[-1])) != (entry["checksum"], entry["tokens"]):
                raise InputError(f"{shard.path}: not the shard that {self.path.name} names; {_AGAIN}")
            self.shards.append(shard)
            self.checksum = zlib.crc32(repr((entry["checksum"], entry["tokens"])).encode(), self.checksum)
        vocabularies = {shard.vocabulary for shard in self.shards}
        if len(vocabularies) != 1:
            raise InputError(f"{self.path}: its shards have {len(vocabularies)} vocabularies, not one; {_AGAIN}")
        self.vocabulary: int = vocabularies.pop()
        self._begins = np.concatenate([[0], np.cumsum([int(shard.offsets[-1]) for shard in self.shards])])
        parts = [shard.offsets[1:] + begin for shard, begin in zip(self.shards, self._begins, strict=False)]
        self.offsets: np.ndarray = np.concatenate([np.zeros(1, np.int64), *parts])

    def read(self, start: int, stop: int) -> np.ndarray:
        first = int(np.searchsorted(self._begins, start, side="right")) - 1
        pieces = []
        for shard, begin in zip(self.shards[first:], self._begins[first:], strict=False):
            if begin >= stop:
                break
            pieces.append(shard.read(max(start - int(begin), 0), min(stop - int(begin), int(shard.offsets[-1]))))
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.int32), *pieces])


def shard_names(path: Path) -> list[str]:
    """The files that a manifest names; none where the path is that of a token file. InputError as both."""
    return [entry["file"] for entry in _read_manifest(path)["shards"]] if _is_manifest(path) else []


def open_tokens(path: Path) -> TokenFile | ShardedTokens:
    """A token file, or the shards that a manifest names. InputError as both."""
    return ShardedTokens(path) if _is_manifest(path) else TokenFile(path)


def _is_manifest(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def write_shards(
    path: Path, pieces: Iterable[tuple[int, Iterator[np.ndarray]]], vocabulary: int, source: dict[str, Any]
) -> ShardedTokens:
    """Write a corpus shard by shard, then its manifest. What an interrupted call has finished is kept.

    Args:
        path: of the manifest; shards lie beside it, as ``NAME.00000.tokens``.
        pieces: of each shard a checksum of its texts, and each document's ids, which are not asked for where the shard
            is there already.
        vocabulary: number of ids.
        source: what the ids are made from; a shard of another source is replaced.
    """
    entries: list[dict[str, Any]] = []
    for number, (texts, ids) in enumerate(pieces):
        shard = write_shard(path, number, texts, ids, vocabulary, source)
        tokens, documents = int(shard.offsets[-1]), len(shard.offsets) - 1
        entries.append({"file": shard.path.name, "tokens": tokens, "documents": documents, "checksum": shard.checksum})
    body = {"format": _FORMAT, "version": _VERSION, "source": source, "shards": entries}
    write_atomically(path, json.dumps(body | {"crc": _crc(body)}, indent=1) + "\n")
    remove_shards(path, {entry["file"] for entry in entries})
    return ShardedTokens(path)


def write_shard(
    path: Path, number: int, texts: int, ids: Iterator[np.ndarray], vocabulary: int, source: dict[str, Any]
) -> TokenFile:
    """One shard of the manifest at ``path``, which need not be there; arguments as of ``write_shards``.

    Raises:
        InputError: another run is writing it.
    """
    shard_path = path.with_name(f"{path.stem}.{number:05}{path.suffix}")
    of_shard = source | {"shard": [number, texts]}
    if (found := _found(shard_path, of_shard)) is not None:
        return found
    lock = path.with_name(f".{shard_path.name}.lock")
    try:
        with locked_folder(lock):
            return _found(shard_path, of_shard) or write_token_file(shard_path, ids, vocabulary, of_shard)
    finally:
        with contextlib.suppress(OSError):  # left by a run that was killed; still held where this was refused
            lock.rmdir()


def remove_shards(path: Path, kept: Iterable[str] = ()) -> None:
    """Remove the shards of a manifest, all but those that are kept."""
    kept = set(kept)
    for other in path.parent.glob(f"{path.stem}.[0-9][0-9][0-9][0-9][0-9]{path.suffix}"):
        if other.name not in kept:
            other.unlink()


def in_shards(texts: Iterable[str], shard_bytes: int) -> Iterator[tuple[int, list[str]]]:
    """Texts in groups of about so many bytes of UTF-8, each with a checksum."""
    group: list[str] = []
    size = check = 0
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        group.append(text)
        size, check = size + len(data), zlib.crc32(data, zlib.crc32(str(len(data)).encode(), check))
        if size >= shard_bytes:
            yield check, group
            group, size, check = [], 0, 0
    if group:
        yield check, group


def _found(path: Path, source: dict[str, Any]) -> TokenFile | None:
    """The shard, if it is there, whole, and made of just this."""
    if not path.exists():
        return None
    try:
        shard = TokenFile(path)
        shard.read(0, int(shard.offsets[-1]))  # against its checksums
    except InputError:
        return None
    return shard if shard.source == json.loads(json.dumps(source)) else None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise InputError(f"{path}: too large for a manifest of token shards; {_AGAIN}")
        manifest = json.loads(path.read_bytes())
        body = {key: value for key, value in manifest.items() if key != "crc"}
        if manifest["format"] != _FORMAT or manifest["version"] != _VERSION:
            raise InputError(f"{path}: a manifest of another version ({manifest['version']}); {_AGAIN}")
        if manifest["crc"] != _crc(body):
            raise InputError(f"{path}: altered: it does not fit its checksum; {_AGAIN}")
        names = [entry["file"] for entry in body["shards"]]
        if any(os.path.basename(name) != name for name in names):
            raise InputError(f"{path}: names shards outside its folder; {_AGAIN}")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a manifest of token shards, or a truncated one; {_AGAIN}") from None
    return body


def _crc(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
