"""Our models under fastai's ``Learner``: its callbacks, schedules and files, our encoder and BPT3C.

The modules here share layers and Parameters with the model that they were made of, which is therefore what is trained.
Files that fastai writes of them have its names: they load into its own models, and its files load into these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.interop.fastai import fastai_vocabulary
from ulmfit_fast.nn.awd_lstm import AWDLSTM
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.documents import unpadded
from ulmfit_fast.nn.encoder import LayerState
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.poolings import CONCAT
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

Trained = TrainedLanguageModel | TrainedClassifier


def to_fastai(model: LanguageModel | TextClassifier | Trained) -> FastaiLanguageModel | FastaiClassifier:
    """The model as fastai's ``Learner`` takes it, with the same Parameters: training it trains ``model``.

    Args:
        model: over an ``AWDLSTM``. For fastai's semantics give a classifier ``BPT3C.like_fastai`` options.

    Raises:
        TypeError: another kind of object.
        InputError: a QRNN, an int8 model, attention pooling.
    """
    if isinstance(model, TrainedLanguageModel | TrainedClassifier):
        model = model.model
    _encoder("to_fastai", model)
    return FastaiLanguageModel(model) if isinstance(model, LanguageModel) else FastaiClassifier(model)


def fastai_learner(dls: Any, model: LanguageModel | TextClassifier | Trained, **options: Any) -> Any:
    """A fastai ``Learner`` that trains the model: ``fit_one_cycle``, ``freeze_to``, ``lr_find``, callbacks, ``save``.

    Layers are grouped as by ``language_model_learner`` and ``text_classifier_learner``.

    >>> learn = fastai_learner(dls, TrainedClassifier.load("clf/"))
    >>> learn.fit_one_cycle(1, slice(1e-3 / 2.6**4, 1e-3))

    Args:
        dls: fastai's ``DataLoaders`` over the model's vocabulary: ``TextBlock``'s ``vocab`` is
            ``fastai_vocabulary(tokenizer)``.
        model: as ``to_fastai``.
        options: of fastai's ``TextLearner`` (``metrics``, ``path``, ``cbs``, ``wd``, ...). ``alpha`` and ``beta`` (AR
            and TAR) are for language models: BPT3C never holds a classifier's states.

    Returns:
        An ``LMLearner`` for a language model, a ``TextLearner`` for a classifier.

    Raises:
        ImportError: fastai is missing.
        InputError: another vocabulary, other outputs than classes, ``alpha`` or ``beta`` for a classifier; as
            ``to_fastai``.
    """
    try:
        from fastai.losses import CrossEntropyLossFlat
        from fastai.text.learner import LMLearner, TextLearner
    except ImportError as error:
        raise ImportError(
            f"fastai_learner needs fastai 2 ({error}); pip install --no-deps -r requirements-fastai.txt in the source "
            "folder, or pip install fastai"
        ) from error
    module = to_fastai(model)
    tokenizer = model.tokenizer if isinstance(model, TrainedLanguageModel | TrainedClassifier) else None
    _check_vocabulary(dls, module.held, tokenizer)
    if isinstance(module, FastaiLanguageModel):
        return LMLearner(dls, module, **({"loss_func": CrossEntropyLossFlat(), "splitter": layer_groups} | options))
    if options.get("alpha") or options.get("beta"):
        raise InputError(
            "fastai_learner: alpha and beta are for language models: BPT3C holds no states of a classifier"
        )
    classes = getattr(dls, "c", None)
    if isinstance(classes, int) and classes > 0 and classes != module.held.classes:
        raise InputError(f"fastai_learner: dls has {classes} classes, the model {module.held.classes} outputs")
    return TextLearner(dls, module, **({"splitter": layer_groups, "alpha": 0.0, "beta": 0.0} | options))


def layer_groups(module: FastaiLanguageModel | FastaiClassifier) -> list[list[nn.Parameter]]:
    """fastai's groups of Parameters in its order, by which it saves an optimizer's state: for ``splitter``."""
    return [[p for _, p in sorted(group.named_parameters(), key=_place)] for group in module.held.layer_groups()]


def _place(named: tuple[str, nn.Parameter]) -> bool:
    return named[0] != "weight_hh_l0"  # a wrapper's own, before the LSTM's


def _check_vocabulary(dls: Any, model: LanguageModel | TextClassifier, tokenizer: Tokenizer | None) -> None:
    vocabulary = dls.vocab
    if len(vocabulary) and not isinstance(vocabulary[0], str):  # of texts, then of labels
        vocabulary = vocabulary[0]
    size = _encoder("fastai_learner", model).vocab_size
    remedy = "give its TextBlock the model's own: vocab=fastai_vocabulary(trained.tokenizer)"
    if len(vocabulary) != size:
        raise InputError(f"fastai_learner: dls has {len(vocabulary):,} tokens, the model {size:,}; {remedy}")
    if tokenizer is not None:
        for row, (theirs, ours) in enumerate(zip(vocabulary, fastai_vocabulary(tokenizer), strict=True)):
            if theirs != ours:
                raise InputError(f"fastai_learner: token {row} of dls is {theirs!r}, of the model {ours!r}; {remedy}")


def _encoder(function: str, model: Any) -> AWDLSTM:
    """The model's encoder. Raises InputError where fastai has no such kind."""
    if not isinstance(model, LanguageModel | TextClassifier):
        raise TypeError(f"{function}: model must be a LanguageModel or a TextClassifier, got {type(model).__name__}")
    encoder = model.encoder if isinstance(model, LanguageModel) else model.bpt3c.encoder
    if is_quantized(model):
        raise InputError(f"{function}: an int8 model only predicts; give the float32 model that it was made of")
    if not isinstance(encoder, AWDLSTM):
        raise InputError(f"{function}: fastai 2 has no {type(encoder).__name__}, only the AWD-LSTM")
    if isinstance(model, TextClassifier) and model.bpt3c.config.pooling != CONCAT:
        raise InputError(f"{function}: fastai 2 has no attention pooling; give a classifier with pooling concat")
    return encoder


def _names(layers: int) -> dict[str, str]:
    """fastai's name of each tensor of an ``AWDLSTM`` -> ours, in fastai's order; the embedding comes twice."""
    names = {"encoder.weight": "encoder.weight", "encoder_dp.emb.weight": "encoder.weight"}
    for i in range(layers):
        names[f"rnns.{i}.weight_hh_l0_raw"] = f"rnns.{i}.weight_hh_l0"
        for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
            names[f"rnns.{i}.module.{name}"] = f"rnns.{i}.{name}"
    return names


class _Encoder(nn.Module):
    """The layers of an ``AWDLSTM``, in files under fastai's names."""

    def __init__(self, encoder: AWDLSTM) -> None:
        super().__init__()
        self.encoder, self.rnns = encoder.encoder, encoder.rnns
        self.names = _names(len(encoder.rnns))  # in a file -> its own
        self.register_state_dict_post_hook(_write_names)
        self.register_load_state_dict_pre_hook(_read_names)


def _write_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, _Encoder)
    tensors = {name: state[prefix + own] for name, own in module.names.items()}
    for own in set(module.names.values()):
        del state[prefix + own]
    state.update({prefix + name: tensor for name, tensor in tensors.items()})


def _read_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, _Encoder)
    found: dict[str, Any] = {}
    for name, own in module.names.items():
        if prefix + name in state:
            found.setdefault(prefix + own, state.pop(prefix + name))
    state.update(found)


class _Linear(nn.Module):
    """The softmax of a language model: the embedding's weight, and the bias."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.weight, self.bias = model.encoder.encoder.weight, model.decoder_bias


class _Decoder(nn.Module):
    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.decoder = _Linear(model)


class _Held(nn.Sequential):
    """Modules under fastai's names beside the model that computes."""

    def __init__(self, model: nn.Module, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self._held = (model,)  # in a tuple: its tensors are listed once, under fastai's names

    def train(self, mode: bool = True) -> Any:
        self._held[0].train(mode)
        return super().train(mode)


class FastaiLanguageModel(_Held):
    """``to_fastai`` of a language model: [B, T] token ids to (logits [B, T, V], raw and dropped states [B, T, E])."""

    def __init__(self, model: LanguageModel) -> None:
        assert isinstance(model.encoder, AWDLSTM)
        super().__init__(model, _Encoder(model.encoder), _Decoder(model))
        self._state: list[LayerState] | None = None

    @property
    def held(self) -> LanguageModel:
        """The model that it was made of."""
        model = self._held[0]
        assert isinstance(model, LanguageModel)
        return model

    def reset(self) -> None:
        """Forget the texts so far."""
        self._state = None

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next batch of the same texts. A larger batch has new texts at its end, a smaller one lacks the last."""
        tokens = tokens.as_subclass(Tensor)
        output = self.held(tokens.t(), self._of_batch(len(tokens)))
        self._state = [tuple(part.detach() for part in layer) for layer in output.state]
        return self.held.logits(output).transpose(0, 1), output.raw.transpose(0, 1), output.dropped.transpose(0, 1)

    def _of_batch(self, batch: int) -> list[LayerState] | None:
        if self._state is None or len(self._state[0][0]) == batch:
            return self._state
        more = self.held.encoder.initial_state(max(batch - len(self._state[0][0]), 0))
        return [
            tuple(torch.cat([old[:batch], new.to(old)]) for old, new in zip(*layer, strict=True))
            for layer in zip(self._state, more, strict=True)
        ]


class _NotHeld:
    """Stands for the states of documents, which BPT3C does not hold. fastai's ``RNNRegularizer`` asks for them."""

    def float(self) -> Any:
        raise InputError(
            "BPT3C holds no states of a classifier, so that RNNRegularizer has nothing to work on; make the learner by "
            "fastai_learner, or with alpha=0, beta=0"
        )

    def __len__(self) -> int:
        return self.float()


class _SentenceEncoder(nn.Module):
    """fastai's ``SentenceEncoder`` by name."""

    def __init__(self, encoder: AWDLSTM) -> None:
        super().__init__()
        self.module = _Encoder(encoder)


class _Head(nn.Module):
    """The head's own layers in fastai's blocks. As there a dropout of 0 is left out, which moves the linear layer."""

    def __init__(self, head: nn.Sequential) -> None:
        super().__init__()
        blocks = [[head[0], head[1], head[2], head[3]], [head[4], head[5], head[6]]]
        self.layers = nn.Sequential(*(nn.Sequential(*(m for m in block if _is_there(m))) for block in blocks))


def _is_there(layer: nn.Module) -> bool:
    return not (isinstance(layer, nn.Dropout) and layer.p == 0)


class FastaiClassifier(_Held):
    """``to_fastai`` of a classifier: padded token ids [B, T] to (logits [B, K], and twice nothing).

    Padding may stand before and behind a document, as fastai's loaders have it; it is not read.
    """

    def __init__(self, model: TextClassifier) -> None:
        encoder = _encoder("to_fastai", model)
        super().__init__(model, _SentenceEncoder(encoder), _Head(model.head))
        self._pad_id = encoder.config.pad_id

    @property
    def held(self) -> TextClassifier:
        """The model that it was made of."""
        model = self._held[0]
        assert isinstance(model, TextClassifier)
        return model

    def reset(self) -> None:
        """Nothing: each document begins anew."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Any, Any]:
        documents, lengths = unpadded(tokens.as_subclass(Tensor), self._pad_id)
        nothing = _NotHeld()
        return self.held(documents, lengths), nothing, nothing
