"""From lines of results to tables, the losses shown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

from benchmarks.accuracy import results
from benchmarks.accuracy.data import METRICS
from benchmarks.accuracy.models import MODELS
from benchmarks.accuracy.results import Line

NAME = "README.md"
LOWER_IS_BETTER = ("error",)
Group = dict[int, list[Line]]  # runs by their number of labels


def write_report(folder: Path) -> str:
    """Renders all ``*.jsonl`` of a folder into its README.md and returns the text."""
    text = render([line for path in sorted(folder.glob("*.jsonl")) for line in results.read(path).values()])
    (folder / NAME).write_text(text, encoding="utf-8")
    return text


def render(lines: Iterable[Line]) -> str:
    by_data_set: dict[str, list[Line]] = {}
    for line in lines:
        by_data_set.setdefault(line["data set"], []).append(line)
    parts = [
        "# Accuracy, ours and what users would pick instead", "",
        "Written by `python -m benchmarks.accuracy report` from the `.jsonl` files here, a line a run. A cell is the",
        "mean over the draws of labels, ± their standard deviation, and in parentheses their number. Each model was",
        "given the same draws, and no model saw a test label. The best of a column is bold.", "",
    ]  # fmt: skip
    for name, own in by_data_set.items():
        parts += _section(name, own)
    return "\n".join(parts)


def title(line: Line) -> str:
    settings = ", ".join(f"{name} {_shown(value)}" for name, value in sorted(line["settings"].items()))
    return MODELS[line["model"]][2] + (f" ({settings})" if settings else "")


def _shown(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)


def _section(name: str, lines: list[Line]) -> list[str]:
    order = list(MODELS)
    lines = sorted(lines, key=lambda line: (order.index(line["model"]), title(line), line["draw"]))
    models: dict[str, Group] = {}
    for line in lines:
        models.setdefault(title(line), {}).setdefault(line["labels"], []).append(line)
    counts = sorted({line["labels"] for line in lines})
    main = METRICS.get(name, "accuracy")
    metrics = [main, *sorted({metric for line in lines for metric in line["scores"]} - {main})]
    parts = [f"## {name}", "", f"{max(line['test texts'] for line in lines):,} test texts.", *_other_draws(lines), ""]
    for metric in metrics:
        parts += [*_table(models, counts, metric), ""]
    parts += [*_losses(models, counts, main), "", *_costs(models, counts), ""]
    commands = sorted({line["command"] for line in lines})
    parts += ["Commands:", "", "```", *commands, "```", ""]
    machines = sorted({f"{line['machine']}, {line['date']}, commit {line['commit']}" for line in lines})
    versions = sorted({f"{package} {version}" for line in lines for package, version in line["versions"].items()})
    return [*parts, f"On {'; '.join(machines)}. Versions: {', '.join(versions)}.", ""]


def _other_draws(lines: list[Line]) -> list[str]:
    """A warning where runs of one number and draw were not given the same texts."""
    texts: dict[tuple[int, int], set[str]] = {}
    for line in lines:
        texts.setdefault((line["labels"], line["draw"]), set()).add(line["rows"])
    wrong = [f"{labels:,} labels, draw {draw}" for (labels, draw), rows in sorted(texts.items()) if len(rows) > 1]
    return [f"**Not comparable, as the texts differ: {'; '.join(wrong)}.**"] if wrong else []


def _table(models: dict[str, Group], counts: list[int], metric: str) -> list[str]:
    means = {(name, n): _mean(group.get(n, []), metric) for name, group in models.items() for n in counts}
    best = {n: _best([m for (_, own), m in means.items() if own == n and m is not None], metric) for n in counts}
    rows = [[metric, *(f"{n:,} labels" for n in counts)], ["---"] * (1 + len(counts))]
    for name, group in models.items():
        cells = [name]
        for n in counts:
            mean = means[name, n]
            if mean is None:
                cells.append("")
                continue
            values = _scores(group[n], metric)
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            shown = f"**{mean:.3f}**" if mean == best[n] else f"{mean:.3f}"
            cells.append(f"{shown}{spread} ({len(values)})")
        rows.append(cells)
    return _markdown(rows)


def _costs(models: dict[str, Group], counts: list[int]) -> list[str]:
    rows = [
        ["seconds, median", "labels", "training", "prediction", "CPU, training", "CPU, prediction", "peak MB"],
        ["---"] * 7,
    ]
    for name, group in models.items():
        for n in counts:
            if own := group.get(n):
                train = statistics.median(line["train seconds"] + line["train seconds from cache"] for line in own)
                test = statistics.median(line["predict seconds"] + line["predict seconds from cache"] for line in own)
                cells = [name, f"{n:,}", f"{train:.1f}", f"{test:.1f}"]
                for part in ("train", "predict"):
                    cached = any(line[f"{part} seconds from cache"] for line in own)
                    cpu = statistics.median(line[f"{part} CPU seconds"] for line in own)
                    cells.append("in a cache" if cached else f"{cpu:.1f}")
                memory = [line["peak MB"] for line in own if line["peak MB"] is not None]
                rows.append([*cells, f"{statistics.median(memory):,.0f}" if memory else ""])
    loads = [line["load"] for group in models.values() for own in group.values() for line in own]
    return [
        *_markdown(rows), "",
        f"The machine had other work beside (load {min(loads):.1f} to {max(loads):.1f}): seconds are upper bounds. "
        "Where vectors came from a cache, the seconds are those of the run that computed them, and its memory is not "
        "counted. Peak memory is beyond the texts.",
    ]  # fmt: skip


def _losses(models: dict[str, Group], counts: list[int], metric: str) -> list[str]:
    """Where the best of ours is behind the best of the others."""
    lines = []
    for n in counts:
        found: dict[bool, list[tuple[float, str]]] = {True: [], False: []}
        for name, group in models.items():
            mean = _mean(group.get(n, []), metric)
            if mean is not None:
                found[group[n][0]["model"].startswith("ours")].append((mean, name))
        if not found[True] or not found[False]:
            continue
        pick = min if metric in LOWER_IS_BETTER else max
        (mine, my_name), (theirs, their_name) = pick(found[True]), pick(found[False])
        if pick(mine, theirs) != mine:
            lines.append(f"- {n:,} labels: {my_name} {mine:.3f}, {their_name} {theirs:.3f}.")
    if lines:
        return ["Where ours is behind:", "", *lines]
    ran = any(own[0]["model"].startswith("ours") for group in models.values() for own in group.values())
    return ["Ours is behind nowhere." if ran else "Ours has not run yet."]


def _scores(lines: list[Line], metric: str) -> list[float]:
    return [line["scores"][metric] for line in lines if metric in line["scores"]]


def _mean(lines: list[Line], metric: str) -> float | None:
    values = _scores(lines, metric)
    return statistics.mean(values) if values else None


def _best(values: list[float], metric: str) -> float | None:
    pick = min if metric.split(",")[0] in LOWER_IS_BETTER else max
    return pick(values) if values else None


def _markdown(rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in rows]
