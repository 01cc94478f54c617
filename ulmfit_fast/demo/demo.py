"""``ulmfit-fast demo``: the three stages on real texts that the package brings, beside what a user would pick instead.

A pretrained language model of Wikipedia is fine-tuned on sentences without labels; a classifier then learns from ten
labels of each topic which of ten topics a sentence's article has. The test sentences are from other articles.
"""

from __future__ import annotations

import shlex
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.console import say
from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import LOCK_FILE, locked_folder
from ulmfit_fast.demo.chart import accuracy_chart
from ulmfit_fast.demo.comparison import STAGES, Draw, NamedTopics, compare
from ulmfit_fast.demo.layer_speed import measure_layers
from ulmfit_fast.demo.topics import load_topics
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.pipeline import finetune_lm
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import save_model
from ulmfit_fast.text.table_writer import write_table
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig
from ulmfit_fast.training.history import Record
from ulmfit_fast.training.trained import TrainedLanguageModel

LABELS_PER_TOPIC = 10
_MARK = ".ulmfit-fast-demo"  # of a folder that a demo may write to again

FINETUNE = FinetuneLMConfig(epochs=1, batch_size=16, lr=1e-3, drop_mult=0.3, new_vocabulary=False)
CLASSIFY = ClassifierConfig(epochs=16, batch_size=20, lr=1e-2, drop_mult=0.5)
# From scratch there is nothing to protect and more to learn: all layers at one rate, more epochs, every word.
FROM_SCRATCH = ClassifierConfig(
    embedding_size=128, hidden_size=256, num_layers=2, min_frequency=1, epochs=40, batch_size=20, lr=1e-2,
    drop_mult=0.5, discriminative_factor=1.0, unfreezing="all",
)  # fmt: skip


def run_demo(output: Path, pretrained: str = "en", draws: int = 3, device: str = "auto") -> None:
    """Run it, print the table, and leave models, table, picture and sample predictions in ``output``.

    Raises InputError where the pretrained model is not installed or the folder holds other files.
    """
    choose_device(device)  # or an error, before anything is read
    _check_folder(output)
    folder = find_pretrained(pretrained)
    with locked_folder(output):
        write_atomically(output / _MARK, "Made by ulmfit-fast demo; the next demo in this folder replaces its files.\n")
        _run(output, TrainedLanguageModel.load(folder), draws, device)


def _run(output: Path, pretrained: TrainedLanguageModel, draws: int, device: str) -> None:
    start = time.perf_counter()
    train, test = load_topics()
    topics = train["topic"].nunique()
    say(f"1. {len(train):,} sentences of Wikipedia on {topics} topics; {len(test):,} of other articles to test with")
    say("2. Stage one is done: the packaged language model has read other articles of Wikipedia")
    say("3. Stage two: fine-tuning it on the sentences, no labels")
    tuned = finetune_lm(
        train["text"].tolist(), pretrained, replace(FINETUNE, device=device), output=output / "language-model",
        overwrite=True, on_epoch=_say_epoch,
    )  # fmt: skip
    say(f"4. Stage three: classifiers from {LABELS_PER_TOPIC} labels a topic, {draws} draws of them")
    try:
        named = NamedTopics(tuned, test)
    except InputError as error:  # another model than the packaged one
        say(f"   {error}; the last row is left out", error=True)
        named = None
    configs = (replace(CLASSIFY, device=device), replace(FROM_SCRATCH, device=device))
    found = []
    for seed in range(draws):
        found.append(compare(train, test, LABELS_PER_TOPIC, pretrained, tuned, named, *configs, seed))
        each = ", ".join(f"{name} {score:.3f}" for name, score in found[-1].right.items())
        say(f"   draw {seed + 1}: {each}")
    best = found[-1].best
    save_model(output / "classifier", best.model, best.tokenizer, best.task, {"stage": "demo"})
    say("5. The LSTM layer beside torch.nn.LSTM, a training step on packed sequences")
    ours, theirs = measure_layers(device=choose_device(device))

    table = _table(found, ours, theirs)
    say(f"\n{table}\n")
    write_atomically(output / "results.md", table + "\n")
    scores = {name: [draw.right[name] for draw in found] for name in found[0].right}
    title = f"Accuracy from {LABELS_PER_TOPIC * topics} labelled sentences, {topics} topics, {draws} draws"
    write_atomically(output / "accuracy.png", accuracy_chart(scores, STAGES, title))
    _show_predictions(test, found[-1], output)
    say(f"\nDone in {(time.perf_counter() - start) / 60:.1f} minutes; table, picture and models are in {output}")


def _check_folder(output: Path) -> None:
    """Raise InputError unless the folder is a new one, empty, or that of an earlier demo."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; give a folder for the demo")
    others = output.exists() and any(path.name != LOCK_FILE for path in output.iterdir())
    if others and not (output / _MARK).exists():
        raise InputError(f"{output}: holds other files; give a new or empty folder for the demo")


def _table(draws: list[Draw], ours: float, theirs: float) -> str:
    def spread(scores: list[float]) -> str:
        return f"{statistics.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"

    rows = [(f"accuracy, {name}", spread([draw.right[name] for draw in draws])) for name in draws[0].right]
    rows += [
        (f"accuracy, {STAGES}, on the half it is surest of", spread([draw.sure for draw in draws])),
        ("packed LSTM training step, WeightDropLSTM(512, 512)", f"{ours * 1000:.0f} ms"),
        ("packed LSTM training step, torch.nn.LSTM(512, 512)", f"{theirs * 1000:.0f} ms ({theirs / ours:.1f} times)"),
    ]
    lines: list[Any] = [("measured", "value"), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(f"| {name:<{widths[0]}} | {value:<{widths[1]}} |" for name, value in lines)


def _show_predictions(test: pd.DataFrame, draw: Draw, output: Path) -> None:
    rows = np.random.default_rng(1).permutation(len(test))[:6]
    table = test.iloc[rows]
    write_table(table, output / "new.csv")
    best = draw.best
    activated = predict_probabilities(best.model, best.tokenizer, best.task, table["text"].tolist())
    columns = best.task.columns(activated)
    say("Some predictions of the saved classifier, with its confidence:")
    found = zip(table["text"], table["topic"], columns["prediction"], columns["confidence"], strict=True)
    for text, topic, predicted, confidence in found:
        say(f"   {predicted:<21} {confidence:4.0%}  (is {topic})  {text[:70]}...")
    paths = [shlex.quote(str(output / name)) for name in ("new.csv", "classifier", "predictions.csv")]
    say("Predict with it:")
    say(f"   ulmfit-fast predict {paths[0]} --model {paths[1]} --output {paths[2]}")


def _say_epoch(record: Record) -> None:
    say(f"   perplexity {record['perplexity']:.1f}, {record['tokens_per_s']:,.0f} tokens/s, {record['seconds']:.0f} s")
