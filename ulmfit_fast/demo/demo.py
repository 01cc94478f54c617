"""``ulmfit-fast demo``: the whole method on text that every installation carries, and what it gains.

A language model learns from all docstrings of the standard library, torch and numpy, without labels. A classifier then
tells which package area a docstring comes from, from a few labels a class. Words that name an area are removed.
"""

from __future__ import annotations

import re
import shlex
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.console import say
from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import LOCK_FILE, locked_folder
from ulmfit_fast.demo.docstrings import read_docstrings
from ulmfit_fast.inference.prediction import evaluate_classifier, predict_probabilities
from ulmfit_fast.nn.lstm import WeightDropLSTM
from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.storage.model_folder import save_model
from ulmfit_fast.text.table_writer import write_table
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig
from ulmfit_fast.training.history import Record
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

AREAS = (
    "asyncio", "email", "numpy.lib", "numpy.ma", "numpy.polynomial", "tkinter", "torch._dynamo", "torch._inductor",
    "torch.ao", "torch.distributed", "torch.fx", "torch.nn",
)  # fmt: skip
LABELS_PER_AREA = 10
TEST_PER_AREA = 80
POOL_PER_AREA = 150  # texts of an area that take part; stage two sees them all
MAX_WORDS = 100  # of a text to classify

_MARK = ".ulmfit-fast-demo"  # of a folder that a demo may write to again

# Small enough for two cores.
_SIZES: dict[str, Any] = {"embedding_size": 128, "hidden_size": 256, "num_layers": 2, "vocab_size": 5000}
PRETRAIN = PretrainConfig(**_SIZES, batch_size=32, lr=1e-2, drop_mult=0.2)
FINETUNE = FinetuneLMConfig(
    epochs=5, batch_size=16, lr=1e-2, drop_mult=0.2, new_vocabulary=False, discriminative_factor=1.0
)
# A language model this small has less to protect than the paper's: rates fall by 1.3 a layer instead of 2.6.
CLASSIFY = ClassifierConfig(**_SIZES, epochs=16, batch_size=24, lr=1e-2, drop_mult=1.0, discriminative_factor=1.3)
# From scratch there is nothing to protect and more to learn: all layers at one rate, half the dropout, more epochs.
FROM_SCRATCH = replace(CLASSIFY, epochs=24, drop_mult=0.5, discriminative_factor=1.0, unfreezing="all", min_frequency=1)


@dataclass(frozen=True)
class Task:
    """Which area is a text from? Texts by area, in an order drawn once."""

    texts: dict[str, list[str]]

    def draw(self, seed: int) -> tuple[list[str], list[str], list[str], list[str]]:
        """(training texts, their areas, test texts, their areas): the draw of one repetition."""
        random = np.random.default_rng(seed)
        train: list[tuple[str, str]] = []
        test: list[tuple[str, str]] = []
        for area, texts in self.texts.items():
            order = random.permutation(len(texts))
            rows = [(texts[i], area) for i in order]
            train += rows[:LABELS_PER_AREA]
            test += rows[LABELS_PER_AREA : LABELS_PER_AREA + TEST_PER_AREA]
        return [t for t, _ in train], [a for _, a in train], [t for t, _ in test], [a for _, a in test]


def run_demo(output: Path, seeds: int = 3, device: str = "auto") -> None:
    """Run it, print the table, and leave models, table and sample predictions in ``output``."""
    choose_device(device)  # or an error, before anything is read
    _check_folder(output)
    with locked_folder(output):
        write_atomically(output / _MARK, "Made by ulmfit-fast demo; the next demo in this folder replaces its files.\n")
        _run(output, seeds, device)


def _run(output: Path, seeds: int, device: str) -> None:
    start = time.perf_counter()
    say("1. Reading the docstrings of the standard library, torch and numpy")
    texts, task = _load_task()
    say(
        f"   {len(texts):,} texts, {sum(len(text.split()) for text in texts):,} words; task: {len(task.texts)} areas, "
        f"{LABELS_PER_AREA} labels each, words that name an area removed"
    )
    say("2. Stage one: a language model of all of them, no labels")
    language_model = pretrain_lm(
        texts, replace(PRETRAIN, device=device), output=output / "lm", overwrite=True, on_epoch=_print_epoch
    )
    say("3. Stage two: fine-tuning it on the task's texts, no labels")
    task_texts = [text for area in task.texts.values() for text in area]
    tuned = finetune_lm(
        task_texts, language_model, replace(FINETUNE, device=device), output=output / "lm-task", overwrite=True,
        on_epoch=_print_epoch,
    )  # fmt: skip
    say(f"4. Stage three: classifiers from {LABELS_PER_AREA * len(task.texts)} labels, {seeds} draws")
    scratch: list[float] = []
    staged: list[float] = []
    tfidf: list[float] = []
    for seed in range(seeds):
        best, scores = _compare(task, tuned, seed, device)
        for column, score in zip((scratch, staged, tfidf), scores, strict=True):
            column.append(score)
        say(f"   draw {seed + 1}: from scratch {scores[0]:.3f}, three stages {scores[1]:.3f}, TF-IDF {scores[2]:.3f}")
    save_model(output / "classifier", best.model, best.tokenizer, best.task, {"stage": "demo"})
    say("5. The layer against torch.nn.LSTM on a packed batch")
    ours, theirs = measure_layers(device=choose_device(device))

    table = _format_table(language_model, tuned, scratch, staged, tfidf, ours, theirs)
    say(f"\n{table}\n")
    write_atomically(output / "results.md", table + "\n")
    _show_predictions(task, best, output)
    say(f"\nDone in {(time.perf_counter() - start) / 60:.1f} minutes; everything is in {output}")


def _check_folder(output: Path) -> None:
    """Raise InputError unless the folder is a new one, empty, or that of an earlier demo."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; give a folder for the demo")
    others = output.exists() and any(path.name != LOCK_FILE for path in output.iterdir())
    if others and not (output / _MARK).exists():
        raise InputError(f"{output}: holds other files; give a new or empty folder for the demo")


def plain_words(text: str) -> str:
    """The text's words in lower case, identifiers split, without those that name one of the areas."""
    words = _WORD.findall(_IDENTIFIER_JOINT.sub(" ", text).lower())
    return " ".join(word for word in words if word not in _AREA_WORDS)


_IDENTIFIER_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_+")
_WORD = re.compile(r"[a-z]{2,}|[0-9]+")
_AREA_WORDS = {part.strip("_") for area in AREAS for part in area.split(".")} | {"np", "tk", "tcl", "polynomials"}


def measure_layers(
    size: int = 512,
    batch: int = 32,
    repeats: int = 3,
    weight_dropout: float = 0.5,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Median seconds of a training step (forward and backward) on one packed batch: ours with weight drop, nn.LSTM.

    Lengths 50 to 200, ``size`` features in and out, float32, in turn.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(50, 201, (batch,), generator=generator).sort(descending=True)[0]
    padded = torch.randn(int(lengths[0]), batch, size, generator=generator).to(device)
    packed = pack_padded_sequence(padded, lengths)
    layers = [WeightDropLSTM(size, size, weight_dropout=weight_dropout).to(device), nn.LSTM(size, size).to(device)]
    seconds: list[list[float]] = [[], []]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # its own float32 has ten bits
        for repeat in range(repeats + 1):
            for layer, times in zip(layers, seconds, strict=True):
                begin = time.perf_counter()
                _train_step(layer, packed)
                if repeat > 0:  # the first warms up
                    times.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _train_step(layer: nn.Module, packed: PackedSequence) -> None:
    layer.zero_grad()
    output, _ = layer(packed)
    output.data.sum().backward()
    if output.data.is_cuda:
        torch.cuda.synchronize()


def _load_task() -> tuple[list[str], Task]:
    documents = read_docstrings()
    by_area: dict[str, list[str]] = {area: [] for area in AREAS}
    texts = []
    for document in documents:
        text = plain_words(document.text)
        texts.append(text)
        for area in AREAS:
            if document.module == area or document.module.startswith(area + "."):
                by_area[area].append(" ".join(text.split()[:MAX_WORDS]))
    random = np.random.default_rng(0)
    pools = {}
    for area, found in by_area.items():
        if len(found) >= 4 * LABELS_PER_AREA:  # an area that this installation lacks (tkinter, often) is left out
            pools[area] = [found[i] for i in random.permutation(len(found))[:POOL_PER_AREA]]
    return texts, Task(pools)


def _compare(
    task: Task, language_model: TrainedLanguageModel, seed: int, device: str
) -> tuple[TrainedClassifier, list[float]]:
    """Accuracy from scratch, with the three stages, and of TF-IDF, on one draw of labels."""
    train_texts, train_areas, test_texts, test_areas = task.draw(seed)
    from_scratch, staged = (
        finetune_classifier(train_texts, train_areas, model, replace(config, seed=seed, device=device))
        for model, config in ((None, FROM_SCRATCH), (language_model, CLASSIFY))
    )
    scores = [_accuracy(trained, test_texts, test_areas) for trained in (from_scratch, staged)]
    return staged, [*scores, _tfidf_accuracy(train_texts, train_areas, test_texts, test_areas)]


def _accuracy(trained: TrainedClassifier, texts: list[str], areas: list[str]) -> float:
    targets = trained.task.encode(areas, "test")
    ids = list(trained.tokenizer.encode(texts))
    return evaluate_classifier(trained.model, trained.task, ids, targets)[trained.task.scores[0]]


def _tfidf_accuracy(
    train_texts: list[str], train_areas: list[str], test_texts: list[str], test_areas: list[str]
) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    return float(model.fit(train_texts, train_areas).score(test_texts, test_areas))


def _format_table(
    language_model: TrainedLanguageModel,
    tuned: TrainedLanguageModel,
    scratch: list[float],
    staged: list[float],
    tfidf: list[float],
    ours: float,
    theirs: float,
) -> str:
    def spread(scores: list[float]) -> str:
        return f"{statistics.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"

    first, second = language_model.history.records[-1], tuned.history.records[-1]
    rows = [
        ("language model, all texts: validation perplexity", f"{first['perplexity']:.1f}"),
        ("language model, task's texts: validation perplexity", f"{second['perplexity']:.1f}"),
        ("language model: training speed", f"{first['tokens_per_s']:,.0f} tokens/s"),
        (f"accuracy from scratch, mean of {len(scratch)} draws", spread(scratch)),
        ("accuracy with the three stages, the same labels", spread(staged)),
        ("accuracy of TF-IDF + logistic regression, the same labels", spread(tfidf)),
        ("packed LSTM training step, WeightDropLSTM(512, 512)", f"{ours * 1000:.0f} ms"),
        (
            "packed LSTM training step, torch.nn.LSTM(512, 512)",
            f"{theirs * 1000:.0f} ms ({theirs / ours:.1f} times ours)",
        ),
    ]
    width = max(len(name) for name, _ in rows)
    value_width = max(len(value) for _, value in rows)
    lines = [f"| {'measured':<{width}} | {'value':<{value_width}} |", f"| {'-' * width} | {'-' * value_width} |"]
    return "\n".join(lines + [f"| {name:<{width}} | {value:<{value_width}} |" for name, value in rows])


def _show_predictions(task: Task, trained: TrainedClassifier, output: Path) -> None:
    _, _, test_texts, test_areas = task.draw(0)
    chosen = np.random.default_rng(1).permutation(len(test_texts))[:6]
    table = pd.DataFrame({"text": [test_texts[i] for i in chosen], "area": [test_areas[i] for i in chosen]})
    write_table(table, output / "new.csv")
    activated = predict_probabilities(trained.model, trained.tokenizer, trained.task, table["text"].tolist())
    columns = trained.task.columns(activated)
    say("Some predictions of the saved classifier:")
    rows = zip(table["text"], table["area"], columns["prediction"], columns["confidence"], strict=True)
    for text, area, predicted, confidence in rows:
        first_line = " ".join(text.split())[:60]
        say(f"   {predicted:<18} {confidence:4.0%}  (is {area})  {first_line}...")
    paths = [shlex.quote(str(output / name)) for name in ("new.csv", "classifier", "predictions.csv")]
    say("Predict with it:")
    say(f"   ulmfit-fast predict {paths[0]} --model {paths[1]} --output {paths[2]}")


def _print_epoch(record: Record) -> None:
    say(f"   perplexity {record['perplexity']:.1f}, {record['tokens_per_s']:,.0f} tokens/s, {record['seconds']:.0f} s")
