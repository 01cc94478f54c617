"""Explanations for people: coloured text on a terminal, and in HTML that needs nothing from elsewhere."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ulmfit_fast.inference.explain import Explanation, Weighted

# Blue speaks for, orange against: nearly everybody tells them apart. Dark text keeps a contrast above 7 on each.
_FOR, _AGAINST = (120, 180, 255), (255, 176, 92)
_SHADES = 6
_SHOWN = 12  # of the words that weigh most, in a table
_NAMED = 5  # of them, in a line
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)  # is shown as what it stands for
_WEAK = 0.15  # of the largest weight: what weighs less is not coloured
# The terminal's 256 colours, from weak to strong.
_TERMINAL_FOR, _TERMINAL_AGAINST = (195, 153, 117, 111, 75, 39), (230, 223, 222, 216, 215, 208)

STYLE = """
.wide { overflow-x: auto; }
.explained { line-height: 1.7; white-space: pre-wrap; overflow-wrap: anywhere; }
.explained mark { color: #111; border-radius: .2em; padding: .05em .1em; }
.legend mark { display: inline-block; color: #111; padding: 0 .4em; margin: 0 .2em .2em 0; border-radius: .2em; }
"""


def explanation_lines(explanation: Explanation, colours: bool = False) -> str:
    """For a terminal: what is explained, the text with coloured parts, and those that weigh most.

    Args:
        colours: with the escapes of a terminal; without them the table of parts says it all.
    """
    parts = [coloured(explanation.text, explanation.parts)] if colours else []
    return "\n".join([summary(explanation), *parts, *_table(explanation)])


def summary(explanation: Explanation) -> str:
    """What is predicted and what the weights sum to, in a line."""
    if explanation.label is None:
        about, unit = f"predicted {explanation.evidence:.4g}", ""
    else:
        about = f"predicted {explanation.predicted}; probability of {explanation.label}: {explanation.probability:.4f}"
        unit = f" (log-odds of {explanation.evidence_for})"
    if explanation.method == "attention":
        on_words = sum(part.weight for part in explanation.parts)
        return f"{about}; the weights are shares of the attention, of which words get {on_words:.1%}"
    if explanation.baseline is None:
        return f"{about}; the weights are what is lost without each part{unit}"
    rise = explanation.evidence - explanation.baseline
    return f"{about}; the weights sum to {rise - explanation.missing:+.3f} of {rise:+.3f}{unit}"


def coloured(text: str, parts: Sequence[Weighted]) -> str:
    """The text with a coloured background behind each part that weighs something, in a terminal's escapes."""
    found = []
    for piece, weight in _pieces(text, parts):
        shown = "".join(x if x.isprintable() or x == "\n" else " " for x in _BREAK.sub("\n", piece))
        shade = 0 if not piece.strip() else _shade(weight)
        if shade == 0:
            found.append(shown)
        else:
            colour = (_TERMINAL_FOR if shade > 0 else _TERMINAL_AGAINST)[abs(shade) - 1]
            found.append(f"\x1b[30;48;5;{colour}m{shown}\x1b[0m")
    return "".join(found)


def coloured_html(text: str, parts: Sequence[Weighted]) -> str:
    """The same as HTML: a ``mark`` for each part, whose title is its weight."""
    heaviest = max((abs(part.weight) for part in parts), default=0.0) or 1.0
    found = []
    for piece, weight in _pieces(text, parts):
        piece = _BREAK.sub("\n", piece)
        shade = 0 if not piece.strip() else _shade(weight)
        written = html.escape(printable(piece))
        if shade:
            written = f'<mark style="background:{_colour(shade)}" title="{weight * heaviest:+.3f}">{written}</mark>'
        found.append(written)
    return "".join(found)


def heaviest_parts(explanation: Explanation) -> str:
    """The parts that weigh most with their weights, in a line; empty where there is none."""
    return ", ".join(f"{_short(part.text)} {part.weight:+.2f}" for part in explanation.top(_NAMED))


def explanation_html(explanation: Explanation, style: bool = True) -> str:
    """A piece of HTML: the summary, the text, the parts that weigh most; ``style``: with ``STYLE`` before it."""
    rows = "".join(
        f'<tr><td>{html.escape(printable(_short(part.text)))}</td><td class="number">{part.weight:+.3f}</td>'
        + "".join(f'<td class="number">{share:.1%}</td>' for share in part[4:6] if share is not None)
        + "</tr>"
        for part in explanation.top(_SHOWN)
    )
    more = "<th>of the maxima</th><th>of the mean</th>" if explanation.method == "chunks" else ""
    return (
        f"{f'<style>{STYLE}</style>' if style else ''}<p>{html.escape(printable(summary(explanation)))}</p>"
        f'<p class="explained">{coloured_html(explanation.text, explanation.parts)}</p>'
        f'<p class="legend">{_legend(explanation)}</p>'
        f'<div class="wide"><table><thead><tr><th>part</th><th>weight</th>{more}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _legend(explanation: Explanation) -> str:
    if explanation.method == "attention":
        return f'<mark style="background:{_colour(_SHADES)}">what the model looks at</mark>'
    return legend(explanation.evidence_for)


def legend(evidence_for: str) -> str:
    name = html.escape(printable(evidence_for))
    return (
        f'<mark style="background:{_colour(_SHADES)}">speaks for {name}</mark> '
        f'<mark style="background:{_colour(-_SHADES)}">speaks against it</mark>'
    )


def printable(text: str) -> str:
    """Without characters that HTML does not take."""
    shown = (x if x in "\n\t" or x.isprintable() or (x.isspace() and ord(x) > 159) else "\ufffd" for x in text)
    return "".join(shown)


def _table(explanation: Explanation) -> Iterator[str]:
    top = explanation.top(_SHOWN)
    if not top:
        yield "the text has no words"
        return
    chunks = explanation.method == "chunks"
    yield f"{'weight':>8}  {'of the maxima  of the mean  ' if chunks else ''}part"
    for part in top:
        shares = f"{part.share_of_maximum:>13.1%}  {part.share_of_mean:>11.1%}  " if chunks else ""
        yield f"{part.weight:>+8.3f}  {shares}{_short(part.text)}"


def _short(text: str) -> str:
    text = " ".join(text.split()) or text
    text = "".join(x if x.isprintable() else repr(x)[1:-1] for x in text)
    return text if len(text) <= 60 else f"{text[:40].rstrip()} ... {text[-15:].lstrip()}"


def _pieces(text: str, parts: Sequence[Weighted]) -> Iterator[tuple[str, float]]:
    """The whole text in order, in pieces with their weights, as shares of the largest; what is between has none."""
    heaviest = max((abs(part.weight) for part in parts), default=0.0) or 1.0
    done = 0
    for part in parts:
        start, end = max(part.start, done), max(part.end, done)
        if start > done:
            yield text[done:start], 0.0
        if end > start:
            yield text[start:end], part.weight / heaviest
        done = max(done, end)
    yield text[done:], 0.0


def _shade(weight: float) -> int:
    """From -_SHADES to _SHADES of a weight from -1 to 1; 0 where it is weak."""
    if abs(weight) < _WEAK:
        return 0
    shade = min(_SHADES, 1 + int(abs(weight) * _SHADES))
    return shade if weight > 0 else -shade


def _colour(shade: int) -> str:
    strong, share = (_FOR if shade > 0 else _AGAINST), abs(shade) / _SHADES
    return "#" + "".join(f"{round(255 - share * (255 - each)):02x}" for each in strong)
