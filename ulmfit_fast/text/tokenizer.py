"""Word and subword tokenizers with their vocabulary, on the ``tokenizers`` library; saved as its ``tokenizer.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.fork import lock_that_forks_wait_for
from ulmfit_fast.text import rules_v1
from ulmfit_fast.text.piece_table import LINE_BREAK, PieceTable, in_pieces
from ulmfit_fast.text.rule_versions import rules_of, split_whole
from ulmfit_fast.text.rules import BOS, PAD, RULES_VERSION, SPECIAL_TOKENS, UNK, encodable
from ulmfit_fast.text.token_counts import count_tokens
from ulmfit_fast.text.token_pieces import Cutting, SpaceCutting, SubwordCutting, WordCutting

TOKENIZERS = ("word", "subword", "whitespace")
KINDS = (*TOKENIZERS, "spacy")  # with those that other packages bring
DIRECTIONS = ("forward", "backward")
_CHARACTERS_AT_A_TIME = 1 << 20


class Tokenizer:
    """Texts to token ids and back. Every text begins with ``xxbos``; ids 0 to 8 are fastai's special tokens.

    Make one with ``train_words``, ``train_subwords``, ``train_whitespace`` or ``load``. With ``direction`` "backward" a
    text's ids go from the last to ``xxbos``, for models that read texts from their end.

    Any str is a text: half a surrogate pair is read as ``?``, by all methods.
    """

    takes_parts = True  # of a text that still comes (``encode_part``)
    described = "a tokenizer"  # in messages

    def __init__(
        self, backend: tokenizers.Tokenizer, direction: str = "forward", rules_version: int = RULES_VERSION
    ) -> None:
        if direction not in DIRECTIONS:
            raise InputError(f"a tokenizer's direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
        self.backend = backend
        self.direction = direction
        ids = [backend.token_to_id(token) for token in (UNK, PAD, BOS)]
        if None in ids:
            raise InputError(
                f"this tokenizer lacks the special tokens {UNK}, {PAD}, {BOS}: it is not one of ulmfit_fast"
            )
        self.unk_id, self.pad_id, self.bos_id = (int(i) for i in ids if i is not None)
        # fastai's rules belong to its words; the other tokenizers see the text as it is.
        splits_at_space = isinstance(backend.pre_tokenizer, pre_tokenizers.WhitespaceSplit)
        self.uses_rules = isinstance(backend.model, models.WordLevel) and not splits_at_space
        self.rules_version = rules_version if self.uses_rules else RULES_VERSION
        number = _Vocabulary(backend.get_vocab(), self.unk_id).__getitem__
        self._cutting: Cutting = SubwordCutting(backend)
        if self.uses_rules:
            self._cutting = WordCutting(rules_of(rules_version), number)
        elif splits_at_space:
            self._cutting = SpaceCutting(backend, number)
        self._table = PieceTable(self._cutting.numbered, self.bos_id)
        self._lock = lock_that_forks_wait_for()  # the table changes while it is read

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer.from_json, (self.to_json(),)

    @classmethod
    def train(
        cls, kind: str, texts: Iterable[str], vocab_size: int, min_frequency: int, rules_version: int = RULES_VERSION
    ) -> Tokenizer:
        """One of ``KINDS``: ``train_words``, ``train_subwords``, ``train_whitespace``, or fastai's own tokens.

        Raises:
            ImportError: of "spacy", which is not installed.
        """
        if kind == "spacy":
            from ulmfit_fast.text.spacy_tokenizer import SpacyTokenizer  # which knows this class

            return SpacyTokenizer.of_texts(texts, vocab_size, min_frequency)
        if kind == "subword":
            return cls.train_subwords(texts, vocab_size)
        if kind == "whitespace":
            return cls.train_whitespace(texts, vocab_size, min_frequency)
        return cls.train_words(texts, vocab_size, min_frequency, rules_version)

    @classmethod
    def train_words(
        cls, texts: Iterable[str], vocab_size: int = 60_000, min_frequency: int = 3, rules_version: int = RULES_VERSION
    ) -> Tokenizer:
        """A vocabulary of the most frequent words.

        Args:
            texts: raw texts, read once.
            vocab_size: largest vocabulary, special tokens included.
            min_frequency: rarer words become ``xxunk``.
            rules_version: of the text rules; older ones are for what goes on with an older model.
        """
        return cls.from_counts(count_tokens(texts, rules_version), vocab_size, min_frequency, rules_version)

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], vocab_size: int, min_frequency: int, rules_version: int = RULES_VERSION
    ) -> Tokenizer:
        """``train_words``, given how often the texts have each token (``count_tokens``)."""
        # In version 1 a marker that texts have took the place of a word.
        known = () if rules_version == 1 else SPECIAL_TOKENS
        frequent = [token for token, count in counts.items() if count >= min_frequency and token not in known]
        frequent.sort(key=lambda token: (-counts[token], token))
        return cls.from_vocabulary(frequent[: max(vocab_size - len(SPECIAL_TOKENS), 0)], "word", rules_version)

    @property
    def takes_new_words(self) -> bool:
        """Whether a language model can go on with other texts' words (``over``)."""
        return self.uses_rules

    def count(self, texts: Iterable[str]) -> Mapping[str, int]:
        """How often raw texts, read once, have each token: what ``over`` takes."""
        return count_tokens(texts, self.rules_version)

    def over(self, counts: Mapping[str, int], vocab_size: int, min_frequency: int) -> Tokenizer:
        """This tokenizer of words over other texts' vocabulary, for a language model that goes on with them.

        The texts' frequent words come first. This vocabulary's other words follow while there is room: texts that are
        few lack most of the words of those to come.

        Args:
            counts: how often the texts have each token (``count``).
            vocab_size: largest vocabulary, special tokens included; this one's own size where that is larger.
            min_frequency: words that are rarer in the texts do not come first.
        """
        limit = max(vocab_size, len(self))
        frequent = Tokenizer.from_counts(counts, limit, min_frequency, self.rules_version).vocabulary
        words = list(dict.fromkeys([*frequent, *self.vocabulary]))[:limit]
        return Tokenizer.from_vocabulary(words, "word", self.rules_version).reading(self.direction)

    @classmethod
    def train_whitespace(cls, texts: Iterable[str], vocab_size: int = 1 << 30, min_frequency: int = 1) -> Tokenizer:
        """A vocabulary of what stands between white space, each line end being the token ``<eos>``.

        For text that is tokenized already, as the standard files of WikiText are; nothing else is changed.
        """
        backend = _whitespace([])
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )
        backend.train_from_iterator(map(encodable, texts), trainer)
        return cls.from_vocabulary(_by_id(backend), "whitespace")

    @classmethod
    def train_subwords(cls, texts: Iterable[str], vocab_size: int = 15_000) -> Tokenizer:
        """A vocabulary of byte-pair encodings: any text can be spelled, nothing is unknown but rare characters.

        Single characters take at most three quarters of it, the most frequent ones. Chinese texts have ten thousand of
        them: without a bound they would be more than all that was asked for, and no pair would be encoded.
        """
        backend = tokenizers.Tokenizer(models.BPE(unk_token=UNK))
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
        )
        backend.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
            limit_alphabet=max(1, 3 * (vocab_size - len(SPECIAL_TOKENS)) // 4),
        )  # fmt: skip
        backend.train_from_iterator(map(encodable, texts), trainer)
        return cls(backend)

    @classmethod
    def from_vocabulary(
        cls, vocabulary: Iterable[str], kind: str = "word", rules_version: int = RULES_VERSION
    ) -> Tokenizer:
        """A tokenizer over given words, "word" or "whitespace": the special tokens first, each word once."""
        if kind not in ("word", "whitespace"):
            raise InputError(f"tokenizer must be word or whitespace over a given vocabulary, got {kind!r}")
        words = list(dict.fromkeys([*SPECIAL_TOKENS, *map(encodable, vocabulary)]))
        return cls(
            _whitespace(words) if kind == "whitespace" else _words(words, rules_version), "forward", rules_version
        )

    def reading(self, direction: str) -> Tokenizer:
        """The same vocabulary, "forward" or "backward"."""
        return Tokenizer(self.backend, direction, self.rules_version)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a ``tokenizer.json``, whose texts are split as when it was written, by the rules of its version.

        Raises:
            InputError: it is missing, truncated, foreign, or of rules that a later release brought.
            ImportError: of a SentencePiece model or spaCy's words, without their packages.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except ImportError:
            raise
        except BaseException as error:  # the library raises a bare Exception; its panics are none
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise InputError(f"{path}: not a readable tokenizer.json ({error})") from None

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The inverse of ``to_json``."""
        contents = json.loads(text)
        if isinstance(contents, dict) and contents.get("type") == "sentencepiece":
            from ulmfit_fast.text.sentencepiece_tokenizer import SentencePieceTokenizer  # which knows this class

            return SentencePieceTokenizer.of_contents(contents)
        if isinstance(contents, dict) and contents.get("type") == "spacy":
            from ulmfit_fast.text.spacy_tokenizer import SpacyTokenizer  # which knows this class

            return SpacyTokenizer.of_contents(contents)
        ours = {name: contents.pop(name) for name in ("direction", "rules") if name in contents}
        backend = tokenizers.Tokenizer.from_str(json.dumps(contents) if ours else text)
        backend.encode("\ue000", add_special_tokens=False)  # raises where there is no token for unknown words
        return cls(backend, ours.get("direction", "forward"), ours.get("rules", 1))

    def to_json(self) -> str:
        """The contents of its ``tokenizer.json``: the library's, with the direction and the rules' version before them.

        What is as it was in the first release, forward and version 1, is left out. The library itself refuses the
        rest, rather than read texts the wrong way.
        """
        text = self.backend.to_str()
        ours: dict[str, Any] = {} if self.direction == "forward" else {"direction": self.direction}
        if self.uses_rules and self.rules_version > 1:
            ours["rules"] = self.rules_version
        return json.dumps(ours | json.loads(text), ensure_ascii=False) if ours else text

    @property
    def kind(self) -> str:
        """Which of ``TOKENIZERS`` it is."""
        if self.uses_rules:
            return "word"
        return "whitespace" if isinstance(self.backend.model, models.WordLevel) else "subword"

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    @property
    def vocabulary(self) -> list[str]:
        """Tokens in the order of their ids."""
        return _by_id(self.backend)

    def encode(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Each text's token ids, int32 [length >= 1], the first (backward: the last) being ``xxbos``.

        Reads texts as it goes.
        """
        for batch in in_pieces(texts, _CHARACTERS_AT_A_TIME):
            batch = [encodable(text) for text in batch]
            prepared = [self._cutting.prepare(text) for text in batch]
            with self._lock:
                found = self._table.encode(prepared)
            for text, ids in zip(batch, found, strict=True):
                if ids is None:
                    ids = np.array([self.bos_id, *self._cutting.part(text)], np.int32)
                else:
                    ending = self._cutting.ending(text)
                    ids = np.append(ids, np.array(ending, np.int32)) if ending else ids
                yield ids if self.direction == "forward" else ids[::-1].copy()

    def encode_part(self, text: str) -> tuple[list[int], list[bool]]:
        """For ``TokenStream``: a part's ids in its order, without ``xxbos``, and which of them are line breaks."""
        ids = self._cutting.part(text)
        return [i & (LINE_BREAK - 1) for i in ids], [i >= LINE_BREAK for i in ids]

    def tokens(self, text: str) -> list[str]:
        """One text's tokens in the order of the text, without ``xxbos``."""
        (ids,) = self.encode([text])
        in_order = ids if self.direction == "forward" else ids[::-1]
        names = map(self.backend.id_to_token, in_order[1:].tolist())
        return [name for name in names if name is not None]

    def unknown_share(self, ids: Iterable[np.ndarray]) -> float:
        """Which part of the tokens of encoded texts the vocabulary does not have, 0 to 1; ``xxbos`` does not count."""
        tokens = unknown = 0
        for text in ids:
            tokens += len(text) - 1
            unknown += int(np.count_nonzero(text == self.unk_id))
        return unknown / max(tokens, 1)

    def can_be_token(self, word: str) -> bool:
        """Whether texts can have ``word`` as a token: another tokenizer's, such as ``u.s.``, may be cut here."""
        word = encodable(word)
        if not self.uses_rules:
            return self.tokens(word) == [word]
        return split_whole(rules_of(self.rules_version), word).tokens == [word]

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids as text, special tokens left out; for reading, not an exact inverse."""
        words = [int(i) for i in ids if i >= len(SPECIAL_TOKENS)]
        return self.backend.decode(words if self.direction == "forward" else words[::-1])


class _Vocabulary(dict[str, int]):
    """Ids of tokens, those of other tokens being ``unk_id``. Those of white space have ``LINE_BREAK`` added."""

    def __init__(self, ids: Mapping[str, int], unk_id: int) -> None:
        super().__init__({token: i + LINE_BREAK if token.isspace() else i for token, i in ids.items()})
        self._unk_id = unk_id

    def __missing__(self, token: str) -> int:
        return self._unk_id + LINE_BREAK if token.isspace() else self._unk_id


def _words(vocabulary: Sequence[str], rules_version: int) -> tokenizers.Tokenizer:
    """The library's tokenizer of words: it takes what ``apply_rules`` gives."""
    backend = _word_level(vocabulary)
    backend.pre_tokenizer = rules_v1.pre_tokenizer() if rules_version == 1 else pre_tokenizers.CharDelimiterSplit(" ")
    return backend


def _whitespace(vocabulary: Sequence[str]) -> tokenizers.Tokenizer:
    backend = _word_level(vocabulary)
    backend.normalizer = normalizers.Replace("\n", " <eos> ")
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return backend


def _word_level(vocabulary: Sequence[str]) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNK))


def _by_id(backend: tokenizers.Tokenizer) -> list[str]:
    tokens = backend.get_vocab()
    return sorted(tokens, key=tokens.__getitem__)
