"""`python -m benchmarks.accuracy imdb --labels 100 500 --draws 3 --models tfidf fasttext`, then `... report`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.accuracy import results
from benchmarks.accuracy.data import DATA_SETS, DataSet, load
from benchmarks.accuracy.models import MODELS, Options
from benchmarks.accuracy.reading import SCHEMES
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.runs import RunFailedError, circumstances, run, settings_of


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("data_set", choices=[*DATA_SETS, "report"], help="or: render the tables of all results")
    parser.add_argument("--labels", nargs="+", default=["100"], metavar="N", help="labelled texts, or all")
    parser.add_argument("--draws", type=int, default=3, help="draws of labels (default 3)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["tfidf", "tfidf-c10"], metavar="MODEL",
                        help=", ".join(MODELS))  # fmt: skip
    parser.add_argument("--lm", nargs="+", default=[], type=Path, metavar="FOLDER", help="language models, fine-tuned "
                        "on the task's texts; of several the mean of the classifiers' probabilities")  # fmt: skip
    parser.add_argument("--pretrained", nargs="+", default=[], type=Path, metavar="FOLDER",
                        help="language models to fine-tune first (ours-pretrained); kept in --cache")  # fmt: skip
    parser.add_argument("--set", nargs="+", default=[], type=_setting, metavar="NAME=VALUE", help="a model's settings")
    parser.add_argument("--read", choices=SCHEMES, default="all", help="what is read of each text")
    parser.add_argument("--again", action="store_true", help="run what has a result already, too; the newest counts")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder of the lines and tables")
    parser.add_argument("--cache", type=Path, default=Path("build/accuracy"), help="folder for what is computed once")
    return parser.parse_args(arguments)


def _setting(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{argument!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, {"True": True, "False": False}.get(value, value)


def benchmark(data: DataSet, options: argparse.Namespace, arguments: list[str]) -> int:
    """Runs what has no result yet and appends its lines; returns how many runs failed."""
    path, common, failed = options.results / f"{options.data_set}.jsonl", circumstances(arguments), 0
    given = Options(
        dict(options.set), data.language, options.data_set, tuple(options.lm), tuple(options.pretrained), options.cache
    )
    settings = {model: settings_of(model, given, options.read) for model in options.models}
    known = results.read(path)
    for labels in (len(data.labels) if n == "all" else int(n) for n in options.labels):
        for draw in range(options.draws):
            for model in options.models:
                line: results.Line = {
                    "data set": options.data_set, "labels": labels, "draw": draw, "model": model,
                    "settings": settings[model],
                }  # fmt: skip
                title = f"{options.data_set}, {labels:,} labels, draw {draw}, {model}"
                if results.key(line) in known and not options.again:
                    print(f"{title}: known")
                    continue
                try:
                    line |= run(data, labels, draw, model, given, options.read) | common
                except RunFailedError as error:
                    print(f"{title}: failed: {error}", file=sys.stderr)
                    failed += 1
                    continue
                results.append(path, line)
                shown = ", ".join(f"{name} {score:.4f}" for name, score in line["scores"].items())
                print(f"{title}: {shown}, {line['train seconds']:.1f} s + {line['predict seconds']:.1f} s", flush=True)
    return failed


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.data_set != "report":
        try:
            failed = benchmark(load(options.data_set), options, arguments)
        except (FileNotFoundError, ValueError) as error:
            print(f"benchmarks.accuracy: {error}", file=sys.stderr)
            return 2
        if failed:
            return 1
    else:
        print(write_report(options.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
