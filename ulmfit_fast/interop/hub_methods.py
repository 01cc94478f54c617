"""The hub's methods for what can be saved to a folder and loaded from one; the extra ``hub`` is imported at a call."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self

from ulmfit_fast.storage.hub_cache import hub_folder


class HubMethods:
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` by a class's own ``save`` and ``load``."""

    def save_pretrained(self, folder: str | Path, *, overwrite: bool = False, **about: Any) -> None:
        """``save``, with a README.md as hubs show it.

        Args:
            folder, overwrite: as ``save``.
            about: for the README.md: training_data, scores, license, name (``interop.model_card.model_card``).
        """
        from ulmfit_fast.core.atomic_write import write_atomically
        from ulmfit_fast.interop.model_card import model_card

        self.save(folder, overwrite)  # type: ignore[attr-defined]
        write_atomically(Path(folder) / "README.md", model_card(Path(folder), **about))

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **options: Any) -> Self:
        """``load`` from a folder, or from the hub or its cache.

        Args:
            source: a folder, or "owner/name".
            revision: of the repository; None: main.
            options: token, cache_dir, local_files_only, force_download of the hub; device of ``load``.

        Raises:
            InputError: neither a folder nor a repository with a model; with HF_HUB_OFFLINE=1, one not in the cache.
            ImportError: huggingface_hub is missing.
        """
        loading = {name: options.pop(name) for name in ("device",) if name in options}
        folder = Path(source) if Path(source).is_dir() else hub_folder(_name(source), revision, **options)
        loaded: Self = cls.load(folder, **loading)  # type: ignore[attr-defined]
        return loaded

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **about: Any) -> str:
        """Send the model to the hub, with a card. Returns the commit's address.

        Args:
            repo_id: "owner/name"; made where it does not exist.
            private: whether others cannot see it.
            token: of the owner; None: that of ``hf auth login`` or HF_TOKEN.
            about: for the card, as ``save_pretrained``.
        """
        from ulmfit_fast.interop.hub import push_to_hub

        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "model")  # type: ignore[attr-defined]
            return push_to_hub(Path(folder) / "model", repo_id, private=private, token=token, **about)


def _name(source: str | Path) -> str:
    return str(source).removeprefix("hf://").removeprefix("hf:/")
