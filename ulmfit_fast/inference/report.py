"""An evaluation as one HTML page that needs nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.inference.charts import bars_chart, lines_chart, scatter_chart
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.evaluation import Evaluation, package_version
from ulmfit_fast.inference.explain import CHUNKS, GRADIENTS, WORDS, Explanation, explain
from ulmfit_fast.inference.highlight import coloured_html, heaviest_parts, legend
from ulmfit_fast.inference.page import escaped, page, table
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.tasks.metrics import METRICS

_EXPLAINED_CHARACTERS = 20_000  # a longer text is explained chunk by chunk, which takes one pass
_SHOWN_CHARACTERS = 6_000  # of a text that is explained
_OPEN_ERRORS = 3  # whose texts are shown; those of the others when they are asked for
_LABEL_CHARACTERS = 40
_FEW_CLASSES = 4  # whose two tables have room beside each other
_ABBREVIATED = {"auroc", "mcc", "ece", "mae", "rmse"}
_MOST_CLASSES = 40  # of a confusion matrix; of more the pairs that are confused most are listed


def report_page(
    evaluation: Evaluation, classifiers: Classifiers, history: Sequence[Mapping[str, Any]] = (), card: str = ""
) -> str:
    """The page.

    Args:
        evaluation: of ``classifiers``, which explain their worst errors.
        history: records of the model's training, an epoch each.
        card: what the model says of itself, in Markdown.
    """
    tables = "".join(
        f"<div>{_section(title, content)}</div>"
        for title, content in (("Confusion", _confusion(evaluation)), ("Classes", _classes(evaluation)))
        if content
    )
    beside = ' class="pair"' if len(evaluation.task.labels) <= _FEW_CLASSES else ""
    below = [
        ("Calibration", _calibration(evaluation)),
        ("Numbers", _numbers(evaluation)),
        ("Worst errors", _errors(evaluation, classifiers)),
        ("Longest and slowest texts", _times(evaluation)),
        ("Training", _training(history)),
        ("Model card", f"<details><summary>What the model says of itself</summary><pre>{escaped(card)}</pre></details>"
         if card else ""),
    ]  # fmt: skip
    top = _section("Scores", _scores(evaluation)) + (f"<div{beside}>{tables}</div>" if tables else "")
    body = top + "".join(_section(*each) for each in below)
    title = f"{_named(evaluation.model)} on {_named(evaluation.table)}"
    head = (
        f"<h1>{escaped(title)}</h1>"
        f'<p class="note">{len(evaluation.texts):,} texts of {escaped(evaluation.table)}; model '
        f"{escaped(evaluation.model)}, task {escaped(evaluation.task.type)}; computed in "
        f"{escaped(classifiers.computes_in)} by ulmfit_fast {escaped(package_version())}</p>"
    )
    return page(title, f"<header>{head}</header><main>{_headlines(evaluation)}{body}</main>")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>" if content else ""


def _named(paths: str) -> str:
    """Files and folders without what leads there."""
    return " and ".join(Path(path).name or path for path in paths.split(" and "))


def _headlines(evaluation: Evaluation) -> str:
    tiles = []
    for name in [name for name, metric in METRICS.items() if metric.headline and name in evaluation.scores]:
        score = evaluation.scores[name]
        between = f"{_number(score.low)} to {_number(score.high)}" if math.isfinite(score.low) else "&nbsp;"
        value = f"<b>{_number(score.value)}</b>"
        tiles.append(f'<div class="tile">{_score_name(name)}{value}<span class="note">{between}</span></div>')
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _score_name(name: str) -> str:
    return escaped(name.upper() if name in _ABBREVIATED else name.replace("_", " ").replace("f1", "F1"))


def _scores(evaluation: Evaluation) -> str:
    rows = []
    for name, score in evaluation.scores.items():
        between = f"{_number(score.low)} to {_number(score.high)}" if math.isfinite(score.low) else "&ndash;"
        says = METRICS[name].says + ("" if METRICS[name].greater_is_better else "; lower is better")
        rows.append([f'{_score_name(name)}<span class="note">{escaped(says)}</span>', _number(score.value), between])
    note = (
        '<p class="note">In 95 of 100 sets of as many texts like these the score would lie within its interval '
        "(bootstrap, percentiles).</p>"
    )
    return table(["score", "value", "95 % interval"], rows) + note


def _confusion(evaluation: Evaluation) -> str:
    matrix, labels = evaluation.findings.confusion, [_label(label) for label in evaluation.task.labels]
    if matrix is None:
        return ""
    if len(labels) > _MOST_CLASSES:
        off = matrix * (1 - np.eye(len(labels), dtype=np.int64))
        order = np.argsort(-off, axis=None, kind="stable")[:20]
        pairs = [divmod(int(each), len(labels)) for each in order if off.flat[each]]
        rows = [[labels[i], labels[j], str(int(matrix[i, j]))] for i, j in pairs]
        return table(["is", "predicted", "texts"], rows)
    of_row = matrix.sum(1, keepdims=True).clip(min=1)
    head = "".join(f'<th scope="col" class="number">{label}</th>' for label in labels)
    lines = [
        f'<tr><th scope="row">{label}</th>{"".join(map(_shaded, counts, shares))}</tr>'
        for label, counts, shares in zip(labels, matrix.tolist(), (matrix / of_row).tolist(), strict=True)
    ]
    return (
        '<div class="wide"><table class="matrix"><thead><tr><th scope="col">is &darr; predicted &rarr;</th>'
        f'{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div><p class="note">Each row holds the texts of '
        "a class; the darker a cell, the larger its share of the row.</p>"
    )


def _shaded(count: int, share: float) -> str:
    """A cell's number on blue; dark text keeps a contrast above 7 on the darkest."""
    colour = "#" + "".join(f"{round(255 - share * (255 - full)):02x}" for full in (120, 180, 255))
    of_row = f" <small>{share:.0%}</small>" if count else ""
    return f'<td style="background-color:{colour}">{count:,}{of_row}</td>'


def _classes(evaluation: Evaluation) -> str:
    rows = [
        [_label(each.label), f"{each.precision:.3f}", f"{each.recall:.3f}", f"{each.f1:.3f}", f"{each.texts:,}",
         f"{each.predicted:,}"]
        for each in evaluation.findings.classes
    ]  # fmt: skip
    return table(["class", "precision", "recall", "F1", "texts", "predicted"], rows) if rows else ""


def _calibration(evaluation: Evaluation) -> str:
    bins = evaluation.findings.bins
    if not bins:
        return ""
    points = [(each.mean, each.right) for each in bins]
    whole = (0.0, 1.0)
    curve = lines_chart(
        "How often predictions of a confidence are right; on the dotted line they are honest", [("", points)],
        "confidence", "share that is right", diagonal=True, x_range=whole, y_range=whole,
    )  # fmt: skip
    bars = bars_chart(
        "How many predictions have it", [(f".{min(int(each.mean * 10), 9)}", each.number) for each in bins],
        "confidence, from this tenth on", "predictions",
    )  # fmt: skip
    rows = [[f"{each.mean:.4f}", f"{each.right:.4f}", f"{each.number:,}"] for each in bins]
    numbers = table(["mean confidence", "share that is right", "predictions"], rows)
    return f'<div class="figures">{curve}{bars}</div><details><summary>The numbers</summary>{numbers}</details>'


def _numbers(evaluation: Evaluation) -> str:
    if evaluation.findings.numbers is None:
        return ""
    expected, predicted = evaluation.findings.numbers
    some = np.random.default_rng(0).permutation(len(expected))[:2000]
    points = list(zip(expected[some].tolist(), predicted[some].tolist(), strict=True))
    title = "What is and what is predicted; on the dotted line they are the same"
    return f'<div class="figures">{scatter_chart(title, points, "is", "predicted")}</div>'


def _errors(evaluation: Evaluation, classifiers: Classifiers) -> str:
    places = evaluation.worst()
    if not places:
        return "<p>There is none: all predictions are right.</p>"
    found = []
    methods = set()
    with progress_bar("explain the worst errors", len(places), "text") as bar:
        for number, place in enumerate(places):
            explained = _explained(classifiers, evaluation.texts[place])
            methods.add(None if explained is None else explained.method)
            found.append(_error(evaluation, place, explained, number < _OPEN_ERRORS))
            bar.update(1)
    notes = " ".join(text for method, text in _OF_METHODS.items() if method in methods)
    if not methods - {None}:
        return f'<p class="note">{notes}</p>{"".join(found)}'
    return f'<p class="legend">{legend("what was predicted")}</p><p class="note">{notes}</p>{"".join(found)}'


_OF_METHODS = {
    GRADIENTS: "A weight is the word's part of the log-odds of what was predicted, or of the number (integrated "
    "gradients).",
    WORDS: "A weight is what the log-odds of what was predicted, or the number, lose without the word (occlusion).",
    CHUNKS: "Of a long text each chunk has one weight.",
    None: "Where nothing is coloured, the models cut the text into other words, whose weights have no mean.",
}


def _error(evaluation: Evaluation, place: int, explained: Explanation | None, is_open: bool) -> str:
    text = evaluation.texts[place]
    confidence = evaluation.task.confidence(evaluation.activated[place : place + 1])
    sure = "" if confidence is None else f" ({confidence[0]:.2%})"
    shown, heaviest = escaped(text[:_SHOWN_CHARACTERS]), ""
    if explained is not None:
        cut = [part._replace(end=min(part.end, _SHOWN_CHARACTERS)) for part in explained.parts]
        shown = coloured_html(text[:_SHOWN_CHARACTERS], [part for part in cut if part.start < part.end])
        heaviest = f'<p class="note">{escaped(heaviest_parts(explained))}</p>'
    rest = f" &hellip; ({len(text) - _SHOWN_CHARACTERS:,} more characters)" if len(text) > _SHOWN_CHARACTERS else ""
    return (
        f"<details{' open' if is_open else ''}><summary><b>row {evaluation.rows[place]:,}: is "
        f"{_shown(evaluation.expected[place])}, predicted {_shown(evaluation.findings.predicted[place])}</b>{sure}"
        f'</summary>{heaviest}<p class="text explained">{shown}{rest}</p></details>'
    )


def _explained(classifiers: Classifiers, text: str) -> Explanation | None:
    """None where several models' words differ."""
    int8 = any(is_quantized(model) for model, *_ in classifiers.members)
    method = WORDS if int8 else GRADIENTS
    if len(text) > (_SHOWN_CHARACTERS if int8 else _EXPLAINED_CHARACTERS):
        method = CHUNKS
    try:
        return explain(classifiers.members, text, method)
    except InputError:
        return None


def _times(evaluation: Evaluation) -> str:
    rows = [
        [
            f"{evaluation.rows[each.place]:,}", f"{each.characters:,}", f"{each.tokens:,}",
            "not timed" if each.seconds is None else f"{1000 * each.seconds:,.1f}",
            "" if not each.seconds else f"{each.tokens / each.seconds:,.0f}",
        ]
        for each in evaluation.timed
    ]  # fmt: skip
    note = (
        '<p class="note">Each predicted alone: the longest texts, and others by chance. Together they are faster.</p>'
    )
    head = ["row", "characters", "tokens", "ms", "tokens/s"]
    return table(head, rows) + note


def _training(history: Sequence[Mapping[str, Any]]) -> str:
    records = [record for record in history if isinstance(record, Mapping)]
    if not records:
        return ""
    charts = []
    for stage, of_stage in _stages(records):
        epochs = range(1, len(of_stage) + 1)
        series = [
            (label, [(float(n), _value(record, key)) for n, record in zip(epochs, of_stage, strict=True)])
            for key, label in (("loss", "training loss"), ("valid_loss", "validation loss"))
            if any(key in record for record in of_stage)
        ]
        if series:
            charts.append(lines_chart(f"{stage}: the loss", series, "epoch", "loss"))
        for name in [name for name in METRICS if any(name in record for record in of_stage)][:1]:
            points = [(float(n), _value(record, name)) for n, record in zip(epochs, of_stage, strict=True)]
            shown = name.replace("_", " ")
            charts.append(lines_chart(f"{stage}: {shown} on the validation texts", [("", points)], "epoch", shown))
    return f'<div class="figures">{"".join(charts)}</div>'


def _stages(records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    for stage in dict.fromkeys(str(record.get("stage", "training")) for record in records):
        yield stage.replace("_", " "), [record for record in records if str(record.get("stage", "training")) == stage]


def _value(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}" if math.isfinite(value) else "&ndash;"


def _label(label: object) -> str:
    text = str(label)
    return escaped(text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 1] + "\u2026")


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_label, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else _label(value)
