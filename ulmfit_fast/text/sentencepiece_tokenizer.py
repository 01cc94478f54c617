"""SentencePiece models as tokenizers. Needs the extra ``sentencepiece``."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.text import fastai_rules
from ulmfit_fast.text.rules import BOS, PAD, RULES_VERSION, SPECIAL_TOKENS, UNK, encodable
from ulmfit_fast.text.tokenizer import DIRECTIONS, Tokenizer

KIND = "sentencepiece"
RULES = ("none", "fastai")
_SPACE = "\u2581"  # how SentencePiece writes the space before a piece


class SentencePieceTokenizer(Tokenizer):
    """A trained SentencePiece model. Every text begins with ``xxbos``.

    A model that knows fastai's special tokens (``xxbos`` and the others, as MultiFiT's do) numbers all tokens itself.
    Before the pieces of any other model the special tokens are put, ids 0 to 8.

    The model cannot be read piece by piece of a text that still comes (``TextStream``), and its vocabulary is kept as
    it is when a language model is fine-tuned.

    Args:
        model: the contents of a ``.model`` file.
        rules: "none": the model sees the text as it is. "fastai": after the text rules of fastai's first version.
        mark_field: with rules "fastai", whether ``xxfld 1`` stands before each text, as in MultiFiT.
        direction: "forward" or "backward".

    Raises:
        InputError: not a SentencePiece model, or one with some of the special tokens alone; unknown rules or direction.
        ImportError: sentencepiece is missing.
    """

    takes_parts = False
    described = "a SentencePiece model"
    uses_rules = False
    rules_version = RULES_VERSION

    def __init__(self, model: bytes, rules: str = "none", mark_field: bool = False, direction: str = "forward") -> None:
        if direction not in DIRECTIONS:
            raise InputError(f"a tokenizer's direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
        if rules not in RULES:
            raise InputError(f"SentencePieceTokenizer: rules must be one of {', '.join(RULES)}, got {rules!r}")
        if mark_field and rules != "fastai":
            raise InputError("SentencePieceTokenizer: mark_field goes with rules 'fastai'")
        self.model, self.rules, self.mark_field, self.direction = model, rules, mark_field, direction
        self._processor = _processor(model)
        pieces = [self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size())]
        known = [name for name in SPECIAL_TOKENS if name in pieces or _SPACE + name in pieces]
        if known and not {UNK, PAD, BOS} <= set(known):
            raise InputError(
                f"this SentencePiece model has the special tokens {', '.join(known)}, but lacks others of "
                f"{UNK}, {PAD}, {BOS}: it is not one of fastai"
            )
        if not known and rules == "fastai":
            raise InputError("this SentencePiece model lacks fastai's special tokens: rules must be 'none'")
        self._first = 0 if known else len(SPECIAL_TOKENS)  # the id of the model's first piece
        self.pieces = pieces  # as the model names them
        self._vocabulary = [_by_own_name(p) for p in pieces] if known else [*SPECIAL_TOKENS, *map(_apart, pieces)]
        ids = {token: i for i, token in reversed(list(enumerate(self._vocabulary)))}
        self.pad_id, self.bos_id = ids[PAD], ids[BOS]
        self.unk_id = self._first + self._processor.unk_id()
        self._special = {ids[name] for name in SPECIAL_TOKENS if name in ids} | {self.unk_id}

    @classmethod
    def read(
        cls, path: str | Path, rules: str = "none", mark_field: bool = False, direction: str = "forward"
    ) -> SentencePieceTokenizer:
        """Of a ``.model`` file. Raises InputError where it cannot be read, and as the class."""
        try:
            return cls(Path(path).read_bytes(), rules, mark_field, direction)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return SentencePieceTokenizer, (self.model, self.rules, self.mark_field, self.direction)

    def reading(self, direction: str) -> SentencePieceTokenizer:
        """The same vocabulary, "forward" or "backward"."""
        return SentencePieceTokenizer(self.model, self.rules, self.mark_field, direction)

    @classmethod
    def of_contents(cls, contents: dict[str, Any]) -> SentencePieceTokenizer:
        """Of what ``to_json`` holds. Raises InputError for damaged contents."""
        try:
            model = base64.b64decode(contents["model"], validate=True)
            return cls(model, contents["rules"], contents["mark_field"], contents.get("direction", "forward"))
        except (KeyError, TypeError, binascii.Error) as error:
            raise InputError(f"not a readable SentencePiece tokenizer ({shortened(error)})") from None

    def to_json(self) -> str:
        """The contents of its ``tokenizer.json``: the model itself in base 64, and how texts are prepared."""
        contents: dict[str, Any] = {} if self.direction == "forward" else {"direction": self.direction}
        contents |= {"type": KIND, "rules": self.rules, "mark_field": self.mark_field}
        return json.dumps(contents | {"model": base64.b64encode(self.model).decode()})

    @property
    def kind(self) -> str:
        return KIND

    def __len__(self) -> int:
        return len(self._vocabulary)

    @property
    def vocabulary(self) -> list[str]:
        """Tokens in the order of their ids: special tokens by their own names, of other pieces those that begin a word
        with U+2581 before.
        """
        return list(self._vocabulary)

    def encode(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """Each text's token ids, int32 [length >= 1], the first (backward: the last) being ``xxbos``."""
        for text in texts:
            ids = self._encoded(encodable(text))
            yield ids if self.direction == "forward" else ids[::-1].copy()

    def _encoded(self, text: str) -> np.ndarray:
        if self.rules == "fastai":
            return np.array(self._processor.encode(fastai_rules.prepare(text, self.mark_field)), np.int32)
        return np.array([self.bos_id, *(self._first + i for i in self._processor.encode(text))], np.int32)

    def tokens(self, text: str) -> list[str]:
        """One text's tokens in the order of the text, without ``xxbos``."""
        return [self._vocabulary[i] for i in self._encoded(encodable(text))[1:].tolist()]

    def can_be_token(self, word: str) -> bool:
        """Whether texts can have ``word`` as a token."""
        return word in self._vocabulary

    def decode(self, ids: Iterable[int]) -> str:
        """Token ids as text, special tokens left out; for reading, not an exact inverse."""
        words = [int(i) - self._first for i in ids if int(i) not in self._special]
        return self._processor.decode(words if self.direction == "forward" else words[::-1])

    def over(self, *arguments: Any, **options: Any) -> Tokenizer:
        """Raises InputError: the vocabulary is the model's."""
        raise InputError("the vocabulary of a SentencePiece model is settled; it cannot be another text's")


def _by_own_name(piece: str) -> str:
    return piece.removeprefix(_SPACE) if piece.removeprefix(_SPACE) in SPECIAL_TOKENS else piece


def _apart(piece: str) -> str:
    """A piece by a name that no special token has."""
    return f"<{piece}>" if piece in SPECIAL_TOKENS else piece


def _processor(model: bytes) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise ImportError(
            "SentencePieceTokenizer needs sentencepiece, which is not installed; in ulmfit_fast's source folder: "
            "pip install --no-build-isolation '.[sentencepiece]'"
        ) from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        loaded = processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise InputError(f"not a SentencePiece model, or a damaged one ({shortened(error)})") from None
    if not loaded or not processor.get_piece_size():
        raise InputError("not a SentencePiece model, or a damaged one")
    return processor


def check_pieces(tokenizer: SentencePieceTokenizer, words: Sequence[str], source: str) -> None:
    """Raises InputError where ``words`` are not the tokens that the model numbers, in its order."""
    mine = tokenizer.pieces
    if list(words) == mine:
        return
    row = next((i for i, pair in enumerate(zip(words, mine, strict=False)) if pair[0] != pair[1]), None)
    detail = f"{len(words):,} tokens, the model {len(mine):,}"
    if row is not None:
        detail = f"{words[row]!r} in row {row}, the model {mine[row]!r}"
    raise InputError(f"{source}: has {detail}; vocabulary and SentencePiece model do not belong together")
