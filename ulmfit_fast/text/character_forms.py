"""One form for what Unicode can write in several: composed letters, quotes, line ends, what has no width, lower case.

Not NFKC, which also changes what is said: x², ½, ① and ™ stay as they are.
"""

from __future__ import annotations

import functools
import re
import unicodedata

JOINERS = "\u200c\u200d"  # they belong to the word in which they stand (Persian, Hindi)

_QUOTES = dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u02bc\u00b4\uff07"), "'") | dict.fromkeys(
    map(ord, "\u201c\u201d\u201e\u201f\uff02"), '"'
)
_DASHES = {0x2010: "-", 0x2011: "-"}  # hyphens; longer dashes are marks of their own
_SPACES = dict.fromkeys([0xA0, *range(0x2000, 0x200A + 1), 0x200B, 0x202F, 0x205F, 0x3000], " ")
_LINE_ENDS = dict.fromkeys([0x2028, 0x2029], "\n")
# Soft hyphens, directions, word joiners, byte order marks, variation selectors: seen by nobody.
_INVISIBLE: dict[int, None] = dict.fromkeys(
    [0xAD, 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF,
     *range(0xFE00, 0xFE10), *range(0xE0000, 0xE01F0)]
)  # fmt: skip
# Ligatures, letters and digits of full and half width.
_SPELLED = {
    c: unicodedata.normalize("NFKC", chr(c))
    for c in [0x17F, *range(0xFB00, 0xFB07), *range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B),
              *range(0xFF66, 0xFFDD)]
}  # fmt: skip
# Control characters that no text has mean windows-1252, as HTML reads their numbers.
_CONTROLS = {c: bytes([c]).decode("cp1252", "replace").replace("\ufffd", " ") for c in range(0x80, 0xA0)}
# Lower case is to have the length of upper case: the Turkish I with a dot would get two characters. And one sigma.
_OTHERS = {0x130: "I", 0x2026: "...", 0x3C2: "\u03c3"}
_FORMS: dict[int, str | None] = {
    **_QUOTES, **_DASHES, **_SPACES, **_LINE_ENDS, **_INVISIBLE, **_SPELLED, **_OTHERS,
}  # fmt: skip
_FORMS |= {c: text.translate(_FORMS) for c, text in _CONTROLS.items()}
_SEVERAL_JOINERS = re.compile(f"([{JOINERS}])[{JOINERS}]+")


def settle(text: str) -> str:
    """The text in one form: NFC, straight quotes, ASCII's spaces, nothing invisible. It sees nothing over a space."""
    text = unicodedata.normalize("NFC", text).translate(_FORMS).replace("i\u0307", "i")
    if "\u200c" in text or "\u200d" in text:
        text = _stray_joiner().sub("", _SEVERAL_JOINERS.sub(r"\1", text))
    return unicodedata.normalize("NFC", text).replace("\u0130", "I")  # two dots, one of them composed again


def lower(text: str) -> str:
    """A settled text in lower case, of the same length; each sigma is the one of a word's middle (``final``)."""
    text = text.lower()
    return text if text.isascii() else text.replace("\u03c2", "\u03c3")


def final(word: str) -> str:
    """A word of ``lower`` as it is written: the Greek sigma has a form of its own at the end."""
    return word[:-1] + "\u03c2" if word[-1] == "\u03c3" and len(word) > 1 else word


@functools.cache
def combining_marks() -> str:
    """The characters that belong to the one before them, as ranges of a regular expression's class."""
    ranges: list[list[int]] = []
    for c in range(0x300, 0x1F000):  # beyond are variation selectors alone
        if unicodedata.category(chr(c))[0] == "M":
            if ranges and ranges[-1][1] == c - 1:
                ranges[-1][1] = c
            else:
                ranges.append([c, c])
    return "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in ranges)


@functools.cache
def _stray_joiner() -> re.Pattern[str]:
    word = rf"\w{combining_marks()}"
    return re.compile(f"(?<![{word}])[{JOINERS}]|[{JOINERS}](?![{word}])")
