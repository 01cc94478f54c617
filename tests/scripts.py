"""The scripts of tools/, which are no package, as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def script(name: str) -> ModuleType:
    """The module ``tools/NAME.py``. Skips the test file where the installed package is tested without its sources."""
    path = TOOLS / f"{name}.py"
    if not path.exists():
        pytest.skip("the sources' tools/ are not here", allow_module_level=True)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
