"""No step of training or prediction waits for the device: none reads a value of a tensor that lies there.

The steps run on torch's meta device, where a tensor has no values: whoever wants one gets an error. Packed batches keep
their ``batch_sizes`` on the CPU, as on a GPU.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from ulmfit_fast import AWDLSTMConfig, QRNNConfig, WeightDropLSTM
from ulmfit_fast.core.device import documents_on_device, on_device
from ulmfit_fast.inference.prediction import classifier_logits, evaluate_language_model
from ulmfit_fast.nn import two_pass
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoders import make_encoder
from ulmfit_fast.nn.language_model import LanguageModel, language_model_loss
from ulmfit_fast.tasks.task import task_of
from ulmfit_fast.text.batching import pack_documents
from ulmfit_fast.training.loop import Loop, StepLoss, _Unread
from ulmfit_fast.training.optim import NTASGD, AveragedWeights

META = torch.device("meta")
ENCODERS = [AWDLSTMConfig(50, 8, 12), QRNNConfig(50, 8, 12, 3)]
each_encoder = pytest.mark.parametrize("config", ENCODERS, ids=lambda config: type(config).__name__)
LENGTHS = (72, 2, 50, 71, 1)


@pytest.fixture(autouse=True)
def _no_autocast_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta has none; what surrounds a step with it, off, would raise."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def documents() -> PackedSequence:
    return documents_on_device(pack_documents([torch.randint(0, 50, (n,)) for n in LENGTHS]), META)


def update(model: nn.Module, loss: Tensor) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    torch.optim.Adam(model.parameters(), foreach=True).step()


def test_reading_a_value_is_found() -> None:
    for read in (bool, float, int, Tensor.tolist, Tensor.item, Tensor.cpu):
        with pytest.raises(RuntimeError):
            read(torch.zeros((), device=META))
    with pytest.raises(RuntimeError):
        torch.zeros(3, device=META).nonzero()


@each_encoder
def test_language_model(config: Any) -> None:
    model = LanguageModel(make_encoder(config)).to(META).train()
    tokens = torch.zeros(7, 4, dtype=torch.int64, device=META)
    state = None
    for _ in range(2):  # the second goes on from the first's state
        output = model(tokens, state)
        _, loss = language_model_loss(model, output, tokens, 2.0, 1.0)
        update(model, loss)
        state = [tuple(x.detach() for x in layer) for layer in output.state]


@each_encoder
@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("memory", ["recompute", "store", "auto"])
@pytest.mark.parametrize("window", [None, 20])
def test_classifier(
    config: Any, memory: str, backprop: str, mask_scope: str, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of generators, which chunks' masks come from, meta has none.
    monkeypatch.setattr(two_pass, "masks_of_seed", lambda encoder, seed, batch, device: encoder.new_masks(batch))
    model = TextClassifier(
        make_encoder(config), 3, memory=memory, backprop=backprop, bptt=7, mask_scope=mask_scope, pool_window=window
    )
    model.to(META).train()
    update(model, nn.functional.cross_entropy(model(documents()), torch.zeros(5, dtype=torch.int64, device=META)))


@each_encoder
@pytest.mark.parametrize("memory", ["recompute", "store"])
@pytest.mark.parametrize("window", [None, 20])
def test_attention_pooling(config: Any, memory: str, window: int | None) -> None:
    model = TextClassifier(
        make_encoder(config), 3, memory=memory, bptt=7, pool_window=window, pooling="attention", attention_heads=2
    )
    model.to(META).train()
    update(model, nn.functional.cross_entropy(model(documents()), torch.zeros(5, dtype=torch.int64, device=META)))


@pytest.mark.parametrize("optimizer", ["sgd", "ntasgd"])
def test_other_optimizers(optimizer: str) -> None:
    """With their averages, also an exponential one."""
    model = LanguageModel(make_encoder(ENCODERS[0])).to(META).train()
    kind = {"sgd": torch.optim.SGD, "ntasgd": NTASGD}[optimizer]
    update, average = kind(model.parameters(), 0.1), AveragedWeights(model.parameters(), 0.9)
    if optimizer == "ntasgd":
        update.averaging = True
    tokens = torch.zeros(7, 4, dtype=torch.int64, device=META)
    for _ in range(2):
        language_model_loss(model, model(tokens), tokens)[1].backward()
        update.step()
        average.update()


def test_evaluation_of_a_language_model_waits_once() -> None:
    """At its end, for the sum over all batches."""
    model, calls = LanguageModel(make_encoder(ENCODERS[0])).to(META), []
    model.register_forward_hook(lambda *_: calls.append(1))
    text = np.arange(200) % 50
    with pytest.raises(RuntimeError):
        evaluate_language_model(model, [text], bptt=10, batch_size=4)
    assert len(calls) == 5


def test_classification_waits_once() -> None:
    model, calls = TextClassifier(make_encoder(ENCODERS[0]), 3, bptt=7).to(META), []
    model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises((RuntimeError, NotImplementedError)):
        classifier_logits(model, [np.arange(9)] * 8, batch_size=2)
    assert len(calls) == 4


@each_encoder
def test_a_stream(config: Any) -> None:
    stream = TextClassifier(make_encoder(config), 3).to(META).eval().stream()
    with pytest.raises(ValueError, match="nothing has been read"):
        stream.logits()
    stream.feed(range(40))
    assert stream.logits([3, 4]).shape == stream.logits().shape == (3,)


@each_encoder
def test_prediction(config: Any) -> None:
    model = TextClassifier(make_encoder(config), 3, bptt=7).to(META).eval()
    with torch.inference_mode():
        assert model(documents()).shape == (5, 3)


def test_the_head_is_called_once_off_the_cpu() -> None:
    """On a CPU row by row, so that no row depends on the others' number; elsewhere that is not promised."""
    calls = []
    model = TextClassifier(make_encoder(ENCODERS[0]), 3).eval()
    forward = model.head.forward
    model.head.forward = lambda x: calls.append(len(x)) or forward(x)  # type: ignore[assignment,func-returns-value]
    model.classify(torch.randn(4, 24))
    assert calls == [1] * 4
    calls.clear()
    model.to(META).classify(torch.randn(4, 24, device=META))
    assert calls == [4]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer(bidirectional: bool) -> None:
    layer = WeightDropLSTM(6, 8, num_layers=2, bidirectional=bidirectional, weight_dropout=0.5).to(META)
    ragged = pack_sequence([torch.zeros(n, 6, device=META) for n in (4, 2, 2)])
    assert ragged.batch_sizes.is_cpu
    for x in (torch.randn(4, 3, 6, device=META), ragged):
        output, _ = layer(x)
        update(layer, (output.data if isinstance(output, PackedSequence) else output).sum())


def test_the_loop_reads_a_step_s_loss_after_the_next_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    read, computed = [], []
    monkeypatch.setattr(_Unread, "wait", lambda self: read.append(len(computed)) or [1.0, 1.0, 1.0])
    model = LanguageModel(make_encoder(ENCODERS[0])).to(META).train()
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)

    def compute_loss(tokens: Tensor) -> StepLoss:
        computed.append(tokens)
        cross_entropy, loss = language_model_loss(model, model(tokens), tokens, 2.0, 1.0)
        return StepLoss(cross_entropy, loss, tokens.numel())

    loop = Loop(model, optimizer, schedule, 0.1, progress=False, late=True)
    batches = [torch.zeros(7, 4, dtype=torch.int64, device=META)] * 4
    with pytest.raises(RuntimeError):  # at the epoch's end: whether the weights are finite
        loop.train_epoch("", batches, 112, compute_loss)
    assert read == [2, 3, 4, 4]


def test_large_copies_are_pinned_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy from memory that is not pinned is queued up to 64 KB; a larger one waits for the device."""
    pinned, copied = [], []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self.nbytes) or self)
    monkeypatch.setattr(Tensor, "to", lambda self, device, non_blocking: copied.append(non_blocking) or self)
    gpu = torch.device("cuda", 0)
    small, large = (torch.zeros(n, dtype=torch.int64) for n in (8192, 8193))
    on_device(small, gpu)
    assert not pinned
    on_device(large, gpu)
    assert pinned == [large.nbytes]
    on_device(large, torch.device("cpu"))
    assert len(pinned) == 1
    documents_on_device(PackedSequence(large, torch.ones(8193, dtype=torch.int64), small, small), gpu)
    assert len(pinned) == 2
    assert copied == [True] * 6


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression"])
def test_losses_of_tasks(task: str) -> None:
    made = task_of(task, [] if task == "regression" else ["a", "b", "c"])
    logits = torch.zeros(5, 1 if task == "regression" else 3, device=META, requires_grad=True)
    shape, dtype = ((5,), torch.int64) if task == "single_label" else (logits.shape, torch.float32)
    made.loss(logits, torch.zeros(shape, dtype=dtype, device=META), torch.ones(5, device=META)).sum().backward()
