"""Folders from which a program predicts without this package: a graph, ``tokenizer.json``, the text rules, the labels.

============================ =================================================================================
``model.onnx``               or ``model.pt2``: token ids and lengths to probabilities (``interop.deployed``)
``tokenizer.json``           of the library ``tokenizers``: adds ``xxbos`` at the beginning, pads at the end
``text_rules/``              Python, for tokenizers of words: what a text goes through before ``tokenizer.json``
``classifier.json``          task, labels, and how probabilities become a prediction; written last
============================ =================================================================================

The library cannot express the text rules: marks count repetitions and look at the case that they then remove. So the
rules come along as the source they are, which needs Python's standard library alone.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import tokenizers
from tokenizers import processors

from ulmfit_fast.core.atomic_write import write_all_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.interrupt import uninterrupted
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.interop.aot_inductor import package_bytes
from ulmfit_fast.interop.deployed import DeployedClassifier
from ulmfit_fast.interop.onnx import LOWEST_OPSET, onnx_bytes
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.text import character_forms, rules, rules_v1
from ulmfit_fast.text.rules import BOS, PAD
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.trained import TrainedClassifier

DESCRIPTION = "classifier.json"
_FORMAT = {"format": "ulmfit_fast deployed classifier", "version": 1}
_RULES = "text_rules"
_SOURCES = {1: (rules_v1, rules, character_forms), 2: (rules, character_forms)}  # by version; the first has apply_rules
_GRAPHS = ("model.onnx", "model.pt2")


def save_onnx(
    folder: str | Path, classifiers: TrainedClassifier | Sequence[TrainedClassifier], *, int8: bool = False,
    opset: int = LOWEST_OPSET, overwrite: bool = False,
) -> None:  # fmt: skip
    """Write a folder with ``model.onnx``, from which onnxruntime predicts (``examples/predict_without_torch.py``).

    Args:
        folder: made where it does not exist.
        classifiers: one; or one of each direction, which become one graph that gives the mean.
        int8, opset: as ``export_onnx``.
        overwrite: replace what an earlier export wrote there.

    Raises:
        InputError: the folder cannot be used, and as ``DeployedClassifier`` and ``export_onnx``.
        ImportError: onnx or onnxscript is missing.
    """
    model, more = DeployedClassifier(classifiers, "save_onnx"), {"precision": "int8" if int8 else "float32"}
    _save(folder, model, "model.onnx", lambda model: onnx_bytes(model, opset, int8), more, overwrite)


def save_aot_inductor(
    folder: str | Path, classifiers: TrainedClassifier | Sequence[TrainedClassifier], *, overwrite: bool = False
) -> None:
    """Write a folder with ``model.pt2``, for torch with ``ulmfit_fast.ops`` imported (``aot_inductor``).

    Args and errors as ``save_onnx``; a C++ compiler is needed.
    """
    model = DeployedClassifier(classifiers, "save_aot_inductor")
    _save(folder, model, "model.pt2", package_bytes, {"precision": "float32"}, overwrite)


def _save(
    folder: str | Path, model: DeployedClassifier, graph: str, write: Callable[[DeployedClassifier], bytes],
    more: dict[str, str], overwrite: bool,
) -> None:  # fmt: skip
    folder = _check_folder(Path(folder), overwrite)
    task, tokenizer = model.tasks[0], model.tokenizer  # of several directions the first decides, as in predict
    if not tokenizer.takes_parts:
        raise InputError(
            f"{folder}: {tokenizer.described} has no form that other programs read; export classifiers with the "
            "tokenizer word, subword or whitespace"
        )
    version = tokenizer.rules_version if tokenizer.uses_rules else None
    about = _FORMAT | {
        "graph": graph, **more, "output": model.output_name, "task": task.type, "labels": list(task.labels),
        **task.decision(), "text_rules": version,
    }  # fmt: skip
    contents: dict[str, str | bytes] = {graph: write(model), "tokenizer.json": tokenizer_json(tokenizer)}
    if version is not None:
        contents |= {f"{_RULES}/{name}": source for name, source in rules_sources(version).items()}
    contents[DESCRIPTION] = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    with locked_folder(folder), uninterrupted():
        _check_folder(folder, overwrite)
        if version is not None:
            (folder / _RULES).mkdir(exist_ok=True)
        try:
            staged = {f"{name}.new": content for name, content in contents.items()}
            write_all_atomically(folder, staged)
            _remove_export(folder)
            for name in contents:
                (folder / f"{name}.new").replace(folder / name)
        finally:
            for name in contents:
                (folder / f"{name}.new").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # there, and it holds something
                (folder / _RULES).rmdir()


def _check_folder(folder: Path, overwrite: bool) -> Path:
    check_output_folder(folder, overwrite=True)
    if (folder / "config.json").exists():
        raise InputError(f"{folder}: holds a model, whose tokenizer.json is another; choose another folder")
    if (folder / DESCRIPTION).exists() and not overwrite:
        raise InputError(f"{folder}: already holds an exported classifier; choose another folder or pass --overwrite")
    return folder


def _remove_export(folder: Path) -> None:
    """What an earlier export left, ``classifier.json`` first: without it a folder holds none."""
    names = [DESCRIPTION, *_GRAPHS, "tokenizer.json"]
    names += [f"{_RULES}/{name}" for version in _SOURCES for name in ("__init__.py", *map(_file_of, _SOURCES[version]))]
    for name in names:
        (folder / name).unlink(missing_ok=True)


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """A ``tokenizer.json`` for the library alone: it puts ``xxbos`` before each text and pads a batch at its end."""
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_id)])
    backend.enable_padding(pad_id=tokenizer.pad_id, pad_token=PAD)
    return str(backend.to_str())


def rules_sources(version: int) -> dict[str, str]:
    """Files of a Python package ``text_rules`` whose ``prepare(text)`` is what ``tokenizer.json`` takes.

    They are the modules of ``ulmfit_fast.text`` themselves, importing each other from beside them.
    """
    modules = _SOURCES[version]
    name = _file_of(modules[0]).removesuffix(".py")
    about = (
        f'"""The text rules of ulmfit_fast, version {version}: ``prepare(text)`` is what tokenizer.json takes.\n\n'
        "Copied from ulmfit_fast (Apache License 2.0) as this folder was written; needs nothing of it.\n"
        f'"""\n\nfrom .rules import encodable\nfrom .{name} import apply_rules\n\n\n'
        "def prepare(text):\n    return apply_rules(encodable(text))\n"
    )
    local = {
        _file_of(module): re.sub(r"^from ulmfit_fast\.text(\.|(?= ))", "from .", inspect.getsource(module), flags=re.M)
        for module in modules
    }
    return {"__init__.py": about, **local}


def _file_of(module: object) -> str:
    return module.__name__.rpartition(".")[2] + ".py"  # type: ignore[attr-defined]
