"""Model folders as models of Hugging Face's hub. Needs the extra ``hub``; imported where it is used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.interop.model_card import TAGS, model_card
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.hub_cache import MODEL_FILES, RECORDS, hub_folder, import_hub
from ulmfit_fast.storage.model_folder import SEVERAL_TABLES, read_config
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.storage.several_tables import tables_of

import_hub()  # or an error that says what to install

from huggingface_hub import ModelCard, ModelHubMixin  # noqa: E402


class HubModel(ModelHubMixin, library_name="ulmfit_fast", tags=list(TAGS)):
    """A model folder with the hub's methods: ``push_to_hub``, ``save_pretrained``, ``from_pretrained``.

    >>> HubModel("clf/").push_to_hub("me/reviews", private=True)
    >>> clf = ULMFiTClassifier.load(HubModel.from_pretrained("me/reviews").folder)

    Args:
        folder: of a language model or a classifier, or of both directions.

    Raises:
        InputError: it is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if read_config(self.folder)["kind"] == SEVERAL_TABLES:
            names = ", ".join(tables_of(self.folder))
            raise InputError(f"{folder}: holds classifiers of several tables; give one of its folders: {names}")
        self._hub_mixin_config = None  # it is the folder's own

    def save_pretrained(self, save_directory: str | Path, *, overwrite: bool = False, **options: Any) -> str | None:
        """Write the model and its README.md into another folder.

        Args:
            save_directory: made where it does not exist.
            overwrite: replace the model that it holds.
            options: of ``ModelHubMixin.save_pretrained``: push_to_hub, repo_id, model_card_kwargs.

        Raises:
            InputError: it holds a model already, or is this model's own folder.
        """
        target = Path(save_directory)
        if target.exists() and os.path.samefile(target, self.folder):
            raise InputError(f"{target}: is the model's own folder; give another")
        if target.absolute().parent.is_dir():  # push_to_hub's is made here
            check_output_folder(target, overwrite)
        answer: str | None = super().save_pretrained(target, **options)
        return answer

    def _save_pretrained(self, save_directory: Path) -> None:
        parts = [(member, member.relative_to(self.folder)) for member in members(self.folder)]
        names = (*MODEL_FILES, *(name for name in RECORDS if name != "README.md"))
        for name in names:
            (save_directory / name).unlink(missing_ok=True)
        for member, place in parts:
            (save_directory / place).mkdir(exist_ok=True)
            for name in names[1:]:
                if (member / name).is_file():
                    shutil.copyfile(member / name, save_directory / place / name)
        for place in {Path(), *(place for _, place in parts)}:  # last: without it a folder is no model
            shutil.copyfile(self.folder / place / "config.json", save_directory / place / "config.json")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, revision: str | None = None, **options: Any) -> HubModel:
        if Path(model_id).is_dir():
            return cls(Path(model_id))
        known = ("cache_dir", "force_download", "local_files_only", "token")
        return cls(hub_folder(model_id, revision, **{name: options[name] for name in known if name in options}))

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Send the model and its card; the card names the repository. Options of ``ModelHubMixin.push_to_hub``."""
        about = {"name": repo_id} | (options.pop("model_card_kwargs", None) or {})
        return super().push_to_hub(repo_id, model_card_kwargs=about, **options)

    def generate_model_card(self, *_: Any, **about: Any) -> ModelCard:
        """``model_card`` of the folder; arguments are its own."""
        return ModelCard(model_card(self.folder, **about))


def push_to_hub(source: str | Path, repo_id: str, *, private: bool | None = None, token: str | None = None,
                **about: Any) -> str:  # fmt: skip
    """Send a model folder to the hub, with a card.

    Args:
        source: as ``find_pretrained`` takes it.
        repo_id: "owner/name"; made where it does not exist.
        private: whether others cannot see it.
        token: of the owner; None: that of ``hf auth login`` or HF_TOKEN.
        about: for the card: training_data, scores, license (``model_card``).

    Returns:
        The commit's address.
    """
    sent = HubModel(find_pretrained(source)).push_to_hub(repo_id, private=private, token=token, model_card_kwargs=about)
    return str(sent)
