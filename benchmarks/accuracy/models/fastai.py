"""fastai's ULMFiT classifier with its own recipe, on the same language model's weights and tokens as ours.

fastai's model, data loaders, padding, one-cycle schedule, discriminative rates and gradual unfreezing; only the split
into tokens is ours, as the vocabulary is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from benchmarks.accuracy.models import Options, Probabilities
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.trained import TrainedLanguageModel

FACTOR = 2.6**4
CHUNK, TEXTS_IN_A_BATCH = 72, 64
Tokens = npt.NDArray[np.integer[Any]]


class Fastai:
    """Settings: batch_size, drop_mult, lr (of the head's first epoch), epochs (with all layers, after three of gradual
    unfreezing). Defaults as in fastai's IMDb tutorial, but for the batch: 16, as 100 labels are two batches of its 64.
    """

    def __init__(self, options: Options) -> None:
        self.settings = options.given(batch_size=16, drop_mult=0.5, lr=2e-2, epochs=2)
        self.folders: Sequence[Path] = options.lm
        self.waived_seconds = 0.0

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        self.classes = sorted(set(labels))
        number = {label: i for i, label in enumerate(self.classes)}
        targets = [number[label] for label in labels]
        self.trained: list[tuple[Tokenizer, nn.Module]] = []
        for folder in self.folders:
            language_model = TrainedLanguageModel.load(folder)
            torch.manual_seed(seed)
            np.random.seed(seed)  # fastai shuffles with NumPy's global generator
            self.trained.append((language_model.tokenizer, self._train(language_model, texts, targets)))

    def _train(self, language_model: TrainedLanguageModel, texts: Sequence[str], targets: list[int]) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from fastai.callback.core import Callback, CancelValidException
            from fastai.callback.rnn import rnn_cbs
            from fastai.callback.schedule import Learner
            from fastai.data.core import DataLoaders
            from fastai.losses import CrossEntropyLossFlat
            from fastai.text.models.awdlstm import awd_lstm_clas_split

        class NoValidation(Callback):
            """The labelled texts are all trained on."""

            def before_validate(self) -> None:
                raise CancelValidException

        ids = list(language_model.tokenizer.encode(texts))
        loader = _training_batches(ids, targets, self.settings["batch_size"], language_model.tokenizer.pad_id)
        model = _classifier_of(language_model, len(self.classes), self.settings["drop_mult"])
        learner = Learner(
            DataLoaders(loader, loader), model, loss_func=CrossEntropyLossFlat(), splitter=awd_lstm_clas_split,
            cbs=[*rnn_cbs(), NoValidation()], moms=(0.8, 0.7, 0.8),
        )  # fmt: skip
        rate = self.settings["lr"]
        with learner.no_bar(), learner.no_logging():
            learner.freeze()
            learner.fit_one_cycle(1, rate)
            learner.freeze_to(-2)
            learner.fit_one_cycle(1, slice(rate / 2 / FACTOR, rate / 2))
            learner.freeze_to(-3)
            learner.fit_one_cycle(1, slice(rate / 4 / FACTOR, rate / 4))
            learner.unfreeze()
            learner.fit_one_cycle(self.settings["epochs"], slice(rate / 20 / FACTOR, rate / 20))
        return model

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        mean: Probabilities = np.mean([_predict(model, tokenizer, texts) for tokenizer, model in self.trained], axis=0)
        return mean


def _training_batches(ids: list[Tokens], targets: list[int], size: int, pad_id: int) -> Any:
    """fastai's own: texts of about one length together, padded in front by whole chunks."""
    from fastai.text.data import SortedDL, TensorText, pad_input_chunk

    items = [
        (TensorText(torch.from_numpy(x.astype(np.int64))), torch.tensor(y)) for x, y in zip(ids, targets, strict=True)
    ]
    return SortedDL(
        items, res=[len(x) for x in ids], bs=min(size, len(items)), shuffle=True, drop_last=True, num_workers=0,
        before_batch=partial(pad_input_chunk, pad_idx=pad_id, seq_len=CHUNK),
    )  # fmt: skip


def _classifier_of(language_model: TrainedLanguageModel, classes: int, drop_mult: float) -> nn.Module:
    """fastai's classifier with the language model's embedding and LSTM layers, and a new head."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
        from fastai.text.models.core import get_text_classifier
    ours = language_model.model.encoder
    pad_id, sizes = language_model.tokenizer.pad_id, ours.config
    config = awd_lstm_clas_config | {
        "emb_sz": sizes.embedding_size, "n_hid": sizes.hidden_size, "n_layers": sizes.num_layers, "pad_token": pad_id,
    }  # fmt: skip
    model: nn.Module = get_text_classifier(
        AWD_LSTM, sizes.vocab_size, classes, seq_len=CHUNK, config=config, drop_mult=drop_mult, pad_idx=pad_id
    )
    theirs: Any = model[0].module  # type: ignore[index]
    with torch.no_grad():
        theirs.encoder.weight.copy_(ours.encoder.weight)
        for mine, other in zip(ours.rnns, theirs.rnns, strict=True):
            other.weight_hh_l0_raw.copy_(mine.weight_hh_l0)
            for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
                getattr(other.module, name).copy_(getattr(mine, name))
    return model


def _predict(model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> Probabilities:
    from fastai.text.data import pad_chunk

    ids = [torch.from_numpy(x.astype(np.int64)) for x in tokenizer.encode(texts)]
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # as its validation loader does
    found: Probabilities = np.empty((len(ids), model[1].layers[-1][-1].out_features))
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), TEXTS_IN_A_BATCH):
            rows = order[start : start + TEXTS_IN_A_BATCH]
            longest = len(ids[rows[0]])
            padded = [pad_chunk(ids[i], pad_idx=tokenizer.pad_id, seq_len=CHUNK, pad_len=longest) for i in rows]
            model.reset()
            found[rows] = model(torch.stack(padded))[0].softmax(1).numpy()
    return found
