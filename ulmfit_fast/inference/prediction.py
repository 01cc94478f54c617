"""Trained models on texts: what a task makes of the logits, scores, perplexity. No text's result depends on others."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.device import autocast, documents_on_device, on_device
from ulmfit_fast.core.distributed import ALONE, Processes, share_of_sizes
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.progress import Progress, progress_bar
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel, language_model_loss
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.batching import LanguageModelStream, document_batches
from ulmfit_fast.text.files import Documents
from ulmfit_fast.text.token_file import TokenArray, TokenCorpus
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import UnknownTokens, warn_of_unknown

MAX_TOKENS = 1_000_000  # of a batch


def predict_probabilities(
    model: TextClassifier,
    tokenizer: Tokenizer,
    task: Task,
    texts: Sequence[str],
    batch_size: int = 64,
    progress: bool = False,
    max_tokens: int = MAX_TOKENS,
    precision: str = "float32",
) -> np.ndarray:
    """What the task makes of each text's logits, float32 [len(texts), ...]: probabilities, for most tasks.

    Batches hold at most ``batch_size`` texts and ``max_tokens`` tokens (or one text); the result does not depend on it.
    ``precision`` "bfloat16" computes under autocast.

    Raises:
        InputError: the model's weights are so large, or NaN, that it computes NaN.
    """
    ids = list(tokenizer.encode(texts))
    warn_of_unknown("predict", tokenizer, ids)
    with progress_bar("predict", sum(map(len, ids)), "tok", progress) as bar:
        return activated_of(model, task, ids, batch_size, max_tokens, precision, bar)


def predict_documents(
    classifiers: Sequence[tuple[TextClassifier, Tokenizer, Task]],
    pieces: Iterable[Documents],
    characters: int,
    batch_size: int = 64,
    progress: bool = False,
    max_tokens: int = MAX_TOKENS,
    precision: str = "float32",
) -> Generator[tuple[Documents, np.ndarray], None, None]:
    """Each piece of a file, as it is reached, with what ``predict_probabilities`` says of its texts.

    Of several classifiers, whose tasks must be of one type and have the same labels, it is the mean. ``characters`` are
    those of all pieces, to tell the time left.
    """
    read = tokens = 0
    unknown = [UnknownTokens(tokenizer) for _, tokenizer, _ in classifiers]
    with progress_bar("predict", 0, "tok", progress) as bar:
        for piece in pieces:
            ids = [list(each.watch(each.tokenizer.encode(piece.texts))) for each in unknown]
            read += sum(map(len, piece.texts))
            tokens += sum(len(document) for each in ids for document in each)
            bar.total = round(tokens * max(characters / max(read, 1), 1))  # the rest is taken to be as what was read
            found = [
                activated_of(model, task, each, batch_size, max_tokens, precision, bar)
                for (model, _, task), each in zip(classifiers, ids, strict=True)
            ]
            yield piece, found[0] if len(found) == 1 else np.mean(found, axis=0)
    for each in unknown:
        each.warn("the texts")


@own_modes(grad=False)
def evaluate_classifier(
    model: TextClassifier,
    task: Task,
    ids: Sequence[np.ndarray],
    targets: Tensor,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, float]:
    """The task's metrics on tokenized texts, and "loss", the mean of the task's loss."""
    logits = classifier_logits(model, ids, batch_size, progress)
    return {"loss": float(task.loss(logits, targets)), **task.metrics(task.activate(logits).numpy(), targets)}


@own_modes(grad=False)
def classifier_logits(
    model: TextClassifier, ids: Sequence[np.ndarray], batch_size: int = 64, progress: bool = False,
    processes: Processes = ALONE,
) -> Tensor:  # fmt: skip
    """Logits of tokenized texts, float32 [len(ids), K]; ``processes`` share the work, and all have all logits."""
    own = share_of_sizes([len(document) for document in ids], processes.size)[processes.rank]
    with progress_bar("evaluate", sum(len(ids[i]) for i in own), "tok", progress) as bar:
        logits = _logits(model, [ids[i] for i in own], batch_size, MAX_TOKENS, bar, processes)
    if processes.size == 1:
        return logits
    everything = torch.zeros(len(ids), model.classes, dtype=torch.float32, device="cpu")
    everything[own] = logits
    processes.check_interruption()
    return processes.sum(everything)  # with zeros: to the bit


@own_modes(grad=False)
def logits_of(model: TextClassifier, ids: Sequence[np.ndarray], batch_size: int = 64) -> Tensor:
    """``classifier_logits`` that shows nothing."""
    with progress_bar("predict", 0, "tok", enabled=False) as bar:
        return _logits(model, ids, batch_size, MAX_TOKENS, bar)


@own_modes(grad=False)
def evaluate_language_model(
    model: LanguageModel,
    corpus: TokenCorpus | Sequence[np.ndarray],
    bptt: int = 70,
    batch_size: int = 16,
    progress: bool = False,
    processes: Processes = ALONE,
) -> float:
    """Cross-entropy in nats a token; its exponential is the perplexity.

    The text is read in ``batch_size`` lanes, each beginning without a state; 1 is how the papers measure. ``processes``
    divide them among themselves.
    """
    corpus = TokenArray(corpus) if isinstance(corpus, Sequence) else corpus
    count = max(1, min(batch_size, int(corpus.offsets[-1]) // 2))
    lanes = processes.share(count)
    stream = LanguageModelStream(corpus, count, bptt, lanes=lanes)
    model.eval()
    device = model.decoder_weight.device
    total, state = torch.zeros((), dtype=torch.float64, device=device), None  # read once, when all is computed
    tokens = stream.tokens * len(lanes) // count
    with torch.inference_mode(), progress_bar("evaluate", tokens, "tok", progress) as bar:
        for batch in stream.epoch() if lanes else ():
            if processes.interrupted:
                break
            inputs, targets = (on_device(x, device) for x in batch)
            output = model(inputs, state)
            state = output.state
            cross_entropy, _ = language_model_loss(model, output, targets)
            total += cross_entropy.double() * targets.numel()
            bar.update(targets.numel())
    processes.check_interruption()
    return float(processes.sum(total)) / stream.tokens


@own_modes(grad=False)
def activated_of(
    model: TextClassifier, task: Task, ids: Sequence[np.ndarray], batch_size: int, max_tokens: int, precision: str,
    bar: Progress,
) -> np.ndarray:  # fmt: skip
    """``predict_probabilities`` of tokenized texts; ``bar`` is told of the tokens."""
    with autocast(model, precision):
        logits = _logits(model, ids, batch_size, max_tokens, bar)
    return finite(task.activate(logits)).numpy()


def finite(computed: Tensor) -> Tensor:
    """What a model computed. Raises InputError where some of it is NaN or infinite."""
    if not computed.isfinite().all():
        raise InputError("the model computes NaN for some texts: its weights are not usable; train it again")
    return computed


def _logits(
    model: TextClassifier, ids: Sequence[np.ndarray], batch_size: int, max_tokens: int, bar: Progress,
    processes: Processes = ALONE,
) -> Tensor:  # fmt: skip
    model.eval()
    return outputs_of(model.bpt3c, model, model.classes, ids, batch_size, max_tokens, bar, processes)


def outputs_of(
    bpt3c: BPT3C, compute: Callable[[PackedSequence], Tensor], features: int, ids: Sequence[np.ndarray],
    batch_size: int, max_tokens: int, bar: Progress, processes: Processes = ALONE,
) -> Tensor:  # fmt: skip
    """What ``compute``, a model in eval mode with ``bpt3c``, makes of texts: float32 [len(ids), features]."""
    before, device = bpt3c.on_progress, next(bpt3c.parameters()).device
    found = torch.empty(len(ids), features, dtype=torch.float32, device=device)
    with torch.inference_mode():
        bpt3c.on_progress = bar.update
        try:
            for documents, rows in document_batches(ids, batch_size, max_tokens):
                if processes.interrupted:
                    break
                place = on_device(torch.from_numpy(rows), device)
                found[place] = compute(documents_on_device(documents, device)).float()
        finally:
            bpt3c.on_progress = before
    return found.cpu()  # the only wait for the device
