"""``ulmfit-fast explain``: which words of a text speak for its prediction."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click

from ulmfit_fast.cli import options
from ulmfit_fast.cli.device import device_option
from ulmfit_fast.core.console import is_terminal, say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.explain import GRADIENTS, METHODS, Explanation, explain
from ulmfit_fast.inference.highlight import explanation_html, explanation_lines
from ulmfit_fast.inference.page import page
from ulmfit_fast.text.files import iterate_texts
from ulmfit_fast.text.outputs import OutputFile
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.rules import encodable

_METHODS = {name.replace("_", "-"): name for name in METHODS}
_FILES = 10  # texts of a file, unless told otherwise


@click.command("explain")
@click.argument("text", required=False)
@click.option("--texts", "source", type=Path, help="file or folder of texts to explain, in place of TEXT")
@options.classifiers
@click.option(
    "--method", default=GRADIENTS.replace("_", "-"), type=click.Choice(list(_METHODS)), show_default=True,
    help="integrated-gradients: the part of each word; occlusion, sentence-occlusion: what is lost without it; chunks: "
    "the parts of a long text; attention: what a model with attention pooling looks at",
)  # fmt: skip
@click.option("--label", help="explain this label  [default: the predicted one]")
@click.option("--chunk-tokens", type=click.IntRange(min=1), help="of --method chunks  [default: as in training]")
@click.option("--html", "html_file", type=Path, help="write a page with the coloured texts")
@click.option("--json", "json_file", type=Path, help="write one JSON object a line for each text; - is standard output")
@click.option("--overwrite", is_flag=True, help="replace the output files")
@options.reading_options()
@click.option("--max-texts", type=click.IntRange(min=1), help=f"of --texts, the first  [default: {_FILES}]")
@device_option
def explain_command(
    text: str | None, source: Path | None, folders: tuple[Path, ...], method: str, label: str | None,
    chunk_tokens: int | None, html_file: Path | None, json_file: Path | None, overwrite: bool, reading: ReadOptions,
    max_texts: int | None, device: str,
) -> None:  # fmt: skip
    """Show which words of a TEXT speak for its prediction.

    A word's weight is its part of the label's log-odds, or of the number that is predicted. Blue words speak for the
    label, orange ones against it. Where colours are not shown (the output is no terminal, or NO_COLOR is set), there is
    the list of the heaviest words.
    """
    if (text is None) == (source is None):
        raise InputError("explain: give a TEXT, or --texts FILE")
    if source is None:
        options.refuse_given((*options.OF_READING, "max_texts"), "TEXT is given, not a file of texts")
    else:
        options.refuse_unused_reading(reading, source)
    if chunk_tokens is not None and method != "chunks":
        options.refuse_given(("chunk_tokens",), "it is of --method chunks")
    outputs = [OutputFile(path) for path in (html_file, json_file) if path is not None]
    for output in outputs:
        if output.exists() and not overwrite:
            raise InputError(f"{output.path}: exists; choose another file or pass --overwrite")
    texts = [encodable(text)] if text is not None else list(_first(source, reading, max_texts or _FILES))
    classifiers = Classifiers.load(folders, device)
    found: list[Explanation] = []
    colours = is_terminal(sys.stdout) and "NO_COLOR" not in os.environ
    to_standard_output = any(output.is_standard for output in outputs)
    for each in texts:
        found.append(
            explain(classifiers.members, each, _METHODS[method], label, chunk_tokens=chunk_tokens, progress=True)
        )
        if not to_standard_output:
            say(explanation_lines(found[-1], colours) + ("\n" if len(texts) > 1 else ""))
    if html_file is not None:
        body = "".join(f"<section>{explanation_html(each, style=False)}</section>" for each in found)
        with OutputFile(html_file) as file:
            file.write(page("Explanations", f"<h1>Explanations</h1>{body}").encode())
    if json_file is not None:
        with OutputFile(json_file) as file:
            for explanation in found:
                file.write((json.dumps(explanation.to_dict(), ensure_ascii=False) + "\n").encode())


def _first(source: Path | None, reading: ReadOptions, count: int) -> Iterator[str]:
    assert source is not None
    return islice(iterate_texts(source, reading), count)


COMMANDS = {explain_command.name: explain_command}
