"""MultiFiT's language models: QRNN layers over a SentencePiece vocabulary, as fastai 1 stores them.

Tensors are found by name. Nothing is unpickled but plain containers of tensors, texts and numbers.

Source: Eisenschlos et al., "MultiFiT: Efficient Multi-lingual Language Model Fine-tuning" (arXiv 1909.04761).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.interop.fastai import read_vocabulary, read_weights
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.qrnn import QRNN, QRNNConfig
from ulmfit_fast.storage.model_folder import not_finite
from ulmfit_fast.text.sentencepiece_tokenizer import SentencePieceTokenizer, check_pieces
from ulmfit_fast.training.history import History
from ulmfit_fast.training.trained import TrainedLanguageModel

_EMBEDDING = re.compile(r"(?:0\.)?(?:encoder|encoder_dp\.emb)\.weight")
_LAYER = re.compile(r"(?:0\.)?rnns\.(\d+)\.(?:layers\.0\.)?linear\.(?:module\.)?(weight|bias)(_raw)?")
_DECODER = re.compile(r"(?:1\.)?decoder\.(weight|bias)")
_CLASSIFIER = re.compile(r"0\.module\.|1\.layers\.")


def import_multifit(
    weights: str | Path,
    sentencepiece_model: str | Path,
    vocabulary: str | Path | Sequence[str] | None = None,
    *,
    mark_field: bool = True,
    direction: str = "forward",
) -> TrainedLanguageModel:
    """A language model of MultiFiT, or another of fastai 1 with ``qrnn=True``, ready for ``finetune_lm``.

    MultiFiT trained on Wikipedia that Moses' tokenizer had split. Texts here are not split so: where it matters, give
    texts that are.

    Args:
        weights: ``lm_best.pth`` or another ``.pth`` of ``learn.save`` or ``learn.save_encoder``; or a ``.safetensors``
            with tensors of those names. Sizes are read off the tensors. An encoder alone gets a softmax bias of zero.
        sentencepiece_model: ``spm.model``.
        vocabulary: ``itos.pkl``, a ``.json`` list, a text file with a token a line, or the tokens themselves, to make
            sure that model and weights belong together; None: the pieces of the SentencePiece model.
        mark_field: whether texts begin with ``xxbos xxfld 1``, as MultiFiT's do, or with ``xxbos`` alone.
        direction: "forward", or "backward" for a model that was trained on texts from their end.

    Returns:
        Model, tokenizer and an empty history.

    Raises:
        InputError: files that are missing, damaged, hold objects that would have to be unpickled, are of another model,
            or do not belong together.
        ImportError: sentencepiece is missing.
    """
    tokenizer = SentencePieceTokenizer.read(sentencepiece_model, "fastai", mark_field, direction)
    if vocabulary is not None:
        source = str(vocabulary) if isinstance(vocabulary, str | Path) else "vocabulary"
        words = read_vocabulary(Path(vocabulary)) if isinstance(vocabulary, str | Path) else list(vocabulary)
        check_pieces(tokenizer, words, source)
    tensors = _Tensors.find(str(weights), read_weights(Path(weights)))
    if len(tensors.embedding) != len(tokenizer):
        raise InputError(
            f"{weights}: its embedding has {len(tensors.embedding):,} rows, {sentencepiece_model} {len(tokenizer):,} "
            "pieces; they do not belong together"
        )
    hidden = len(tensors.layers[0][1]) // 3
    config = QRNNConfig(
        len(tokenizer), tensors.embedding.shape[1], hidden, len(tensors.layers), pad_id=tokenizer.pad_id
    )
    model = LanguageModel(QRNN(config))
    state = {"encoder.encoder.weight": tensors.embedding, "decoder_bias": tensors.bias}
    for i, (weight, bias) in enumerate(tensors.layers):
        state |= {f"encoder.rnns.{i}.weight": weight, f"encoder.rnns.{i}.bias": bias}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"{weights}: its layers are not those of MultiFiT: the first with a window of 2, the others of 1, "
            f"an output gate, the last as wide as the embedding ({shortened(error, 300)})"
        ) from None
    return TrainedLanguageModel(model.eval(), tokenizer, History())


class _Tensors(NamedTuple):
    embedding: Tensor  # [V, E]
    bias: Tensor  # [V]
    layers: list[tuple[Tensor, Tensor]]  # weight [3H, window * F], bias [3H]

    @classmethod
    def find(cls, source: str, state: Mapping[str, Tensor]) -> _Tensors:
        """The tensors of a QRNN language model among those of a file. Raises InputError where they are another's."""
        if name := next(filter(_CLASSIFIER.match, state), None):
            raise InputError(f"{source}: holds a classifier ({name}); import the language model it was made of")
        embedding: Tensor | None = None
        decoder: dict[str, Tensor] = {}
        layers: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if _EMBEDDING.fullmatch(name):
                embedding = tensor
            elif match := _DECODER.fullmatch(name):
                decoder[match[1]] = tensor
            elif match := _LAYER.fullmatch(name):
                layer = layers.setdefault(int(match[1]), {})
                if match[3] or match[2] not in layer:  # the raw weight is the one that was trained
                    layer[match[2]] = tensor
            else:
                remedy = "; an LSTM is imported without a SentencePiece model" if "_l0" in name else ""
                raise InputError(f"{source}: a QRNN language model has no tensor {name}{remedy}")
        if embedding is None or embedding.dim() != 2:
            raise InputError(f"{source}: holds no embedding (0.encoder.weight); is it a language model of MultiFiT?")
        for i in range(max(layers, default=0) + 1):
            if missing := [part for part in ("weight", "bias") if part not in layers.get(i, {})]:
                raise InputError(f"{source}: layer {i} (0.rnns.{i}) lacks {' and '.join(missing)}")
        bias = decoder.get("bias", embedding.new_zeros(len(embedding)))
        used = {"the embedding": embedding, "the softmax's bias": bias}
        used |= {f"layer {i}'s {part}": layer[part] for i, layer in layers.items() for part in ("weight", "bias")}
        if (diverged := not_finite(used)) is not None:
            raise InputError(f"{source}: {diverged} holds NaN or infinite numbers: its training has diverged")
        if "weight" in decoder and not torch.equal(decoder["weight"], embedding):
            raise InputError(f"{source}: the softmax has a weight of its own; only tied weights can be imported")
        return cls(embedding, bias, [(layers[i]["weight"], layers[i]["bias"]) for i in range(len(layers))])
