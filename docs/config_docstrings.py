"""For the API reference: the configurations' docstrings, whose fields a decorator adds when they are imported."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from griffe import Class, Docstring, Extension


class ConfigDocstrings(Extension):
    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        if any("documented" in str(decorator.value) for decorator in cls.decorators):
            made = getattr(import_module(cls.module.path), cls.name)
            cls.docstring = Docstring(inspect.getdoc(made) or "", parent=cls, parser="google")
