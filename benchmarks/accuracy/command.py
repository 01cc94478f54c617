"""What the studies' commands have in common: run, or render the lines there are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.accuracy.report import NAME


def run_or_report(
    name: str,
    options: argparse.Namespace,
    arguments: list[str],
    benchmark: Callable[[argparse.Namespace, list[str]], object],
    report: Callable[[Path], str],
) -> int:
    """Run a study, or with "report" as the data set write the report of its results. Returns the exit status.

    Args:
        name: the study's module, for messages.
        options: with ``data_set`` and ``results``.
        arguments: that the options came from, for the lines.
        benchmark: runs it; data or a package that is missing end the command with one line.
        report: renders a folder of lines.
    """
    if options.data_set == "report":
        text = report(options.results)
        (options.results / NAME).write_text(text, encoding="utf-8")
        print(text)
        return 0
    try:
        benchmark(options, arguments)
    except (FileNotFoundError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    return 0
