"""fastai's names of an AWD-LSTM's tensors: read off its files, and given to ours.

Its versions 0.7, 1 and 2 and awd-lstm-lm differ in prefixes and in where the recurrent weight before dropout stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.storage.model_folder import not_finite, rows_of_tokens
from ulmfit_fast.text.rules import BOS, EOS, FLD, PAD, REP, UNK, UP, WREP
from ulmfit_fast.text.tokenizer import Tokenizer

_EMBEDDING = re.compile(r"(?:0\.)?(?:module\.)?(?:encoder|encoder_dp\.emb|encoder_with_dropout\.embed)\.weight")
_LAYER = re.compile(
    r"(?:0\.)?(?:module\.)?rnns\.(\d+)\.(?:module\.)?((?:weight_ih|weight_hh|bias_ih|bias_hh)_l0)(_raw)?"
)
_QRNN = re.compile(r"(?:0\.)?(?:module\.)?rnns\.\d+\..*\blinear\..*")
LAYER_TENSORS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
# Special tokens of fastai before version 1 and of the word-level corpora, and what they are here.
_OLD_NAMES = {
    "_unk_": UNK, "<unk>": UNK, "_pad_": PAD, "<pad>": PAD, "xbos": BOS, "<eos>": EOS, "xfld": FLD, "t_up": UP,
    "tk_rep": REP, "tk_wrep": WREP,
}  # fmt: skip
_AGAIN = re.compile(r"(?<=.) \d+$")  # of ``_each_once``
TOKENIZERS = ("word", "whitespace", "spacy")


class EncoderTensors(NamedTuple):
    """The tensors of an AWD-LSTM encoder in a file."""

    embedding: Tensor  # [V, E]
    layers: list[dict[str, Tensor]]  # by the names of LAYER_TENSORS

    @classmethod
    def find(cls, source: str, state: Mapping[str, Tensor]) -> tuple[EncoderTensors, dict[str, Tensor]]:
        """The encoder's tensors, and the others. Raises InputError where they are another model's."""
        embedding: Tensor | None = None
        layers: dict[int, dict[str, Tensor]] = {}
        others: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if _EMBEDDING.fullmatch(name):
                embedding = tensor
            elif match := _LAYER.fullmatch(name):
                layer = layers.setdefault(int(match[1]), {})
                if match[3] or match[2] not in layer:  # the raw weight is the one that was trained
                    layer[match[2]] = tensor
            elif _QRNN.fullmatch(name):
                raise InputError(
                    f"{source}: {name} belongs to a QRNN, as MultiFiT's; import it with its SentencePiece model "
                    "(--sentencepiece, ulmfit_fast.interop.multifit)"
                )
            elif "_l0_reverse" in name:
                raise InputError(f"{source}: {name} belongs to a bidirectional LSTM (bidir=True), which no model has")
            else:
                others[name] = tensor
        if embedding is None or embedding.dim() != 2:
            raise InputError(f"{source}: holds no embedding (0.encoder.weight); is it a language model of fastai?")
        for i in range(max(layers, default=0) + 1):
            if missing := [name for name in LAYER_TENSORS if name not in layers.get(i, {})]:
                raise InputError(f"{source}: layer {i} (0.rnns.{i}) lacks {', '.join(missing)}")
            if any(layers[i][name].dim() != (2 if "weight" in name else 1) for name in LAYER_TENSORS):
                raise InputError(f"{source}: the tensors of layer {i} (0.rnns.{i}) are not an LSTM's")
        found = cls(embedding, [layers[i] for i in range(len(layers))])
        used = {"the embedding": embedding}
        used |= {f"layer {i}'s {name}": layer[name] for i, layer in enumerate(found.layers) for name in LAYER_TENSORS}
        refuse_not_finite(source, used)
        return found, others

    def config(self, tokenizer: Tokenizer) -> AWDLSTMConfig:
        """Sizes as the tensors have them, over the vocabulary of ``tokenizer``."""
        hidden = self.layers[0]["weight_hh_l0"].shape[1]
        return AWDLSTMConfig(len(tokenizer), self.embedding.shape[1], hidden, len(self.layers), pad_id=tokenizer.pad_id)

    def state(self, prefix: str, row_of: Mapping[str, int], vocabulary: Sequence[str]) -> dict[str, Tensor]:
        """The state dict of an ``AWDLSTM`` over ``vocabulary``, its names behind ``prefix``."""
        state = {prefix + "encoder.weight": rows_of_tokens(self.embedding, row_of, vocabulary)}
        for i, layer in enumerate(self.layers):
            state |= {f"{prefix}rnns.{i}.{name}": tensor for name, tensor in layer.items()}
        return state


def refuse_not_finite(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises InputError where one of the named tensors holds a number that is none."""
    if (diverged := not_finite(tensors)) is not None:
        raise InputError(f"{source}: {diverged} holds NaN or infinite numbers: its training has diverged")


def tokenizer_of(words: Sequence[str], kind: str) -> tuple[Tokenizer, dict[str, int]]:
    """A tokenizer over a file's vocabulary, and the row of each of its tokens, old names included.

    Args:
        words: in the order of the rows. Of a token that occurs again (fastai fills vocabularies up with them) the first
            counts; the others keep their rows under names that no text has.
        kind: one of ``TOKENIZERS``.
    """
    words = _each_once(words)
    row_of = {word: row for row, word in enumerate(words)}
    for word, name in _OLD_NAMES.items():
        if word in row_of:
            row_of[name] = min(row_of[word], row_of.get(name, len(words)))
    kept = [word for word in words if word not in _OLD_NAMES or kind == "whitespace"]
    if kind == "spacy":
        from ulmfit_fast.text.spacy_tokenizer import SpacyTokenizer  # an extra

        return SpacyTokenizer(kept), row_of
    return Tokenizer.from_vocabulary(kept, kind), row_of


def _each_once(words: Sequence[str]) -> list[str]:
    """What comes again gets its number behind a space, which no tokenizer leaves in a token."""
    seen: dict[str, int] = {}
    names = []
    for word in words:
        seen[word] = count = seen.get(word, 0) + 1
        names.append(word if count == 1 else f"{word} {count}")
    return names


def fastai_vocabulary(tokenizer: Tokenizer) -> list[str]:
    """The tokens in the order of their ids as fastai has them, with what comes again."""
    return [_AGAIN.sub("", word) for word in tokenizer.vocabulary]


def names_of_encoder(layers: int) -> dict[str, str]:
    """fastai 2's name of each tensor of an ``AWDLSTM`` -> ours, in fastai's order; the embedding comes twice."""
    names = {"encoder.weight": "encoder.weight", "encoder_dp.emb.weight": "encoder.weight"}
    for i in range(layers):
        names[f"rnns.{i}.weight_hh_l0_raw"] = f"rnns.{i}.weight_hh_l0"
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            names[f"rnns.{i}.module.{name}"] = f"rnns.{i}.{name}"
    return names


def fastai_encoder_state(encoder: AWDLSTM) -> dict[str, Tensor]:
    """What ``learn.save_encoder`` of fastai 2 holds of the same encoder."""
    state = encoder.state_dict()
    return {name: state[ours] for name, ours in names_of_encoder(len(encoder.rnns)).items()}
