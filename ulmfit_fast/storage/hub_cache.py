"""Model folders in Hugging Face's hub and in its cache on this machine. Needs the extra ``hub``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ulmfit_fast.core.errors import InputError, shortened

# What of a repository is a model's; nothing else is fetched or sent.
MODEL_FILES = ("config.json", "labels.json", "model.safetensors", "tokenizer.json", "training_args.json")
RECORDS = ("history.jsonl", "curves.png", "README.md")
_NAME = r"[A-Za-z0-9][\w.-]*"
_ADDRESS = re.compile(rf"hf:/{{1,2}}({_NAME}/{_NAME})(?:@([\w./-]+))?")  # a Path has one slash where two were


def hub_address(source: str | Path) -> tuple[str, str | None] | None:
    """Repository and revision of ``hf://owner/name@revision``; None for anything else."""
    match = _ADDRESS.fullmatch(str(source))
    return (match[1], match[2]) if match else None


def is_repository_name(source: str | Path) -> bool:
    """Whether it reads ``owner/name``."""
    return re.fullmatch(f"{_NAME}/{_NAME}", str(source)) is not None


def hub_folder(repo_id: str, revision: str | None = None, **options: Any) -> Path:
    """A repository's model folder in the cache, fetched where it is not there yet.

    With HF_HUB_OFFLINE=1, or ``local_files_only=True``, nothing is fetched. HF_HOME and HF_HUB_CACHE say where the
    cache is, HF_TOKEN who asks.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or commit; None: main.
        options: of ``huggingface_hub.snapshot_download``: cache_dir, token, local_files_only, force_download.

    Raises:
        ImportError: huggingface_hub is missing.
        InputError: no such repository, no way to the hub and nothing in the cache, or no model of this package.
    """
    hub = import_hub()
    patterns = [f"{folder}{name}" for folder in ("", "forward/", "backward/") for name in (*MODEL_FILES, *RECORDS)]
    try:
        folder = Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns, **options))
    except Exception as error:  # of the network, of the hub's answers, of the cache: of many classes
        raise InputError(f"hf://{repo_id}: cannot be had from the hub or its cache ({shortened(error, 300)})") from None
    if not (folder / "config.json").exists():
        raise InputError(f"hf://{repo_id}: holds no model of ulmfit_fast: config.json is missing")
    return folder


def cached_folder(repo_id: str) -> Path | None:
    """A repository's model folder if the cache has it; nothing is fetched. None also without huggingface_hub."""
    try:
        return hub_folder(repo_id, local_files_only=True)
    except (ImportError, InputError):
        return None


def import_hub() -> Any:
    """``huggingface_hub``. Raises ImportError that says what to install."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "models of a hub need huggingface_hub, which is not installed; in ulmfit_fast's source folder: "
            "pip install --no-build-isolation '.[hub]'"
        ) from error
    return huggingface_hub
