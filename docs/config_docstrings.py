"""For the API reference: what the configurations' decorator adds to their docstrings, and the fields' own defaults."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from griffe import Attribute, Class, Docstring, ExprCall, Extension


class ConfigDocstrings(Extension):
    def on_attribute_instance(self, *, attr: Attribute, **kwargs: Any) -> None:
        value = attr.value
        if isinstance(value, ExprCall) and str(value.function) == "setting":
            attr.value = value.arguments[0]

    def on_class(self, *, cls: Class, **kwargs: Any) -> None:
        if any(str(decorator.value) == "documented" for decorator in cls.decorators):
            made = getattr(import_module(cls.module.path), cls.name)
            cls.docstring = Docstring(inspect.getdoc(made) or "", parent=cls, parser="google")
