"""Word augmentation of tokenized texts in training: words left out, swapped, replaced by likely ones or by noise.

What a text becomes in an epoch depends on the seed, the epoch and the text's number alone: a resumed run reads the
same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.rules import BOS, EOS, FLD, MAJ, PAD, REP, SPECIAL_TOKENS, UP, WREP
from ulmfit_fast.text.tokenizer import Tokenizer

Ids = npt.NDArray[np.int32]
# Words that may stand in the place of others: for text ``row`` and its positions, int32 [len(positions), k] of ids, in
# the order of the text; what a position lacks is negative.
Candidates = Callable[[int, npt.NDArray[np.int64]], Ids]

_OWN = 0x617567  # keeps these draws apart from others of one seed
# A piece that goes on with a word: letters, but not of scripts that put no space between words (Thai to Myanmar, Khmer,
# Chinese, Japanese), whose pieces are words themselves.
_GOES_ON = re.compile(
    "[^\\W\\d_\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u31a0-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


@dataclass(frozen=True)
class Augmentation:
    """Probabilities, of each word, that it is changed. 0 everywhere: texts stay as they are.

    Args:
        dropout: left out. One word stays.
        swap: exchanged with the next one.
        replace: replaced by one of its candidates.
        noise: replaced by a word drawn as frequently as the training texts have it.

    Raises:
        InputError: one outside [0, 1].
    """

    dropout: float = 0.0
    swap: float = 0.0
    replace: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise InputError(f"Augmentation: {name} must be in [0, 1], got {value}")

    def __bool__(self) -> bool:
        return any(vars(self).values())


class _Words:
    """How a tokenizer's tokens make words: a word comes with the markers before it, and with its other pieces."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        names = tokenizer.vocabulary
        self.backward = tokenizer.direction == "backward"
        self._marks = self._flags(names, (UP, MAJ))
        self._fields = self._flags(names, (FLD,))
        self._repeats = self._flags(names, (REP, WREP))
        self._fixed = self._flags(names, (BOS, EOS, PAD, FLD))
        self._special = self._flags(names, SPECIAL_TOKENS)
        self._goes_on = np.zeros(len(names), bool)
        if tokenizer.kind in ("subword", "sentencepiece"):
            self._goes_on[:] = [bool(_GOES_ON.match(name)) for name in names]
            self._goes_on &= ~self._special

    @staticmethod
    def _flags(names: Sequence[str], chosen: Sequence[str]) -> npt.NDArray[np.bool_]:
        return np.isin(np.array(names, dtype=object), chosen)

    def plain(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Which tokens are no special tokens."""
        return ~self._special[ids]

    def split(self, ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Of a text in its order: where words begin, which may be moved, which are one token that may be replaced."""
        begins = ~self._goes_on[ids]
        begins[1:] &= ~(self._marks | self._fields | self._repeats)[ids[:-1]]
        begins[2:] &= ~self._repeats[ids[:-2]]
        begins[0] = True
        starts = np.flatnonzero(begins)
        last = np.append(starts[1:], len(ids)) - 1
        moves = ~self._fixed[ids[starts]]
        marked = self._marks[ids[starts]] & (np.add.reduceat(self.plain(ids).astype(np.int64), starts) == 1)
        return starts, moves, moves & ((starts == last) | marked) & self.plain(ids[last])


class Augmenter:
    """Changes the words of training texts.

    Special tokens stay; a word's markers (``xxmaj``, ``xxrep 4``) go with it.

    Args:
        tokenizer: of the texts.
        ids: the texts, int32 [length] each, as the tokenizer gives them.
        augmentation: probabilities.
        seed: of all draws.
        candidates: for ``augmentation.replace``.

    Raises:
        InputError: words are to be replaced, and there are no candidates.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        ids: Sequence[Ids],
        augmentation: Augmentation,
        seed: int,
        candidates: Candidates | None = None,
    ) -> None:
        if augmentation.replace and candidates is None:
            raise InputError("Augmenter: words are replaced by candidates, and there are none")
        self.ids, self.augmentation, self.seed, self.candidates = ids, augmentation, seed, candidates
        self._words = _Words(tokenizer)
        counts = np.zeros(len(tokenizer), np.int64)
        for text in ids:
            counts += np.bincount(text, minlength=len(counts))
        counts[~self._words.plain(np.arange(len(counts), dtype=np.int32))] = 0
        self._cumulated = np.cumsum(counts)  # to draw words by their frequency

    def text(self, row: int, epoch: int) -> Ids:
        """Text ``row`` as ``epoch`` reads it, [length >= 1]."""
        ids = self.ids[row]
        changed = self._changed(ids[::-1] if self._words.backward else ids, row, epoch)
        return np.ascontiguousarray(changed[::-1]) if self._words.backward else changed

    def _changed(self, ids: Ids, row: int, epoch: int) -> Ids:
        random = np.random.default_rng([_OWN, self.seed, epoch, row])
        starts, moves, replaceable = self._words.split(ids)
        ends = np.append(starts[1:], len(ids))
        by = self.augmentation
        replaced, noisy, dropped, swapped = random.random((4, len(starts))) < np.array(
            [[by.replace], [by.noise], [by.dropout], [by.swap]]
        )
        new = ids.copy()
        self._replace(new, ends[replaceable & replaced] - 1, row, random)
        if self._cumulated[-1]:
            at = ends[replaceable & noisy] - 1
            drawn = random.integers(self._cumulated[-1], size=len(at))
            new[at] = np.searchsorted(self._cumulated, drawn, side="right")
        order = np.flatnonzero(self._kept(moves, dropped, random))
        self._swap(order, moves, swapped)
        lengths = (ends - starts)[order]
        shifts = np.repeat(starts[order] - np.cumsum(lengths) + lengths, lengths)
        return new[shifts + np.arange(len(shifts))]

    def _replace(self, new: Ids, at: npt.NDArray[np.int64], row: int, random: np.random.Generator) -> None:
        if self.candidates is None or not len(at):
            return
        found = self.candidates(row, at)
        known = (found >= 0).sum(1)  # they come first
        chosen = found[np.arange(len(at)), (random.random(len(at)) * known).astype(np.int64)]
        new[at] = np.where(known > 0, chosen, new[at])

    @staticmethod
    def _kept(
        moves: npt.NDArray[np.bool_], dropped: npt.NDArray[np.bool_], random: np.random.Generator
    ) -> npt.NDArray[np.bool_]:
        kept = ~(moves & dropped)
        if moves.any() and not (kept & moves).any():
            kept[random.choice(np.flatnonzero(moves))] = True
        return kept

    @staticmethod
    def _swap(order: npt.NDArray[np.int64], moves: npt.NDArray[np.bool_], swapped: npt.NDArray[np.bool_]) -> None:
        """Exchange, in ``order``, words with the next one, each word once at most."""
        pairs = moves[order[:-1]] & moves[order[1:]] & swapped[order[:-1]]
        free = 0
        for position in np.flatnonzero(pairs).tolist():
            if position >= free:
                order[position], order[position + 1] = order[position + 1], order[position]
                free = position + 2


def by_word(table: dict[int, Ids] | Sequence[Ids], ids: Sequence[Ids], backward: bool) -> Candidates:
    """Candidates that a word has wherever it stands: ``table[id]``, int32 [k]."""

    def find(row: int, positions: npt.NDArray[np.int64]) -> Ids:
        text = ids[row][::-1] if backward else ids[row]
        return np.stack([table[int(i)] for i in text[positions]])

    return find


def by_place(found: Sequence[Ids], backward: bool) -> Candidates:
    """Candidates of every place of every text: ``found[row]``, int32 [length, k] in the order of the ids."""

    def find(row: int, positions: npt.NDArray[np.int64]) -> Ids:
        return (found[row][::-1] if backward else found[row])[positions]

    return find
