"""Models that fastai trained, and what else stores an AWD-LSTM as a dictionary of tensors.

Tensors are found by name, rows of the embedding by their token. Nothing is unpickled but plain containers of tensors,
texts and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.interop.fastai_tensors import EncoderTensors, refuse_not_finite, tokenizer_of
from ulmfit_fast.interop.foreign_files import as_words, read_plain, read_vocabulary, read_weights
from ulmfit_fast.nn.awd_lstm import AWDLSTM
from ulmfit_fast.nn.bpt3c import BPT3CConfig
from ulmfit_fast.nn.build import empty_module
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.stacked import CLASSIFIER_DROPOUTS
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import task_of
from ulmfit_fast.training.history import History
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

_DECODER = re.compile(r"(?:1\.)?decoder\.(weight|bias)")
_CLASSIFIER = re.compile(r"0\.module\.|1\.layers\.")
_HEAD = re.compile(r"1\.layers\.(.+)\.(\w+)")


def holds_classifier(state: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of a file are a classifier's."""
    return any(map(_CLASSIFIER.match, state))


def import_language_model(
    weights: str | Path, vocabulary: str | Path | Sequence[str], tokenizer: str = "word", direction: str = "forward"
) -> TrainedLanguageModel:
    """A language model of another project, ready for ``finetune_lm``.

    Args:
        weights: fastai's ``.pth`` of a language model (``learn.save``, ``learn.save_encoder``, the published
            ``lstm_fwd.pth``), ``.h5`` of its versions before 1, or a ``.safetensors`` or a file of ``torch.save`` with
            the ``state_dict`` of a model whose tensors have those names, such as awd-lstm-lm's. Sizes are read off
            the tensors. An encoder alone gets a softmax bias of zero.
        vocabulary: the tokens in the order of the embedding's rows, or a file of them: fastai's ``.pkl``, a ``.json``
            list or mapping to rows, or a text file, a token a line (which cannot hold fastai's newline token).
        tokenizer: "word"; "spacy" for the very tokens of fastai (an extra); or "whitespace" for vocabularies of text
            that is tokenized already, as WikiText's; those keep ``<unk>`` and ``<eos>`` as words, too.
        direction: "forward", or "backward" for a model that was trained on texts from their end (fastai's
            ``backwards=True``, its ``lstm_bwd.pth``); nothing in the files tells.

    Returns:
        Model, tokenizer and an empty history. Its first tokens are the special ones of ``Tokenizer``; those that the
        vocabulary lacks start from the mean of all. Of a token that occurs twice (fastai pads with them) the first
        counts; the others are kept, and no text has them.

    Raises:
        InputError: files that are missing, damaged, hold objects that would have to be unpickled, or are of another
            model: a QRNN, a classifier, an LSTM without tied weights, another vocabulary.
        ImportError: tokenizer "spacy" without spaCy.
    """
    state = read_weights(Path(weights))
    if name := next(filter(_CLASSIFIER.match, state), None):
        raise InputError(f"{weights}: holds a classifier ({name}); import_classifier, ulmfit-fast convert read it")
    tensors, others = EncoderTensors.find(str(weights), state)
    softmax_bias = _softmax_bias(str(weights), tensors.embedding, others)
    source = "vocabulary" if not isinstance(vocabulary, str | Path) else str(vocabulary)
    words = read_vocabulary(Path(vocabulary)) if isinstance(vocabulary, str | Path) else as_words(source, vocabulary)
    _check_rows(str(weights), tensors.embedding, source, words)
    backend, row_of = tokenizer_of(words, tokenizer)
    model = empty_module(lambda: LanguageModel(AWDLSTM(tensors.config(backend))))
    found = tensors.state("encoder.", row_of, backend.vocabulary)
    bias = EncoderTensors(softmax_bias.unsqueeze(1), []).state("", row_of, backend.vocabulary)["encoder.weight"]
    _fill(str(weights), model, found | {"decoder_bias": bias.squeeze(1)}, "an AWD-LSTM with tied weights")
    return TrainedLanguageModel(model.eval(), backend.reading(direction), History())


def import_classifier(
    weights: str | Path,
    vocabulary: str | Path | Sequence[str],
    labels: Sequence[Label] | None = None,
    *,
    task: str = "single_label",
    tokenizer: str = "spacy",
    direction: str = "forward",
    bptt: int = 72,
    max_len: int | None = 1440,
) -> TrainedClassifier:
    """A text classifier that fastai trained, with its logits.

    Args:
        weights: what ``learn.save`` wrote of a ``text_classifier_learner``, with or without the optimizer, in version
            2, 1 or 0.7; or a file of ``torch.save`` or ``.safetensors`` with its ``state_dict``. The head has one
            hidden layer, as by default there.
        vocabulary: as ``import_language_model``. Or a file of two lists, tokens and labels, as ``learn.dls.vocab``
            has them.
        labels: in the order of the outputs; None: those beside the vocabulary, else 0, 1, ...
        task: "single_label", "multi_label", "binary", "regression" or "ordinal", by what the model was trained for.
        tokenizer: "spacy" for the very tokens of fastai, an extra; or as ``import_language_model``, with which some
            words are split otherwise than the model has learned.
        direction: as ``import_language_model``.
        bptt: fastai's ``seq_len``: tokens of a chunk, for training that goes on.
        max_len: fastai's: only so many last tokens of a document are pooled; None: all.

    Returns:
        Model in eval mode, tokenizer, task and an empty history. Logits are fastai's within rounding, on documents that
        its own batches do not change: padded to a multiple of ``bptt`` (fastai #3379).

    Raises:
        InputError, ImportError: as ``import_language_model``; other labels than outputs, a head of other layers.
    """
    source = str(weights)
    state = read_weights(Path(weights))
    if not holds_classifier(state):
        raise InputError(
            f"{source}: holds no head (1.layers...); import_language_model, import-lm read language models"
        )
    tensors, others = EncoderTensors.find(source, state)
    head = _head(source, others)
    words, known = _words_and_labels(vocabulary)
    _check_rows(
        source, tensors.embedding, str(vocabulary) if isinstance(vocabulary, str | Path) else "vocabulary", words
    )
    backend, row_of = tokenizer_of(words, tokenizer)
    outputs = len(head["6.weight"])
    made = _task(source, task, labels if labels is not None else known, outputs)
    sizes = tensors.config(backend).with_dropouts(CLASSIFIER_DROPOUTS, 0.5)
    reading = BPT3CConfig(bptt, "detached", "chunk", pool_window=max_len)
    hidden, with_bias = len(head["2.weight"]), "2.bias" in head
    model = empty_module(lambda: TextClassifier(AWDLSTM(sizes), outputs, hidden, 0.1, reading, head_bias=with_bias))
    found = tensors.state("bpt3c.encoder.", row_of, backend.vocabulary)
    found |= {f"head.{name}": tensor for name, tensor in head.items()}
    _fill(source, model, found, "an AWD-LSTM classifier with one hidden layer")
    return TrainedClassifier(model.eval(), backend.reading(direction), made, History())


def _check_rows(weights: str, embedding: Tensor, source: str, words: Sequence[str]) -> None:
    if len(words) != len(embedding):
        raise InputError(
            f"{source}: has {len(words):,} tokens, the embedding in {weights} {len(embedding):,} rows; they do not "
            "belong together"
        )


def _softmax_bias(source: str, embedding: Tensor, others: Mapping[str, Tensor]) -> Tensor:
    """Of a language model with tied weights, [V]; zeros where the file holds an encoder alone."""
    decoder: dict[str, Tensor] = {}
    for name, tensor in others.items():
        match = _DECODER.fullmatch(name)
        if match is None:
            raise InputError(f"{source}: an AWD-LSTM language model has no tensor {name}")
        decoder[match[1]] = tensor
    bias = decoder.get("bias", embedding.new_zeros(len(embedding)))
    refuse_not_finite(source, {"the softmax's bias": bias})
    if "weight" in decoder and not torch.equal(decoder["weight"], embedding):
        raise InputError(f"{source}: the softmax has a weight of its own; only tied weights can be imported")
    if bias.shape != embedding.shape[:1]:
        raise InputError(
            f"{source}: the softmax's bias is {list(bias.shape)}, the embedding has {len(embedding):,} rows"
        )
    return bias


def _head(source: str, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a head by the names of ``nn.classifier.classifier_head``.

    fastai 2 has ``1.layers.0.2.weight`` (block, place), 1 ``1.layers.2.weight`` (place), 0.7 ``1.layers.0.lin.weight``.
    Dropouts have no tensors, so that layers are told by theirs and counted.
    """
    layers: dict[tuple[tuple[int, str], ...], dict[str, Tensor]] = {}
    for name, tensor in others.items():
        match = _HEAD.fullmatch(name)
        if match is None:
            raise InputError(f"{source}: a classifier of fastai has no tensor {name}")
        place = tuple((int(part), "") if part.isdecimal() else (0, part) for part in match[1].split("."))
        layers.setdefault(place, {})[match[2]] = tensor
    in_order = [layers[place] for place in sorted(layers)]
    kinds = ["norm" if "running_mean" in layer else "linear" for layer in in_order]
    if kinds != ["norm", "linear"] * 2:
        raise InputError(
            f"{source}: its head has the layers {', '.join(kinds) or 'none'}; a head with one hidden layer (lin_ftrs "
            "of one size) can be imported: norm, linear, norm, linear"
        )
    needed = {"norm": ("weight", "bias", "running_mean", "running_var"), "linear": ("weight",)}
    for kind, layer in zip(kinds, in_order, strict=True):
        if missing := [name for name in needed[kind] if name not in layer]:
            raise InputError(f"{source}: a {kind} layer of its head lacks {', '.join(missing)}")
    refuse_not_finite(source, {f"the head's {name}": tensor for name, tensor in others.items()})
    biased = any("bias" in layer for layer in in_order[1::2])
    found: dict[str, Tensor] = {}
    for number, kind, layer in zip((0, 2, 4, 6), kinds, in_order, strict=True):
        if kind == "norm":
            layer = {"num_batches_tracked": torch.zeros(())} | layer
            layer["num_batches_tracked"] = layer["num_batches_tracked"].long()
        elif biased:
            layer = {"bias": layer["weight"].new_zeros(len(layer["weight"]))} | layer
        found |= {f"{number}.{name}": tensor for name, tensor in layer.items()}
    return found


def _words_and_labels(vocabulary: str | Path | Sequence[str]) -> tuple[list[str], list[Label] | None]:
    if not isinstance(vocabulary, str | Path):
        return as_words("vocabulary", vocabulary), None
    value = read_plain(Path(vocabulary))
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, list | tuple) for part in value):
        if not all(isinstance(label, str | int | float) for label in value[1]):
            raise InputError(f"{vocabulary}: its second list holds other things than labels")
        return as_words(str(vocabulary), value[0]), list(value[1])
    return as_words(str(vocabulary), value), None


def _task(source: str, name: str, labels: Sequence[Label] | None, outputs: int) -> Any:
    if name == "regression":
        given: list[Label] = list(labels or [])
    elif labels is None:
        given = list(range(2 if name == "binary" else outputs + (name == "ordinal")))
    else:
        given = list(labels)
    if len(set(given)) != len(given):
        raise InputError(f"{source}: a label is given twice: {', '.join(map(str, given))}")
    try:
        made = task_of(name, given)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: {shortened(error)}") from None
    if made.outputs != outputs:
        raise InputError(
            f"{source}: its head has {outputs} outputs, the task {name} with {len(given)} labels needs {made.outputs}"
        )
    return made


def _fill(source: str, model: nn.Module, state: Mapping[str, Tensor], kind: str) -> None:
    try:
        model.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()}, assign=True)
    except RuntimeError as error:
        raise InputError(f"{source}: its layers are not those of {kind} ({shortened(error, 300)})") from None
    model.requires_grad_()
