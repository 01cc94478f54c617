"""From pytest-benchmark's JSON to a Markdown table and charts: `python -m benchmarks.report RESULTS.json`.

Writes RESULTS.md and RESULTS.png beside it. Ratios are medians over rounds in which both ran; above 1 ours is faster.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.bench_bulk import TITLES as TITLES_OF_BULK
from benchmarks.bench_lstm_small import TITLES
from benchmarks.bench_qrnn import TITLES as TITLES_OF_QRNN
from benchmarks.bench_serve import TITLES as TITLES_OF_SERVING
from benchmarks.bench_single import TITLES as TITLES_OF_SINGLE
from benchmarks.layers import DROPPED, OURS, REFERENCE, TORCH

Row = dict[str, Any]
COLUMNS = ["layer", "dtype", "mode", "B", "GF/s", "of peak", TORCH, "ratio", "(range)", "reference", "weight drop",
           "MB", f"MB, {TORCH}"]  # fmt: skip


def read_rows(path: Path) -> tuple[list[Row], str]:
    """The rows' figures, and a line on machine and versions."""
    document = json.loads(path.read_text())
    rows: list[Row] = [benchmark["extra_info"] for benchmark in document["benchmarks"]]
    first, commit = rows[0], document.get("commit_info", {}).get("id", "unknown")
    machine = (
        f"{document['datetime'][:10]}, {first['threads']} threads on {first['cpu']}, kernels {first['isa']}, oneDNN "
        f"ISA {first['onednn_isa']}, torch {first['torch']}, Python {document['machine_info']['python_version']}, "
        f"commit {commit[:9]}{' with changes' if document.get('commit_info', {}).get('dirty') else ''}"
    )
    return rows, machine


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _cells(row: Row) -> list[str]:
    ratios = row.get(f"ratios, {TORCH}")
    drop = row.get(f"ratio, {DROPPED}")
    return [
        f"{row['input']} → {row['hidden']}" + (", packed" if row["packed"] else ""),
        row["dtype"],
        row["mode"],
        str(row["batch"]),
        f"{row['GF/s']:.0f}",
        f"{row['share of peak']:.2f}",
        _number(row.get(f"GF/s, {TORCH}"), ".0f"),
        _number(row.get(f"ratio, {TORCH}"), ".2f"),
        "" if ratios is None else f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
        _number(row.get(f"ratio, {REFERENCE}"), ".2f"),
        "" if drop is None else f"{100 * (drop - 1):+.1f} %",
        _number(row.get(f"peak MB, {OURS}"), ".0f"),
        _number(row.get(f"peak MB, {TORCH}"), ".0f"),
    ]


def _table(rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|---" * len(COLUMNS) + "|", *lines[1:]])


def markdown(rows: list[Row], chart: str) -> str:
    peaks = {dtype: [row["peak GF/s"] for row in rows if row["dtype"] == dtype] for dtype in ("float32", "bfloat16")}
    limits = "; ".join(f"{dtype} {min(peak):.0f} to {max(peak):.0f}" for dtype, peak in peaks.items() if peak)
    losses = [row for row in rows if row.get(f"ratio, {TORCH}", 2) < 1]
    notes = [
        f"- packed {row['dtype']} {row['mode']}: time of ours on a dense batch of as many rows, per row, over packed: "
        f"{row[f'ratio, {OURS}/dense']:.2f}"
        + (f"; {TORCH} in float32 over ours in bfloat16: {row[f'ratio, {TORCH}/float32']:.1f}"
           if f"ratio, {TORCH}/float32" in row else "")
        for row in rows if f"ratio, {OURS}/dense" in row
    ]  # fmt: skip
    return "\n".join([
        "## One LSTM layer", "",
        f"Limit measured in the same run by a loop of multiply-adds on registers, GF/s: {limits}. GF/s count matrix",
        "products alone; training is forward and backward with the gradient of the input. `ratio`: time of nn.LSTM",
        "over ours, median of interleaved pairs (range: least and most of them); `reference`: likewise for plain",
        "PyTorch; `weight drop`: more time with weight_dropout=0.5; MB: peak memory beyond parameters and input, in a",
        "process of its own.", "",
        f"![achieved against batch size]({chart})", "",
        f"Rows where nn.LSTM is faster: {len(losses)} of {sum(f'ratio, {TORCH}' in row for row in rows)}.", "",
        _table([COLUMNS, *map(_cells, rows)]), "", *notes, "",
    ])  # fmt: skip


def _steps_table(rows: list[Row]) -> list[str]:
    """Tokens a second of each implementation, and ours against the others' medians."""
    table = [["task", "implementation", "tokens/s", "of peak", "times as fast as"], ["---"] * 5]
    for row in rows:
        medians = {name: statistics.median(seconds) for name, seconds in row["seconds"].items()}
        others = {name: seconds for name, seconds in medians.items() if not name.startswith(OURS)}
        for name, seconds in sorted(medians.items()):
            share = row["gflop"] / seconds / row["peaks"][name.rpartition(", ")[2]]
            ratios = ", ".join(f"{other}: {theirs / seconds:.2f}" for other, theirs in sorted(others.items()))
            table.append([
                row["task"], name, f"{row['tokens'] / seconds:,.0f}", f"{share:.2f}", "" if name in others else ratios
            ])  # fmt: skip
    return ["| " + " | ".join(cells) + " |" for cells in table]


def classifier_markdown(rows: list[Row]) -> str:
    """Whole classifier steps."""
    return "\n".join([
        "## Classifier steps", "",
        "AWD-LSTM 400/1152/3 with a vocabulary of 30,000, random tokens; training is a whole step with AdamW. Share of",
        "the peak counts the LSTMs' products once (recomputation not). fastai takes the gradient of the last 1,440",
        "tokens at most, ours of all. Medians of interleaved rounds; the long document ran once.", "",
        *_steps_table(rows), "",
    ])  # fmt: skip


def language_model_markdown(rows: list[Row]) -> str:
    """Whole language-model steps, where the time goes, memory, and the loss alone."""
    lines = [
        "## Language-model steps", "",
        "AWD-LSTM 400/1152/3 with a vocabulary of 30,000, random tokens with the frequencies of words, AR and TAR,",
        "clipped gradients, AdamW. Share of the peak counts the matrix products of the LSTMs and the softmax. Medians",
        "of interleaved rounds.", "", *_steps_table(rows), "",
    ]  # fmt: skip
    for row in rows:
        for dtype, parts in row.get("parts", {}).items():
            shown = ", ".join(f"{part} {milliseconds:.0f}" for part, milliseconds in parts.items())
            lines.append(f"- Where our {dtype} step goes, ms (a profiled run): {shown}.")
        for name, megabytes in row.get("memory", {}).items():
            lines.append(f"- Peak memory, model and optimizer included, {name}: {megabytes:,.0f} MB.")
        if "errors" in row:
            shown = ", ".join(f"{name} {error:.1e}" for name, error in row["errors"].items())
            lines.append(f"- Relative error of the gradients with that threshold: {shown}.")
    return "\n".join([*lines, ""])


# By kind, what is a table already: its heading and titles.
TABLES = {
    "single documents": ("Single documents and streams", TITLES_OF_SINGLE),
    "serving": ("The server under load", TITLES_OF_SERVING),
    "bulk": ("Many short rows", TITLES_OF_BULK),
    "qrnn": ("QRNN", TITLES_OF_QRNN),
}


def table_markdown(row: dict[str, Any]) -> str:
    heading, titles = TABLES[row["kind"]]
    lines = [titles, ["---"] * len(titles), *row["cells"]]
    return f"## {heading}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def small_markdown(rows: list[Row]) -> str:
    """Small calls, call by call beside nn.LSTM."""
    cells = [cells for row in rows for cells in row["cells"]]
    return "\n".join([
        "## Small calls of one layer", "",
        "float32; medians call by call in turn, `of least`: nn.LSTM's least time over ours.", "",
        *(f"| {' | '.join(line)} |" for line in [TITLES, ["---"] * len(TITLES), *cells]), "",
    ])  # fmt: skip


def chart(rows: list[Row]) -> Figure:
    """Achieved GF/s against batch size for the first layer, with the limit drawn: dtypes by modes."""
    first = (rows[0]["input"], rows[0]["hidden"])
    dense = [row for row in rows if (row["input"], row["hidden"]) == first and not row["packed"]]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for line, dtype in zip(axes, ("float32", "bfloat16"), strict=True):
        for axis, mode in zip(line, ("inference", "training"), strict=True):
            chosen = sorted(
                (row for row in dense if (row["dtype"], row["mode"]) == (dtype, mode)), key=lambda row: row["batch"]
            )
            batches = [row["batch"] for row in chosen]
            axis.plot(batches, [row["peak GF/s"] for row in chosen], "k--", label="FMA peak")
            axis.plot(batches, [row["GF/s"] for row in chosen], "o-", label=OURS)
            for name in (TORCH, REFERENCE):
                if chosen and f"GF/s, {name}" in chosen[0]:
                    axis.plot(batches, [row[f"GF/s, {name}"] for row in chosen], "s-", label=name)
            axis.set_title(f"{dtype}, {mode}")
            axis.set_xscale("log", base=2)
            axis.set_xticks(batches, [str(batch) for batch in batches])
            axis.set_ylim(bottom=0)
    for axis in axes[:, 0]:
        axis.set_ylabel("GF/s")
    for axis in axes[1]:
        axis.set_xlabel("batch size")
    axes[0, 0].legend()
    figure.suptitle(f"LSTM layer {first[0]} → {first[1]}, {dense[0]['steps']} steps" if dense else "no dense rows")
    return figure


def main() -> None:
    source = Path(sys.argv[1])
    rows, machine = read_rows(source)
    picture = source.with_suffix(".png")
    layers = [row for row in rows if "kind" not in row]
    steps = [row for row in rows if row.get("kind") == "classifier"]
    language_model_steps = [row for row in rows if row.get("kind") == "language model"]
    small = [row for row in rows if row.get("kind") == "small calls"]
    parts = [f"# {machine}\n"]
    if layers:
        chart(layers).savefig(picture, dpi=110)
        parts.append(markdown(layers, picture.name))
    if small:
        parts.append(small_markdown(small))
    parts += [table_markdown(row) for row in rows if row.get("kind") in TABLES]
    if steps:
        parts.append(classifier_markdown(steps))
    if language_model_steps:
        parts.append(language_model_markdown(language_model_steps))
    source.with_suffix(".md").write_text("\n".join(parts))
    print(source.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
