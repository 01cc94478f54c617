"""The text rules of fastai's first version, under which MultiFiT's SentencePiece models were trained.

Unlike the rules of word tokenizers here (``rules``) they work on what stands between white space, before a subword
model cuts it. They are kept as they were, oddities included: a model has learned their output.
"""

from __future__ import annotations

import re

from ulmfit_fast.text.rules import BOS, FLD, MAJ, REP, UNK, UP, WREP, unescape

# What wikis and web pages leave in texts, in the order in which it is undone.
_REMAINS = {
    "#39;": "'", "amp;": "&", "#146;": "'", "nbsp;": " ", "#36;": "$", "\\n": "\n", "quot;": "'", "<br />": "\n",
    '\\"': '"', "<unk>": UNK, " @.@ ": ".", " @-@ ": "-", " @,@ ": ",", "\\": " \\ ",
}  # fmt: skip
_SPACES = re.compile(" {2,}")
_CHARACTER_AGAIN = re.compile(r"(\S)(\1{3,})")
_WORD_AGAIN = re.compile(r"(\b\w+\W+)(\1{3,})")
_APART = re.compile(r"[/#\n]")


def prepare(text: str, mark_field: bool) -> str:
    """A well-formed text as the SentencePiece model is given it: markers and words with single spaces between.

    Args:
        text: any.
        mark_field: whether ``xxfld 1`` follows ``xxbos``, as MultiFiT has it.
    """
    text = f"{BOS} {FLD} 1 {text}" if mark_field else f"{BOS} {text}"
    text = text.strip(" ")
    for remains, character in _REMAINS.items():
        text = text.replace(remains, character)
    text = _SPACES.sub(" ", unescape(text))
    text = _CHARACTER_AGAIN.sub(lambda m: f" {REP} {len(m[2]) + 1} {m[1]} ", text)
    text = _WORD_AGAIN.sub(lambda m: f" {WREP} {len(m[2].split()) + 1} {m[1]} ", text)
    text = _SPACES.sub(" ", _APART.sub(lambda m: f" {m[0]} ", text))
    return " ".join(marked for word in text.split() for marked in _case_marked(word))


def _case_marked(word: str) -> tuple[str, ...]:
    """A word in lower case behind the marker of its case."""
    if len(word) > 1 and word.isupper():
        return UP, word.lower()
    if len(word) > 1 and word[0].isupper() and word[1:].islower():
        return MAJ, word.lower()
    return (word.lower(),)
