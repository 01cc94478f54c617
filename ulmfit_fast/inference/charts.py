"""Small charts as SVG within a page. Each has a title and a description, which screen readers say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ulmfit_fast.inference.page import escaped

_WIDTH, _HEIGHT = 360, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 16, 42
_DIGIT = 7  # the width of a tick's characters, which stand left of the axis
COLOURS = ("#1b5fae", "#b34700", "#3d6b1f", "#7a3e9d")  # on white each has a contrast above 5
_DASHES = ("", "6 3", "2 3", "8 3 2 3")  # so that lines differ without their colour, too

Points = Sequence[tuple[float, float]]


def lines_chart(
    title: str, series: Sequence[tuple[str, Points]], x_label: str, y_label: str, *, diagonal: bool = False,
    y_range: tuple[float, float] | None = None, x_range: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Lines with markers; NaN points are left out. ``diagonal``: where y is x, a thin line."""
    axes = _Axes([p for _, points in series for p in points], x_range, y_range)
    drawn = [*axes.frame(x_label, y_label)]
    if diagonal:
        low, high = max(axes.x0, axes.y0), min(axes.x1, axes.y1)
        drawn.append(_line(axes.at(low, low), axes.at(high, high), "#777", "1 3"))
    legend = []
    for place, (name, points) in enumerate(series):
        colour, dash = COLOURS[place % len(COLOURS)], _DASHES[place % len(_DASHES)]
        known = [axes.at(x, y) for x, y in points if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in known)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in known]
        legend.append(f'<span style="color:{colour}">&#9679; {escaped(name)}</span>')
    return _figure(title, drawn, " &nbsp; ".join(legend) if len(series) > 1 else "")


def scatter_chart(title: str, points: Points, x_label: str, y_label: str) -> str:
    """Points, and where y is x a thin line."""
    both = [value for point in points for value in point]
    span = (min(both), max(both))
    axes = _Axes(points, span, span)
    drawn = [*axes.frame(x_label, y_label), _line(axes.at(axes.x0, axes.y0), axes.at(axes.x1, axes.y1), "#777", "1 3")]
    places = (axes.at(*point) for point in points)
    drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[0]}" fill-opacity="0.5"/>' for x, y in places]
    return _figure(title, drawn)


def bars_chart(title: str, bars: Sequence[tuple[str, float]], x_label: str, y_label: str) -> str:
    """Upright bars with names below."""
    axes = _Axes([(0, 0), *((i + 1, height) for i, (_, height) in enumerate(bars))], (0, max(len(bars), 1)), None)
    drawn = [*axes.frame(x_label, y_label, x_ticks=False)]
    for i, (name, height) in enumerate(bars):
        (left, top), (right, bottom) = axes.at(i + 0.1, height), axes.at(i + 0.9, 0)
        above = f'x="{(left + right) / 2:.1f}" y="{top - 4:.1f}" text-anchor="middle"'
        drawn.append(f"<text {above}>{_tick(height)}</text>")
        drawn.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{max(bottom - top, 0):.1f}" '
            f'fill="{COLOURS[0]}"/>'
        )
        middle, below = (left + right) / 2, _HEIGHT - _BOTTOM + 15
        drawn.append(f'<text x="{middle:.1f}" y="{below}" text-anchor="middle">{escaped(name)}</text>')
    return _figure(title, drawn)


class _Axes:
    def __init__(
        self, points: Points, x_range: tuple[float, float] | None, y_range: tuple[float, float] | None
    ) -> None:
        known = np.array([p for p in points if all(map(math.isfinite, p))] or [(0, 0)], dtype=np.float64)
        self.x0, self.x1 = x_range or (float(known[:, 0].min()), float(known[:, 0].max()))
        self.y0, self.y1 = y_range or (min(0.0, float(known[:, 1].min())), float(known[:, 1].max()) * 1.05)
        if self.x1 <= self.x0:
            self.x0, self.x1 = self.x0 - 1, self.x0 + 1
        if self.y1 <= self.y0:
            self.y0, self.y1 = self.y0 - 1, self.y0 + 1
        self.left = _LEFT + _DIGIT * max(len(_tick(value)) for value in _ticks(self.y0, self.y1) or [0.0])

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x0) / (self.x1 - self.x0)
        up = (y - self.y0) / (self.y1 - self.y0)
        return self.left + across * (_WIDTH - self.left - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, x_label: str, y_label: str, x_ticks: bool = True) -> Iterator[str]:
        """Axes, their numbers and names."""
        for value in _ticks(self.y0, self.y1):
            x, y = self.at(self.x0, value)
            yield _line((x, y), self.at(self.x1, value), "#ddd")
            yield f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>'
        for value in _ticks(self.x0, self.x1) if x_ticks else ():
            x, y = self.at(value, self.y0)
            yield _line((x, y), (x, y + 4), "#555")
            yield f'<text x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle">{_tick(value)}</text>'
        yield _line(self.at(self.x0, self.y0), self.at(self.x1, self.y0), "#555")
        middle = (self.left + _WIDTH - _RIGHT) / 2
        yield f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escaped(x_label)}</text>'
        half = (_TOP + _HEIGHT - _BOTTOM) / 2
        yield f'<text transform="translate(13 {half:.1f}) rotate(-90)" text-anchor="middle">{escaped(y_label)}</text>'


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e7 else f"{value:.6g}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within, about five."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next((m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 5), 10)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, dash: str = "") -> str:
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}" '
        f'stroke-dasharray="{dash}"/>'
    )


def _figure(title: str, drawn: Sequence[str], caption: str = "") -> str:
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
    return (
        f"<figure><svg {box}><title>{escaped(title)}</title>{''.join(drawn)}</svg>"
        f"<figcaption>{escaped(title)}{'<br>' if caption else ''}{caption}</figcaption></figure>"
    )
