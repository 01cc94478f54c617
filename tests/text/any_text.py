"""Texts for property-based tests: what breaks rules stands beside each other more often than by chance."""

from __future__ import annotations

from hypothesis import strategies as st

_FRAGMENTS = [
    "no", "No", "NO", "the", "film", "can't", "DON'T", "it\u2019s", "O'Brien", "3.14", "10,000", "1st", "H2O", "_a_",
    "aaaa", "....", "!", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\r", "\xa0", "\u2028", "\u200b", "\x0b", "\x1c",
    "\x85", "\x00", "<br />", "<br", "/>", "<BR>", "&amp;", "&#32;", "&#10;", "&nbsp;", "&", "&#", "&lt", ";",
    "&#" + "9" * 5000 + ";", "\ud83d", "\ude00", "\u2581", "\xa8", "e\u0301", "\xe9", "E\u0301", "x\u0308\u0308",
    "\u0301", "\u0130", "i\u0307", "\u0131", "\u03a3", "\u03c3", "\u03c2", "\xdf", "\u1e9e", "\u01c4", "\u01c5",
    "\u2026", "\xad", "\u200c", "\u200d", "\ufe0f", "\U0001f468", "\u2764", "\uff21", "\ufb01", "\uff76\uff9e",
    "\u5f71", "'", '"', "\u2018", "\u2019", "\u201c", "\u201d", "#", "/", "-", "xxmaj",
]  # fmt: skip
any_text = st.one_of(
    st.lists(st.sampled_from(_FRAGMENTS), max_size=14).map("".join),
    st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.characters()), max_size=14).map("".join),
)
