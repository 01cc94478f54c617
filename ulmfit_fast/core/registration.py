"""The ops exist as soon as torch and this package are both imported, and torch is not imported for their sake.

A saved program (``torch.export``, AOTInductor, ``torch.jit``) names the ops, and torch finds them only once they are
registered. What only reads text (the command's start, the processes that tokenize) must not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register_ops_with_torch() -> None:
    """Register the ops now, where torch is imported already, else directly after torch's import."""
    if "torch" in sys.modules:
        importlib.import_module("ulmfit_fast.ops")
    else:
        sys.meta_path.insert(0, _AfterTorch())


class _AfterTorch(MetaPathFinder):
    """Finds torch where the other finders do, and has the ops registered once it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:  # else it is not installed, which Python says
            spec.loader = _ThenRegister(spec.loader, self)
        return spec


class _ThenRegister(Loader):
    """Torch's own loader, to which the module belongs again before it is executed."""

    def __init__(self, loader: Loader, finder: MetaPathFinder) -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        try:
            importlib.import_module("ulmfit_fast.ops")
        except ImportError as error:  # no reason to take torch away; whatever needs the ops will raise it again
            warnings.warn(str(error), stacklevel=2)
