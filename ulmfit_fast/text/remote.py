"""Texts at addresses such as ``s3://bucket/texts.csv`` or ``https://host/texts.txt.gz``, by fsspec (extra ``remote``).

Files at an address are copied once, and read from the copy like any other: readers go over them several times, and a
.zip or .parquet needs places in any order. An address travels as a ``Path``, in which two slashes become one.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ulmfit_fast.core.errors import InputError, shortened

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(.*)", re.DOTALL)
_WEB = ("http", "https")
_AT_A_TIME = 8 << 20  # bytes
_SILENCE_S = 60.0  # after which a web server that sends nothing is given up


def is_address(path: str | Path) -> bool:
    """Whether it names a place elsewhere: two letters or more, a colon, a slash."""
    return _ADDRESS.match(str(path)) is not None


def shown_path(path: str | Path) -> str:
    """How messages and records name a path: an address with its slashes, without what may be secret in it."""
    found = _ADDRESS.match(str(path))
    if found is None:
        return str(path)
    return re.sub(r"(?<=//)([^/@:]*):[^/@]*@", r"\1:...@", _address(found).partition("?")[0])


def name_of(path: Path) -> str:
    """A path's last part, of which an address's query is none."""
    return PurePosixPath(shown_path(path)).name if is_address(path) else path.name


def copy_texts(path: Path, target: Path, is_text: Callable[[str], bool]) -> None:
    """Copy the file at an address, or the folder there, to a path that does not exist; of a folder what ``is_text``.

    Raises:
        InputError: nothing there, no permission, no network, no fsspec or what it needs for such addresses.
    """
    with _errors_named(path):
        system, place = _system(path)
        if not system.isdir(place):
            _copy(system, place, target)
            return
        target.mkdir()
        for file in sorted(system.find(place)):
            name = PurePosixPath(file).relative_to(PurePosixPath(place))
            if ".." in name.parts or not is_text(name.name):
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(system, file, target / name)
        if not any(target.iterdir()):
            raise InputError("the folder holds no .txt files")


def has_file(path: Path, name: str) -> bool:
    """Whether the folder at an address has a file. InputError as ``copy_texts``."""
    with _errors_named(path):
        system, place = _system(path)
        return bool(system.isfile(f"{place.rstrip('/')}/{name}"))


def copy_file(folder: Path, name: str, target: Path) -> None:
    """Copy one file of the folder at an address. InputError as ``copy_texts``."""
    with _errors_named(folder / name):
        system, place = _system(folder)
        _copy(system, f"{place.rstrip('/')}/{name}", target)


def head_of(folder: Path, name: str, count: int) -> bytes:
    """The first bytes of one file of the folder at an address. InputError as ``copy_texts``."""
    with _errors_named(folder / name):
        system, place = _system(folder)
        return bytes(system.cat_file(f"{place.rstrip('/')}/{name}", start=0, end=count))


def _address(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    return f"{scheme}:///{rest.lstrip('/')}" if scheme.lower() == "file" else f"{scheme}://{rest}"


def _system(path: Path) -> tuple[Any, str]:
    """The file system of an address, and the place there."""
    found = _ADDRESS.match(str(path))
    assert found is not None
    address = _address(found)
    if "::" in address:
        raise InputError("addresses within addresses (::) are not read; give the file's own")
    if "@" in (user := found.group(2).split("/")[0]) and ":" in user.split("@")[0]:
        raise InputError("an address must hold no password; give it to fsspec by its configuration or the environment")
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError:
        raise InputError(
            "reading from addresses needs fsspec, and one package more for each kind: pip install fsspec, and aiohttp "
            "(https://), s3fs (s3://), gcsfs (gs://) or adlfs (az://)"
        ) from None
    options: dict[str, Any] = {}
    if found.group(1).lower() in _WEB:
        with contextlib.suppress(ImportError):  # fsspec says what is missing
            aiohttp = importlib.import_module("aiohttp")
            options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_S)}
    system, place = fsspec.core.url_to_fs(address, **options)
    return system, place


def _copy(system: Any, place: str, target: Path) -> None:
    """Also checks that all has come."""
    with system.open(place, "rb") as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, _AT_A_TIME)
    size = system.info(place).get("size")
    if size is not None and size != target.stat().st_size:
        raise InputError(f"has {size:,} bytes, of which {target.stat().st_size:,} came; it changes, or was cut off")


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Whatever goes wrong at an address as an InputError: file systems raise errors of many classes."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{shown_path(path)}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{shown_path(path)}: no such file or folder") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputError(f"{shown_path(path)}: cannot be read ({shortened(_without_queries(reason), 300)})") from None


def _without_queries(text: str) -> str:
    return re.sub(r"\?[^\s'\")]*", "?...", text)
