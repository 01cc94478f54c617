"""The text rules of fastai's second version, before spaCy splits words: for the very tokens of fastai.

They are kept as they are there, oddities included: models have learned their output. Our own are in ``rules``.
"""

from __future__ import annotations

import html
import re

from ulmfit_fast.text.rules import BOS, MAJ, REP, UNK, UP, WREP

# What wikis and web pages leave in texts, in the order in which it is undone.
_REMAINS = {
    "#39;": "'", "amp;": "&", "#146;": "'", "nbsp;": " ", "#36;": "$", "\\n": "\n", "quot;": "'", "<br />": "\n",
    '\\"': '"', "<unk>": UNK, " @.@ ": ".", " @-@ ": "-", "...": " \u2026",
}  # fmt: skip
_CHARACTER_AGAIN = re.compile(r"(\S)\1{2,}")
# The last of the words must end at white space, another mark, or the text's end, which goes behind them again.
_WORD_AGAIN = re.compile(r"(?:\s|^)(\w+)\s+((?:\1\s+)+)\1(\s|\W|$)")
_APART = re.compile(r"[/#\\]")
_SPACES = re.compile(" {2,}")
_UPPER = re.compile(r"(?:(?<=\s)|^)([A-Z]+[^a-z\s]*)(?=\s|$)")
_CAPITALIZED = re.compile(r"(?:(?<=\s)|^)([A-Z][^A-Z\s]*)(?=\s|$)")


def prepare(text: str) -> str:
    """A text as spaCy's tokenizer is given it: ``xxbos`` and markers in place, in lower case."""
    for remains, character in _REMAINS.items():
        text = text.replace(remains, character)
    text = html.unescape(text)
    text = _CHARACTER_AGAIN.sub(lambda m: f" {REP} {len(m[0])} {m[1]} ", text)
    text = _WORD_AGAIN.sub(lambda m: f" {WREP} {len(m[2].split()) + 2} {m[1]} {m[3]}", text)
    text = _SPACES.sub(" ", _APART.sub(lambda m: f" {m[0]} ", text))
    text = _UPPER.sub(lambda m: _marked(UP, m[1]), text)
    text = _CAPITALIZED.sub(lambda m: _marked(MAJ, m[1]), text)
    return f"{BOS} {text.lower().strip()}"


def _marked(mark: str, word: str) -> str:
    return f"{mark} {word.lower()}" if len(word) > 1 else word.lower()
