"""Word and subword tokenizers with their vocabulary, on the ``tokenizers`` library; saved as its ``tokenizer.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.rules import BOS, PAD, SPECIAL_TOKENS, UNK, apply_rules, encodable

TOKENIZERS = ("word", "subword", "whitespace")
DIRECTIONS = ("forward", "backward")
_CHARACTERS_AT_A_TIME = 1 << 20
# Contractions split as in English treebanks (do n't, it 's); numbers; words; any other mark alone, newlines included.
_WORD_PATTERN = r"n't\b|['\u2019](?:s|re|ve|ll|d|m|t)\b|\d+(?:[.,]\d+)*|\w+?(?=n't\b)|\w+|\n|[^\w\s]"


class Tokenizer:
    """Texts to token ids and back. Every text begins with ``xxbos``; ids 0 to 8 are fastai's special tokens.

    Make one with ``train_words``, ``train_subwords``, ``train_whitespace`` or ``load``. With ``direction`` "backward" a
    text's ids go from the last to ``xxbos``, for models that read texts from their end.
    """

    def __init__(self, backend: tokenizers.Tokenizer, direction: str = "forward") -> None:
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

    @classmethod
    def train(
        cls, kind: str, texts: Iterable[str], vocab_size: int, min_frequency: int, *, marked: bool = False
    ) -> Tokenizer:
        """One of ``TOKENIZERS``: ``train_words``, ``train_subwords`` or ``train_whitespace``."""
        if kind == "subword":
            return cls.train_subwords(texts, vocab_size)
        if kind == "whitespace":
            return cls.train_whitespace(texts, vocab_size, min_frequency)
        return cls.train_words(texts, vocab_size, min_frequency, marked=marked)

    @classmethod
    def train_words(
        cls, texts: Iterable[str], vocab_size: int = 60_000, min_frequency: int = 3, *, marked: bool = False
    ) -> Tokenizer:
        """A vocabulary of the most frequent words.

        Args:
            texts: raw texts, read once.
            vocab_size: largest vocabulary, special tokens included.
            min_frequency: rarer words become ``xxunk``.
            marked: the texts have been through ``apply_rules`` already.
        """
        backend = _word_level("word", [])
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )
        texts = map(encodable, texts)
        backend.train_from_iterator(texts if marked else map(apply_rules, texts), trainer)
        return cls.from_vocabulary(_by_id(backend), "word")

    @classmethod
    def train_whitespace(cls, texts: Iterable[str], vocab_size: int = 1 << 30, min_frequency: int = 1) -> Tokenizer:
        """A vocabulary of what stands between white space, each line end being the token ``<eos>``.

        For text that is tokenized already, as the standard files of WikiText are; nothing else is changed.
        """
        backend = _word_level("whitespace", [])
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )
        backend.train_from_iterator(map(encodable, texts), trainer)
        return cls.from_vocabulary(_by_id(backend), "whitespace")

    @classmethod
    def train_subwords(cls, texts: Iterable[str], vocab_size: int = 15_000) -> Tokenizer:
        """A vocabulary of byte-pair encodings: any text can be spelled, nothing is unknown but rare characters."""
        backend = tokenizers.Tokenizer(models.BPE(unk_token=UNK))
        backend.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")]
        )
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
        )
        backend.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), show_progress=False
        )
        backend.train_from_iterator(map(encodable, texts), trainer)
        return cls(backend)

    @classmethod
    def from_vocabulary(cls, vocabulary: Iterable[str], kind: str = "word") -> Tokenizer:
        """A tokenizer over given words, "word" or "whitespace": the special tokens first, each word once."""
        if kind not in ("word", "whitespace"):
            raise InputError(f"tokenizer must be word or whitespace over a given vocabulary, got {kind!r}")
        return cls(_word_level(kind, list(dict.fromkeys([*SPECIAL_TOKENS, *vocabulary]))))

    def reading(self, direction: str) -> Tokenizer:
        """The same vocabulary, "forward" or "backward"."""
        return Tokenizer(self.backend, direction)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a ``tokenizer.json``. Raises InputError if it is missing, truncated or foreign."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except Exception as error:  # the library raises a bare Exception
            raise InputError(f"{path}: not a readable tokenizer.json ({error})") from None

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """The inverse of ``to_json``."""
        contents = json.loads(text)
        direction = contents.pop("direction", "forward")
        return cls(tokenizers.Tokenizer.from_str(text if direction == "forward" else json.dumps(contents)), direction)

    def to_json(self) -> str:
        """The contents of its ``tokenizer.json``: the library's, and of a backward one the direction.

        The library itself refuses the latter, rather than read texts the wrong way.
        """
        text = self.backend.to_str()
        if self.direction == "forward":
            return text
        return json.dumps({"direction": self.direction} | json.loads(text), ensure_ascii=False)

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
        step = 1 if self.direction == "forward" else -1
        for batch in in_pieces(texts, _CHARACTERS_AT_A_TIME):
            batch = [apply_rules(encodable(text)) if self.uses_rules else encodable(text) for text in batch]
            for encoding in self.backend.encode_batch_fast(batch, add_special_tokens=False):
                yield np.array([self.bos_id, *encoding.ids][::step], dtype=np.int32)

    def tokens(self, text: str) -> list[str]:
        """One text's tokens in the order of the text, without ``xxbos``."""
        return self.backend.encode(apply_rules(text) if self.uses_rules else text, add_special_tokens=False).tokens

    def can_be_token(self, word: str) -> bool:
        """Whether texts can have ``word`` as a token: another tokenizer's, such as ``u.s.``, may be cut here."""
        return self.tokens(word) == [word]

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids as text, special tokens left out; for reading, not an exact inverse."""
        words = [int(i) for i in ids if i >= len(SPECIAL_TOKENS)]
        return self.backend.decode(words if self.direction == "forward" else words[::-1])


def in_pieces(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Texts in lists that hold so many characters or little more, or one text."""
    piece: list[str] = []
    held = 0
    for text in texts:
        piece.append(text)
        held += len(text) + 1
        if held >= characters:
            yield piece
            piece, held = [], 0
    if piece:
        yield piece


def _word_level(kind: str, vocabulary: Sequence[str]) -> tokenizers.Tokenizer:
    """The library's tokenizer of whole words, "word" or "whitespace"."""
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNK))
    if kind == "whitespace":
        backend.normalizer = normalizers.Replace("\n", " <eos> ")
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return backend
    # The library's Split has no "find all", so: isolate the matches, then drop the white space between them.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.Split(tokenizers.Regex(r"[^\S\n]+"), behavior="removed"),
        ]
    )
    return backend


def _by_id(backend: tokenizers.Tokenizer) -> list[str]:
    tokens = backend.get_vocab()
    return sorted(tokens, key=tokens.__getitem__)
