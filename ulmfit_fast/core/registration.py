"""The ops exist as soon as torch and this package are both imported, and torch is not imported for their sake.

A saved program (``torch.export``, AOTInductor, ``torch.jit``) names the ops, and torch finds them only once they are
registered. What only reads text (the command's start, the processes that tokenize) must not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_ops_with_torch() -> None:
    """Register the ops now, where torch is imported already, else directly after torch's import."""
    if "torch" in sys.modules:
        importlib.import_module("ulmfit_fast.ops")
    else:
        sys.meta_path.insert(0, _AfterTorch())


class _AfterTorch(MetaPathFinder):
    """Finds torch where the other finders do, and registers the ops when it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torch":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:  # not installed: Python says so
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            del loader.exec_module  # the class's own again
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            try:
                importlib.import_module("ulmfit_fast.ops")
            except ImportError as error:  # no reason to take torch away; whatever needs the ops will raise it again
                warnings.warn(str(error), stacklevel=2)

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
