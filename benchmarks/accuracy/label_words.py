"""Words that stand for the labels of data sets, and sentences in which a language model may expect them.

They were written down before any of them was measured, and no test text chose among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TEMPLATES: dict[str, list[list[str]]] = {
    "imdb": [
        ["{text} It was {label}."], ["{text} In short, the film is {label}."], ["A {label} film. {text}"],
        ["{text} It was {label}.", "{text} In short, the film is {label}.", "A {label} film. {text}"],
    ],
    "topics": [["{text} This is about {label}."], ["A text about {label}: {text}"], ["In {label}, {text}"]],
}  # fmt: skip
WORDS: dict[str, Mapping[str, Sequence[str]]] = {
    "imdb": {
        "pos": ["great", "good", "wonderful", "excellent", "beautiful"],
        "neg": ["bad", "terrible", "awful", "poor", "boring"],
    },
}


def words_of(name: str, labels: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """The topics' names are their words."""
    return WORDS.get(name) or {label: [label] for label in sorted(set(labels))}


def template_of(name: str) -> list[str]:
    """The first one, for those who use one."""
    if name not in TEMPLATES:
        raise ValueError(f"--set words: there are no words for {name}, only for {', '.join(TEMPLATES)}")
    return TEMPLATES[name][0]
