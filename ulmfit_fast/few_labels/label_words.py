"""Words that stand for labels, and the sentences in which a language model may expect them: what may be given."""

from __future__ import annotations

import string
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ulmfit_fast.core.errors import InputError, InputWarning
from ulmfit_fast.tasks.labels import Label, as_labels, sorted_classes
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.text.tokenizer import Tokenizer

TEMPLATES = ("{text} It was {label}.",)
LabelWords = Mapping[Any, str | Sequence[str]]


def check_label_words(caller: str, argument: str, words: LabelWords) -> dict[Label, tuple[str, ...]]:
    """Each label's words, the labels in the order of ``sorted_classes``.

    Args:
        caller, argument: named in messages.
        words: of each label one word or several.

    Raises:
        TypeError: no mapping; words that are no texts.
        InputError: fewer than two labels; a label without words, or with an empty one.
    """
    if not isinstance(words, Mapping):
        raise TypeError(
            f"{caller}: {argument} must map each label to its words, such as {{'pos': ['great'], 'neg': ['awful']}}, "
            f"got {type(words).__name__}"
        )
    labels = sorted_classes(as_labels(list(words), argument))
    if len(labels) < 2:
        raise InputError(f"{caller}: {argument} must have two labels or more, got {list(words)}")
    found = {}
    for label in labels:
        own = words[label]
        found[label] = tuple(as_texts(caller, [own] if isinstance(own, str) else own, f"{argument} of {label!r}"))
        if not found[label] or not all(word.strip() for word in found[label]):
            raise InputError(f"{caller}: the label {label!r} needs at least one word, and no empty one")
    return found


def words_of_labels(
    caller: str, words: LabelWords, labels: Iterable[Label], argument: str = "label_words"
) -> dict[Label, tuple[str, ...]]:
    """``check_label_words`` for a task with these labels. InputError where it has others."""
    found, expected = check_label_words(caller, argument, words), sorted_classes(set(labels))
    if list(found) != expected:
        raise InputError(f"{caller}: {argument} must name each label and no other: {expected}, got {list(found)}")
    return found


def check_templates(caller: str, templates: Sequence[str]) -> tuple[str, ...]:
    """The templates. TypeError for what is no sequence of texts, InputError where a place is missing."""
    found = tuple(as_texts(caller, templates, "templates"))
    if not found:
        raise InputError(f"{caller}: templates is empty; give one such as {TEMPLATES[0]!r}")
    for template in found:
        try:
            fields = sorted(name for _, name, *_ in string.Formatter().parse(template) if name is not None)
        except ValueError as error:
            raise InputError(f"{caller}: template {template!r}: {error}") from None
        if fields != ["label", "text"]:
            raise InputError(f"{caller}: template {template!r} must have {{text}} once and {{label}} once")
    return found


def known_words(
    caller: str, words: Mapping[Label, tuple[str, ...]], tokenizer: Tokenizer
) -> dict[Label, tuple[str, ...]]:
    """The words that the model knows: all unknown ones are one token, which is often the most probable of all.

    Raises:
        InputError: a backward model; a label of whose words the model knows none.
    """
    if tokenizer.direction != "forward":
        raise InputError(f"{caller}: a backward model reads a template from its end; use a forward one")
    found = {}
    for label, own in words.items():
        found[label] = tuple(word for word in own if not tokenizer.unknown_share(list(tokenizer.encode([word]))))
        if not found[label]:
            raise InputError(f"{caller}: the model knows none of the words of {label!r} ({', '.join(own)})")
        for word in own:
            if word not in found[label]:
                warnings.warn(
                    f"{caller}: the model does not know {word!r}, which is left out", InputWarning, stacklevel=4
                )
    return found
