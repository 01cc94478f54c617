"""fastai's own tokens: its text rules, then spaCy's tokenizer. Needs the extra ``spacy``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.core.fork import lock_that_forks_wait_for
from ulmfit_fast.text import fastai_2_rules
from ulmfit_fast.text.piece_table import in_pieces
from ulmfit_fast.text.rules import BOS, PAD, RULES_VERSION, SPECIAL_TOKENS, UNK, encodable
from ulmfit_fast.text.tokenizer import DIRECTIONS, Tokenizer

KIND = "spacy"
_FILLER = "xxfake"  # brings fastai's vocabularies to a multiple of 8; no text has it
_CHARACTERS_AT_A_TIME = 1 << 20


class SpacyTokenizer(Tokenizer):
    """Words as fastai 2 has them, to the id: its rules, spaCy's blank tokenizer, ``xxbos`` first.

    It is slower than the tokenizer "word" (about a tenth of its rate) and cannot read a text that still comes
    (``TextStream``). Its words depend on spaCy's version.

    Args:
        vocabulary: words in the order of their ids, as fastai's ``dls.vocab``. Special tokens that stand elsewhere or
            are missing come first, each word counts once.
        language: of spaCy's tokenizer, as fastai's ``SpacyTokenizer(lang)``.
        direction: "forward" or "backward".

    Raises:
        InputError: an unknown language or direction.
        ImportError: spaCy is missing.
    """

    takes_parts = False
    described = "the tokenizer spacy"
    uses_rules = False
    takes_new_words = True
    rules_version = RULES_VERSION

    def __init__(self, vocabulary: Iterable[str], language: str = "en", direction: str = "forward") -> None:
        if direction not in DIRECTIONS:
            raise InputError(f"a tokenizer's direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
        self._words = list(dict.fromkeys([*SPECIAL_TOKENS, *map(encodable, vocabulary)]))
        self.language, self.direction = language, direction
        self._ids = {word: i for i, word in enumerate(self._words) if word != _FILLER}
        self.unk_id, self.pad_id, self.bos_id = (self._ids[name] for name in (UNK, PAD, BOS))
        self._spacy = _blank(language)
        self._lock = lock_that_forks_wait_for()  # spaCy's store of strings changes while it splits

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], vocab_size: int, min_frequency: int, *_: Any, language: str = "en"
    ) -> SpacyTokenizer:
        """The vocabulary that fastai makes of these counts, in its order: the frequent first, then who came first."""
        return cls(_frequent(counts, vocab_size, min_frequency), language)

    @classmethod
    def of_texts(cls, texts: Iterable[str], vocab_size: int, min_frequency: int) -> SpacyTokenizer:
        """Over the frequent words of raw texts, read once."""
        return cls.from_counts(cls([]).count(texts), vocab_size, min_frequency)

    def __reduce__(self) -> tuple[Any, ...]:
        return SpacyTokenizer, (self._words, self.language, self.direction)

    def reading(self, direction: str) -> SpacyTokenizer:
        """The same vocabulary, "forward" or "backward"."""
        return SpacyTokenizer(self._words, self.language, direction)

    def over(self, counts: Mapping[str, int], vocab_size: int, min_frequency: int) -> SpacyTokenizer:
        """As ``Tokenizer.over``: the texts' frequent words, then this vocabulary's while there is room."""
        limit = max(vocab_size, len(self))
        frequent = _frequent(counts, limit, min_frequency)
        words = list(dict.fromkeys([*SPECIAL_TOKENS, *frequent, *self._words]))[:limit]
        return SpacyTokenizer(words, self.language, self.direction)

    @classmethod
    def of_contents(cls, contents: dict[str, Any]) -> SpacyTokenizer:
        """Of what ``to_json`` holds. Raises InputError for damaged contents."""
        try:
            words, language = contents["vocabulary"], contents["language"]
        except KeyError as error:
            raise InputError(f"not a readable spaCy tokenizer (it lacks {error})") from None
        if not isinstance(language, str) or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise InputError("not a readable spaCy tokenizer (its vocabulary is no list of words)")
        return cls(words, language, contents.get("direction", "forward"))

    def to_json(self) -> str:
        """The contents of its ``tokenizer.json``."""
        contents: dict[str, Any] = {} if self.direction == "forward" else {"direction": self.direction}
        contents |= {"type": KIND, "language": self.language, "vocabulary": self._words}
        return json.dumps(contents, ensure_ascii=False)

    @property
    def kind(self) -> str:
        return KIND

    def __len__(self) -> int:
        return len(self._words)

    @property
    def vocabulary(self) -> list[str]:
        """Tokens in the order of their ids."""
        return list(self._words)

    def encode(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Each text's token ids, int32 [length >= 1], the first (backward: the last) being ``xxbos``."""
        for batch in self._split(texts):
            for tokens in batch:
                ids = np.array([self._ids.get(token, self.unk_id) for token in tokens], np.int32)
                yield ids if self.direction == "forward" else ids[::-1].copy()

    def count(self, texts: Iterable[str]) -> Counter[str]:
        """How often raw texts, read once, have each token, in the order in which they came."""
        counts = Counter[str]()
        for batch in self._split(texts):
            for tokens in batch:
                counts.update(tokens)
        return counts

    def tokens(self, text: str) -> list[str]:
        """One text's tokens in the order of the text, without ``xxbos``; unknown ones as ``xxunk``."""
        ((tokens,),) = self._split([text])
        return [token if token in self._ids else UNK for token in tokens[1:]]

    def can_be_token(self, word: str) -> bool:
        """Whether texts can have ``word`` as a token."""
        ((tokens,),) = self._split([word])
        return tokens[1:] == [word]

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids as text, special tokens left out; for reading, not an exact inverse."""
        words = [self._words[int(i)] for i in ids if int(i) >= len(SPECIAL_TOKENS)]
        return " ".join(words if self.direction == "forward" else words[::-1])

    def _split(self, texts: Iterable[str]) -> Iterator[list[list[str]]]:
        """Each text's tokens, ``xxbos`` first, some texts at a time, after which spaCy forgets their words."""
        for batch in in_pieces(texts, _CHARACTERS_AT_A_TIME):
            with self._lock, self._spacy.memory_zone():
                split = self._spacy.tokenizer
                found = [
                    [token.text.replace(" ", "\u2581") for token in split(fastai_2_rules.prepare(encodable(text)))]
                    for text in batch
                ]
            yield found


def _frequent(counts: Mapping[str, int], vocab_size: int, min_frequency: int) -> list[str]:
    words = [word for word, count in counts.items() if count >= min_frequency and word not in SPECIAL_TOKENS]
    words.sort(key=lambda word: -counts[word])  # stable, as fastai's order is
    return words[: max(vocab_size - len(SPECIAL_TOKENS), 0)]


def _blank(language: str) -> Any:
    try:
        import spacy
    except ImportError as error:
        raise ImportError(
            "the tokenizer spacy needs spaCy, which is not installed; in ulmfit_fast's source folder: "
            "pip install --no-build-isolation '.[spacy]'"
        ) from error
    try:
        blank = spacy.blank(language)
    except ImportError as error:
        raise InputError(f"spaCy has no tokenizer of the language {language!r} ({shortened(error)})") from None
    for token in SPECIAL_TOKENS:
        blank.tokenizer.add_special_case(token, [{spacy.symbols.ORTH: token}])
    return blank
