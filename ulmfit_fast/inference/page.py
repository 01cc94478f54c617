"""HTML pages that need nothing from elsewhere: no script, no font, no picture of other files."""

from __future__ import annotations

import html

from ulmfit_fast.inference.highlight import STYLE, printable

_STYLE = """
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top;
  overflow-wrap: normal; }
th { font-weight: 600; } th .note { font-weight: 400; margin-left: .6rem; }
thead th { vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
/* What is wider than the page scrolls by itself, and a shadow says that there is more. */
.wide { overflow-x: auto; background: linear-gradient(to right, #fff 40%, transparent) left,
  linear-gradient(to left, #fff 40%, transparent) right, linear-gradient(to right, #0003, transparent) left,
  linear-gradient(to left, #0003, transparent) right; background-repeat: no-repeat;
  background-size: 2rem 100%, 2rem 100%, .6rem 100%, .6rem 100%; background-attachment: local, local, scroll, scroll; }
.note { color: #555; font-size: .9rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2.5rem; }
.pair > * { min-width: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }
.tile { border: 1px solid #ccc; border-radius: .5rem; padding: .5rem .9rem; flex: 0 1 11rem; min-width: 9rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile .note { display: block; font-size: .85rem; }
.matrix td { text-align: right; min-width: 3.6rem; border: 2px solid #fff; } .matrix small { display: block; }
.matrix thead th { white-space: normal; } .matrix th, .matrix td { padding: .25rem .35rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; flex: 1 1 18rem; max-width: 30rem; } figcaption { font-size: .9rem; color: #555; }
svg { width: 100%; height: auto; display: block; } svg text { font: 12px system-ui, sans-serif; fill: #1a1a1a; }
details { margin: .5rem 0; } summary { cursor: pointer; padding: .3rem 0; }
.text { border-left: 4px solid #ccc; padding-left: .8rem; margin: .5rem 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
@media (max-width: 30rem) {
  th, td { padding: .25rem .35rem; } table { font-size: .9rem; } .tile { flex: 1 1 9rem; }
  th .note { display: block; margin: 0; min-width: 8rem; }
}
"""


def page(title: str, body: str) -> str:
    """A whole page; ``body`` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def escaped(text: object) -> str:
    """Any text as HTML shows it."""
    return html.escape(printable(str(text)))


def table(head: list[str], rows: list[list[str]], numbers: bool = True, caption: str = "") -> str:
    """A table of HTML cells, which scrolls by itself where it is wide; all columns but the first are numbers."""
    cell = ' class="number"' if numbers else ""
    first, *others = head
    top = f'<th scope="col">{first}</th>' + "".join(f'<th scope="col"{cell}>{each}</th>' for each in others)
    lines = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td{cell}>{each}</td>" for each in row[1:]) + "</tr>"
        for row in rows
    )
    about = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="wide"><table>{about}<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'
