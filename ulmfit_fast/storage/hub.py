"""Where a pretrained model is: a folder, or the name of an installed package that brings one.

A package names its model by an entry point in the group ``ulmfit_fast.models``: ``en = "ulmfit_fast_en"``, a module
beside whose ``__init__.py`` lies the folder ``model``.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from ulmfit_fast.core.errors import InputError

GROUP = "ulmfit_fast.models"


def installed_models() -> dict[str, str]:
    """Names of the installed packages' models, and the module of each."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def find_pretrained(source: str | Path) -> Path:
    """The model folder that ``source`` means.

    Args:
        source: a folder; or a short name such as "en". A folder of that name goes before an installed package.

    Raises:
        InputError: neither is there, or the package is damaged.
    """
    folder = Path(source)
    if folder.exists() or len(folder.parts) != 1 or folder.is_absolute():
        return folder
    name, models = str(source), installed_models()
    if name not in models:
        known = f"installed: {', '.join(sorted(models))}" if models else "no model package is installed"
        raise InputError(
            f"{name}: no such model folder, and no installed package brings a model of that name ({known}); give a "
            "folder that pretrain-lm, finetune-lm or import-lm has written, or install one: pip install ./models/en "
            "in the source folder brings en"
        )
    spec = importlib.util.find_spec(models[name])
    if spec is None or spec.origin is None:
        raise InputError(f"{name}: its package {models[name]} cannot be imported; install it again")
    model = Path(spec.origin).parent / "model"
    if not (model / "config.json").exists():
        raise InputError(f"{name}: its package {models[name]} holds no model in {model}; install it again")
    return model
