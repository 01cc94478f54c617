"""PaddleHub's study of fine-tuning strategies at this size: MiniLM on CoLA, our language model on ChnSentiCorp.

``python -m benchmarks.accuracy.strategies cola --seeds 3``, ``... chnsenticorp --lm lm-zh/ --seeds 3``, ``... report``.

Each row changes one thing of the base, which trains all layers at one constant rate: the schedule, ``dis_blocks`` or
``frz_blocks``. CoLA is measured by Matthews' correlation on its development files, ChnSentiCorp by accuracy on its
development and test files; no row chooses anything by them. A line a run goes to
``benchmarks/results/strategies/DATA_SET.jsonl``; the same command again runs what is missing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.accuracy import results
from benchmarks.accuracy.command import run_or_report
from benchmarks.accuracy.data import data_folder
from benchmarks.accuracy.models.minilm import MiniLM
from benchmarks.accuracy.results import Line
from benchmarks.accuracy.runs import circumstances, versions, weights_checksum
from benchmarks.accuracy.scores import SCORES
from ulmfit_fast import ClassifierConfig, Schedule, ULMFiTStrategy, finetune_classifier
from ulmfit_fast.inference.prediction import predict_probabilities

FOLDER = Path(__file__).parents[1] / "results" / "strategies"
RATIO = 32.0
BATCH_SIZE, MAX_TOKENS = 32, 128  # the study's


@dataclass(frozen=True)
class Row:
    """What a run changes of the base."""

    schedule: str = "constant"
    cut_frac: float = 0.0
    end_frac: float = 0.0
    dis_blocks: int = 0
    frz_blocks: int = 0


ROWS = {
    "base": Row(),
    "warm-up 0.1, linear decay to 0": Row("linear", 0.1),
    "warm-up 0.2, linear decay to 0": Row("linear", 0.2),
    "warm-up 0.1, linear decay to lr/32": Row("linear", 0.1, 1 / RATIO),
    "warm-up 0.2, linear decay to lr/32": Row("linear", 0.2, 1 / RATIO),
    "slanted triangular 0.1": Row("slanted-triangular", 0.1),
    "slanted triangular 0.2": Row("slanted-triangular", 0.2),
    "dis_blocks 3": Row(dis_blocks=3),
    "dis_blocks 5": Row(dis_blocks=5),
    "frz_blocks 3": Row(frz_blocks=3),
    "frz_blocks 5": Row(frz_blocks=5),
}


class MiniLMClassifier(nn.Module):
    """MiniLM and a linear layer on the mean of its last states."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = MiniLM(MAX_TOKENS)
        self.head = nn.Linear(384, classes)

    def forward(self, texts: Sequence[str]) -> Tensor:
        logits: Tensor = self.head(self.encoder.means(texts))
        return logits


Table = tuple[list[str], list[str]]  # texts, labels


def read(path: Path, count: int | None, seed: int = 0) -> Table:
    """A table's texts and labels, or so many of them."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if count is not None and count < len(table):
        table = table.sample(count, random_state=seed)
    return table["text"].tolist(), table["label"].tolist()


def together(tables: Sequence[Table]) -> Table:
    return [text for texts, _ in tables for text in texts], [label for _, labels in tables for label in labels]


def run_minilm(row: Row, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Fine-tunes MiniLM on CoLA through the public strategy alone; returns the correlation on the development files."""
    folder = data_folder() / "cola"
    texts, labels = read(folder / "train.csv.xz", options.texts)
    parts = {name: read(folder / f"dev_{name.replace(' ', '_')}.csv.xz", options.texts) for name in
             ("in domain", "out of domain")}  # fmt: skip
    classes = sorted(set(labels))
    torch.manual_seed(seed)
    random, model = np.random.default_rng(seed), MiniLMClassifier(len(classes))
    strategy = ULMFiTStrategy(
        options.lr, "adam", schedule=Schedule(row.schedule, row.cut_frac, RATIO, row.end_frac),
        dis_blocks=row.dis_blocks, frz_blocks=row.frz_blocks,
    )  # fmt: skip
    steps = -(-len(texts) // BATCH_SIZE)
    optimizer, scheduler, unfreezing = strategy.prepare(model, options.epochs * steps)
    for epoch in range(options.epochs):
        model.train()
        unfreezing.start_epoch(epoch)
        for batch in batches_of_like_lengths(texts, random):
            targets = torch.tensor([classes.index(labels[i]) for i in batch])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bfloat16):
                logits = model([texts[i] for i in batch]).float()
            optimizer.zero_grad()
            F.cross_entropy(logits, targets).backward()
            optimizer.step()
            scheduler.step()
    model.eval()

    def predict(own: Sequence[str]) -> list[str]:
        with torch.inference_mode():
            found = [model(own[start : start + 256]).argmax(1) for start in range(0, len(own), 256)]
        return [classes[i] for i in torch.cat(found).tolist()]

    return scores("MCC", {"dev": together(list(parts.values()))} | {f"dev {k}": v for k, v in parts.items()}, predict)


def run_ours(row: Row, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Trains our classifier on ChnSentiCorp by the options of stage three; returns accuracies."""
    folder = data_folder() / "chnsenticorp"
    texts, labels = read(folder / "train.csv.xz", options.texts)
    parts = {name: read(folder / f"{name}.csv.xz", options.texts) for name in ("dev", "test")}
    config = ClassifierConfig(
        epochs=options.epochs, batch_size=BATCH_SIZE, lr=options.lr, seed=seed, schedule=row.schedule,
        cut_frac=row.cut_frac, ratio=RATIO, end_frac=row.end_frac, dis_blocks=row.dis_blocks,
        frz_blocks=row.frz_blocks, precision="bfloat16" if options.bfloat16 else "float32",
    )  # fmt: skip
    trained = finetune_classifier(texts, labels, options.lm, config, progress=False)

    def predict(own: Sequence[str]) -> list[str]:
        activated = predict_probabilities(trained.model, trained.tokenizer, trained.task, list(own))
        return [str(label) for label in trained.task.decode(activated)]

    return scores("accuracy", parts, predict)


def scores(metric: str, parts: dict[str, Table], predict: Callable[[Sequence[str]], list[str]]) -> dict[str, float]:
    return {
        f"{metric}, {name}": SCORES[metric](np.asarray(labels), np.asarray(predict(texts)))
        for name, (texts, labels) in parts.items()
    }


def batches_of_like_lengths(texts: Sequence[str], random: np.random.Generator) -> list[list[int]]:
    """Indices of an epoch's batches, drawn anew: sorted by length within eight batches, which halves the padding."""
    order, near = random.permutation(len(texts)), 8 * BATCH_SIZE
    batches: list[list[int]] = []
    for start in range(0, len(order), near):
        own = sorted(order[start : start + near].tolist(), key=lambda i: len(texts[i]))
        batches += [own[i : i + BATCH_SIZE] for i in range(0, len(own), BATCH_SIZE)]
    return [batches[i] for i in random.permutation(len(batches))]


RUNS = {"cola": run_minilm, "chnsenticorp": run_ours}
MODELS = {"cola": "minilm", "chnsenticorp": "ours"}
RATES = {"cola": 5e-5, "chnsenticorp": 2e-3}  # the study's, and one for all of our layers


def benchmark(options: argparse.Namespace, arguments: list[str]) -> None:
    """Runs the rows that have no result yet, a seed of all rows after the other."""
    path = options.results / f"{options.data_set}.jsonl"
    settings = {"epochs": options.epochs, "lr": options.lr, "bfloat16": options.bfloat16}
    if options.data_set == "chnsenticorp":
        settings["lm"] = f"{options.lm.resolve().name} {weights_checksum(options.lm)}"
    common = circumstances(arguments)
    common["command"] = common["command"].replace("benchmarks.accuracy", "benchmarks.accuracy.strategies", 1)
    for seed in range(options.seeds):
        for name in options.rows or ROWS:
            line: Line = {
                "data set": options.data_set, "labels": options.texts or 0, "draw": seed,
                "model": MODELS[options.data_set], "settings": settings | {"row": name},
            }  # fmt: skip
            if results.key(line) in results.read(path):
                print(f"{name}, seed {seed}: known")
                continue
            start = time.perf_counter()
            found = RUNS[options.data_set](ROWS[name], options, seed)
            seconds = time.perf_counter() - start
            results.append(
                path, line | {"scores": found, "seconds": seconds, "versions": versions(line["model"])} | common
            )
            print(
                f"{name}, seed {seed}: {', '.join(f'{k} {v:.4f}' for k, v in found.items())}, {seconds:.0f} s",
                flush=True,
            )


def report(folder: Path) -> str:
    """A table a data set and kind of run: mean and standard deviation over the seeds, the rows in the study's order."""
    parts = ["# Fine-tuning strategies", "", "Mean over the seeds ± standard deviation (number of seeds).", ""]
    for path in sorted(folder.glob("*.jsonl")):
        kinds: dict[str, list[Line]] = {}
        for line in results.read(path).values():
            rest = {name: value for name, value in line["settings"].items() if name != "row"}
            texts = f"{line['labels']} texts" if line["labels"] else "all texts"
            shown = ", ".join(f"{name} {value}" for name, value in sorted(rest.items()))
            kinds.setdefault(f"{path.stem}, {line['model']}: {texts}, {shown}", []).append(line)
        for kind, lines in kinds.items():
            names = list(lines[0]["scores"])
            parts += [f"## {kind}", "", f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
            for row in ROWS:
                own = [line for line in lines if line["settings"]["row"] == row]
                if own:
                    cells = [_cell([line["scores"][name] for line in own]) for name in names]
                    parts.append(f"| {row} | {' | '.join(cells)} |")
            machines = sorted({f"{line['machine']}, {line['date']}, commit {line['commit']}" for line in lines})
            parts += ["", f"On {'; '.join(machines)}.", ""]
    return "\n".join(parts)


def _cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread} ({len(values)})"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.strategies", description=__doc__)
    parser.add_argument("data_set", choices=[*RUNS, "report"], help="or: the tables of all results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, help="highest rate  [default: 5e-5 for MiniLM, 2e-3 for ours]")
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", help=f"some of: {'; '.join(ROWS)}")
    parser.add_argument("--texts", type=int, metavar="N", help="so many texts of each file, to try the script")
    parser.add_argument("--lm", type=Path, metavar="FOLDER", help="chnsenticorp: our language model, fine-tuned on it")
    parser.add_argument("--bfloat16", action="store_true", help="train by autocast")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the lines and the report")
    options = parser.parse_args(arguments)
    if options.data_set == "chnsenticorp" and options.lm is None:
        parser.error("chnsenticorp needs --lm FOLDER")
    options.lr = options.lr or RATES.get(options.data_set)
    return options


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    return run_or_report("benchmarks.accuracy.strategies", options, arguments, benchmark, report)


if __name__ == "__main__":
    sys.exit(main())
