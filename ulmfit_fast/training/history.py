"""What a run records: an epoch's figures, and the loss within epochs; as a JSON-lines file and as curves."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.errors import shortened
from ulmfit_fast.tasks.metrics import METRICS

Record = dict[str, Any]  # stage, epoch, loss, tokens_per_s, ...


@dataclass
class History:
    """One record an epoch, and the loss within epochs; as a JSON-lines file and as curves."""

    records: list[Record] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)  # (epochs done, mean loss since the last point)

    def write(self, folder: Path) -> None:
        """Write ``history.jsonl`` and ``curves.png``."""
        write_atomically(folder / "history.jsonl", "".join(json.dumps(record) + "\n" for record in self.records))
        try:
            curves = plot_curves(self.records, self.points)
        except OSError as error:  # matplotlib wants a folder for its caches, in HOME or TMPDIR
            warnings.warn(f"{folder}: no curves.png is drawn ({shortened(error)})", stacklevel=2)
            return
        write_atomically(folder / "curves.png", curves)


def plot_curves(records: list[Record], points: Sequence[tuple[float, float]] = ()) -> bytes:
    """Loss and score over the epochs as a PNG image."""
    import io

    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(records) + 1)
    if len(points) > 1:
        axes.plot(*zip(*points, strict=True), color="C0", alpha=0.4, linewidth=1)
    for key, label in (("loss", "training loss"), ("valid_loss", "validation loss")):
        if any(key in record for record in records):
            axes.plot(epochs, [record.get(key, math.nan) for record in records], marker="o", label=label)
    axes.set_xlabel("epoch")
    measured = [name for name in METRICS if any(name in record for record in records)]
    axes.set_ylabel("squared error" if measured and METRICS[measured[0]].of_numbers else "cross-entropy (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = axes.get_legend_handles_labels()
    for name in measured[:1]:
        shown, score = name.replace("_", " "), axes.twinx()
        score.plot(
            epochs, [record.get(name, math.nan) for record in records], "k--", marker="o", label=f"validation {shown}"
        )
        if METRICS[name].is_share:
            score.set_ylim(0, 1)
        score.set_ylabel(shown)
        more_handles, more_labels = score.get_legend_handles_labels()
        handles, labels = handles + more_handles, labels + more_labels
    axes.legend(handles, labels, loc="center right")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
