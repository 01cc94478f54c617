"""Version 2 of the text rules: tokens depend neither on case, nor on quotes, nor on Unicode's form."""
# ruff: noqa: RUF001

from __future__ import annotations

import sys
import time
import unicodedata

import pytest
from hypothesis import example, given

from tests.text.any_text import any_text
from ulmfit_fast.text.character_forms import lower, settle
from ulmfit_fast.text.rules import MAJ, UP, apply_rules
from ulmfit_fast.text.tokenizer import Tokenizer

TOKENIZERS = [
    Tokenizer.train_words(["a no 1 ,"], min_frequency=1),
    Tokenizer.train_words(["a no 1 ,"], min_frequency=1, rules_version=1),
    Tokenizer.train_subwords(["a no 1 ,"] * 3, 30),
]


def without_case(text: str) -> list[str]:
    return [token for token in apply_rules(text).split(" ") if token not in (MAJ, UP)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris", "xxmaj paris"),
        ("NASA and I", "xxup nasa and xxmaj i"),
        ("iPhone", "iphone"),
        ("École ÉCOLE", "xxmaj école xxup école"),
        ("sooooo SOOOO", "s xxrep 5 o xxmaj s xxrep 4 xxup o"),
        ("Ooooh", "xxrep 4 xxmaj o h"),
        ("no!!!!", "no xxrep 4 !"),
        ("no!!!", "no ! ! !"),
        ("very very very good", "xxwrep 3 very good"),
        ("No no\n NO. no, no", "xxwrep 3 xxmaj no . no , no"),
        ("very very good", "very very good"),
        ("x-no no no-y", "x - xxwrep 3 no - y"),
        ("a &amp; b<br />c", "a & b \n c"),
        ("and/or #1", "and / or # 1"),
        ("  two   spaces ", "two spaces"),
        ("\n\na\n\nb\n", "a \n \n b"),
        ("a\r\nb\rc\u2028d", "a \n b \n c \n d"),
        ("", ""),
        ("don't DON'T Don’t", "do n't xxup do n't xxmaj do n't"),
        ("can’t it’s IT'S I'M I'm", "ca n't it 's xxup it 's xxmaj i 'm xxmaj i 'm"),
        ("O'Brien's O’BRIEN’S", "xxmaj o ' xxmaj brien 's xxmaj o ' xxup brien 's"),
        ("3.14 10,000 3D 1ST H2O", "3.14 10,000 3 d 1 st xxup h2o"),
        ("E\u0301TE\u0301 x\u0308\u0331x", "xxup été ẍ\u0331x"),
        ("m\u0308m\u0308m\u0308m\u0308", "xxrep 4 m\u0308"),
        ("\u01c5ungla \u01c4UNGLA", "xxmaj \u01c6ungla xxup \u01c6ungla"),
        ("Straße STRAẞE", "xxmaj straße xxup straße"),
        ("İstanbul i\u0307stanbul", "xxmaj istanbul istanbul"),
        ("ΟΔΟΣ Οδος Σ", "xxup οδος xxmaj οδος xxmaj σ"),
        ("so… 2009–11", "so . . . 2009 – 11"),
        ("ＡＢＣ１２ ｶﾞ ﬁnd", "xxup abc12 ガ find"),
        ("x² ½ ™", "x² ½ ™"),
        ("soft\u00adware zero\u200bwidth \ufeffmark no\u2060break", "software zero width mark nobreak"),
        ("می\u200cخواهم a\u200d \u200db", "می\u200cخواهم a b"),
        ("\U0001f468\u200d\U0001f469 \u2764\ufe0f", "\U0001f468 \U0001f469 \u2764"),
        ("a\xa0b\u3000c\u202fd", "a b c d"),
        ("it\x92s \x93so\x94\x85", 'it \'s " so " . . .'),
        ("a\x00b", "a b"),
        ("half \ud83d pair", "half ? pair"),
        ("&#x41;&#66; &#" + "1" * 5000 + "; &#" + "0" * 5000 + "65;", "xxup ab \ufffd xxmaj a"),
    ],
)
def test_tokens(text: str, expected: str) -> None:
    assert apply_rules(text) == expected


@given(any_text)
def test_lower_case_changes_only_markers(text: str) -> None:
    text = text.replace("&", "")  # &Eacute; is not &eacute;
    assert without_case(text) == without_case(text.lower())


def has_one_upper_case(character: str) -> bool:
    """Whether upper case can be undone: not of ß, the Turkish ı, ſ, or what has no capital of its own."""
    upper = character.upper()
    return len(upper) == 1 and upper.lower() == character.lower() and unicodedata.category(character) != "Mn"


@given(any_text)
@example("don\u2019t o\u03b4\u03bf\u03c2")
def test_upper_case_changes_only_markers(text: str) -> None:
    text = "".join(filter(has_one_upper_case, text.replace("&", "").lower()))
    assert without_case(text.upper()) == without_case(text)


@given(any_text)
def test_forms_of_unicode(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert apply_rules(unicodedata.normalize(form, text)) == apply_rules(text)


@given(any_text)
def test_forms_of_quotes_and_what_nobody_sees(text: str) -> None:
    for other in "\u2018\u2019\u201b\u02bc\uff07":
        assert apply_rules(text.replace("'", other)) == apply_rules(text)
    for other in "\u201c\u201d\u201e\uff02":
        assert apply_rules(text.replace('"', other)) == apply_rules(text)
    plain = text.replace("&", "").replace("<", "")
    assert apply_rules("\ufeff" + "\u00ad".join(plain)) == apply_rules(plain) or "\r\n" in plain


@given(any_text)
def test_a_word_begins_with_what_a_word_is_made_of(text: str) -> None:
    """No marker stands inside a word: each is a token of its own, and what it marks is in lower case."""
    tokens = apply_rules(text).split(" ")
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        assert token == token.lower()
        if token == UP:
            assert following[:1].isalpha()


def test_settled_lower_case_has_the_same_length() -> None:
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code < 0xE000:
            text = settle(f"a{chr(code)}a")
            assert len(lower(text)) == len(text)


@pytest.mark.parametrize(
    "text",
    [c * 100_000 for c in "a.1'_&<# \n\r\u0301\u200d\u4e2d\U0001f600\ud83d"]
    + ["no " * 40_000, "ab" * 50_000, "ab" * 50_000 + ",", "&#" * 50_000, "<br " * 25_000, "e" + "\u0301" * 100_000]
    + ["1," * 50_000, "n'" * 50_000, "n't" * 33_000, "a a b b " * 12_000, "&#" + "1" * 100_000, "a\n\n" * 33_000]
    + ["x\u200d" * 50_000, "<br" + " " * 100_000],
    ids=lambda text: ascii(text[:8]),
)  # fmt: skip
def test_long_texts_of_one_kind_take_linear_time(text: str) -> None:
    """They take some tenths of a second; quadratic work would take minutes."""
    start = time.perf_counter()
    for tokenizer in TOKENIZERS:
        next(tokenizer.encode([text]))
    assert time.perf_counter() - start < 30
