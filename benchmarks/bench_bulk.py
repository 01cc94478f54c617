"""A million short rows through `ulmfit-fast predict`: rows a second, and the memory of all its processes as it goes.

Beside it fastai's ``Learner.get_preds`` with the same weights on some of the rows, which it holds as token ids from the
beginning: reading, tokenizing and writing are not in its time, but are in ours.

`python -m benchmarks.bench_bulk --rows 1000000` prints the table; `--paper` takes the model of the paper's sizes.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.conftest import SMOKE, machine_facts
from benchmarks.served_models import PAPER, SMALL, made_texts, write_model
from ulmfit_fast.inference.classifiers import Classifiers

TITLES = ["work", "rows", "seconds", "rows/s", "MB at 25, 50, 75, 100 % of the time", "over fastai"]
_PIECE = 50_000  # rows that are made at a time


def write_rows(path: Path, rows: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for first in range(0, rows, _PIECE):
            texts = made_texts(min(_PIECE, rows - first), seed=first)
            writer.writerows((first + place, text) for place, text in enumerate(texts))


def family_megabytes(process: int) -> float:
    """What a process and its children hold, each its own share of what they have together (PSS)."""
    total = 0
    for each in [process, *_children(process)]:
        try:
            fields = Path(f"/proc/{each}/smaps_rollup").read_text().split("Pss:")[1].split()
            total += int(fields[0])
        except (OSError, IndexError):  # it has ended
            continue
    return total / 1024


def _children(process: int) -> Iterator[int]:
    try:
        found = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return
    for child in found:
        yield child
        yield from _children(child)


def by_command(source: Path, folder: Path, output: Path, *options: str) -> tuple[float, list[float]]:
    """Seconds, and megabytes about once a second."""
    command = ["ulmfit_fast", "predict", str(source), "--model", str(folder), "--output", str(output), "--overwrite"]
    start, seen = time.perf_counter(), []
    with subprocess.Popen([sys.executable, "-m", *command, *options], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.05 if SMOKE else 1.0)
            seen.append(family_megabytes(process.pid))
    assert process.returncode == 0
    return time.perf_counter() - start, [megabytes for megabytes in seen if megabytes] or [0.0]


def by_fastai(folder: Path, sizes: tuple[int, int, int], texts: list[str], batch_size: int = 64) -> tuple[float, float]:
    """Seconds of ``get_preds``, and how far its probabilities are from ours on the first texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.callback.rnn import ModelResetter, RNNCallback
        from fastai.data.core import DataLoaders
        from fastai.learner import Learner
        from fastai.losses import CrossEntropyLossFlat
        from fastai.text.data import SortedDL, TensorText, pad_input_chunk
        from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
        from fastai.text.models.core import get_text_classifier
    classifiers = Classifiers.load([folder])
    model, tokenizer, _ = classifiers.members[0]
    embedding, units, layers = sizes
    config = awd_lstm_clas_config | {"emb_sz": embedding, "n_hid": units, "n_layers": layers}
    theirs = get_text_classifier(AWD_LSTM, len(tokenizer), 2, seq_len=72, config=config, max_len=20 * 72)
    theirs.load_state_dict(_as_fastai(model.state_dict(), theirs.state_dict()))
    items = [(TensorText(torch.from_numpy(ids).long()), torch.tensor(0)) for ids in tokenizer.encode(texts)]
    pad = partial(pad_input_chunk, pad_idx=1, seq_len=72)
    loader = SortedDL(items, bs=batch_size, num_workers=0, before_batch=pad)
    learner = Learner(DataLoaders(loader, loader), theirs, CrossEntropyLossFlat(), cbs=[ModelResetter(), RNNCallback()])
    start = time.perf_counter()
    probabilities = learner.get_preds(dl=loader)[0]
    seconds = time.perf_counter() - start
    ours = classifiers.activated(texts[:64])
    return seconds, float(np.abs(probabilities[:64].numpy() - ours).max())


def _as_fastai(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name in theirs:
        if name.startswith("1."):  # the head: two blocks of BatchNorm, dropout, linear, the first with a ReLU
            _, _, block, layer, field = name.split(".")
            found[name] = ours[f"head.{int(layer) + 4 * int(block)}.{field}"]
        elif ".rnns." in name:
            _, _, _, layer, *_, field = name.split(".")
            found[name] = ours[f"bpt3c.encoder.rnns.{layer}.{field.removesuffix('_raw')}"]
        else:
            found[name] = ours["bpt3c.encoder.encoder.weight"]
    return found


def table(rows: int, sizes: tuple[int, int, int], of_fastai: int, options: list[list[str]]) -> Iterator[list[str]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder, source = write_model(Path(temporary) / "clf", sizes), Path(temporary) / "rows.csv"
        write_rows(source, rows)
        seconds, difference = by_fastai(folder, sizes, made_texts(of_fastai))
        rate = of_fastai / seconds
        yield [
            f"fastai get_preds (probabilities within {difference:.1g})", f"{of_fastai:,}", f"{seconds:.1f}",
            f"{rate:.0f}", "", "1.00",
        ]  # fmt: skip
        for given in options:
            seconds, megabytes = by_command(source, folder, Path(temporary) / "out.csv", *given)
            quarters = [megabytes[max(round(len(megabytes) * share) - 1, 0)] for share in (0.25, 0.5, 0.75, 1)]
            yield [
                f"predict {' '.join(given)}", f"{rows:,}", f"{seconds:.1f}", f"{rows / seconds:.0f}",
                ", ".join(f"{each:.0f}" for each in quarters) + f"; most {max(megabytes):.0f}",
                f"{rows / seconds / rate:.2f}",
            ]  # fmt: skip


def test_bulk(benchmark: Any) -> None:
    """The report takes the cells; pytest-benchmark's own time is of the whole table."""
    pytest.importorskip("fastai", reason="fastai is not installed")
    found: list[list[str]] = []
    rows = 300 if SMOKE else 20_000
    benchmark.pedantic(lambda: found.extend(table(rows, SMALL, 200 if SMOKE else 5000, [["--processes", "1"]])))
    benchmark.extra_info.update({"kind": "bulk", "cells": found} | machine_facts())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_bulk", description=__doc__)
    parser.add_argument("--rows", type=int, default=300 if SMOKE else 1_000_000)
    parser.add_argument("--fastai-rows", type=int, default=200 if SMOKE else 20_000)
    parser.add_argument("--paper", action="store_true", help="the paper's sizes, not small ones")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--precision", nargs="+", default=["float32"])
    options = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(Path(__file__).parents[1]))
    runs = [
        ["--processes", str(processes), "--precision", precision]
        for precision in options.precision for processes in options.processes
    ]  # fmt: skip
    print(f"| {' | '.join(TITLES)} |\n|{' --- |' * len(TITLES)}")
    for row in table(options.rows, PAPER if options.paper else SMALL, options.fastai_rows, runs):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
