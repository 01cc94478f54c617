"""Where a pretrained model is: a folder, the name of an installed package that brings one, or an address of a hub.

A package names its model by an entry point in the group ``ulmfit_fast.models``: ``en = "ulmfit_fast_en"``, a module
beside whose ``__init__.py`` lies the folder ``model``.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.storage.hub_cache import cached_folder, hub_address, hub_folder, is_repository_name

GROUP = "ulmfit_fast.models"


def installed_models() -> dict[str, str]:
    """Names of the installed packages' models, and the module of each."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)}


def find_pretrained(source: str | Path) -> Path:
    """The model folder that ``source`` means.

    Args:
        source: a folder; or a short name such as "en"; or ``hf://owner/name``, fetched from Hugging Face's hub where
            its cache has it not yet; or ``owner/name``, if that cache has it. A folder of the name goes before all
            else.

    Raises:
        InputError: neither is there, the package is damaged, the hub has no such model.
    """
    folder = Path(source)
    if (address := hub_address(source)) is not None and not folder.exists():
        try:
            return hub_folder(*address)
        except ImportError as error:
            raise InputError(f"{source}: {error}") from None
    if folder.exists() or len(folder.parts) != 1 or folder.is_absolute():
        # In a folder that exists it is a path, if a wrong one.
        is_name = not folder.exists() and is_repository_name(source) and not folder.parent.exists()
        return (cached_folder(str(source)) if is_name else None) or folder
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
