"""Many threads predict with one model while another is trained; and processes that are forked meanwhile."""

from __future__ import annotations

import os
import select
import signal
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import CLASSIFY, make_task
from ulmfit_fast import finetune_classifier
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.stream import TextStream
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.text.tokenizer import Tokenizer

TEXTS, LABELS = make_task(40, seed=3)
_THREADS, _ROUNDS = 8, 6
_ENOUGH_S = 100


def classifiers(precision: str) -> Classifiers:
    """Large enough for weights that are packed once, and for a team of threads."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train_words(TEXTS, min_frequency=1)
    encoder = AWDLSTM(AWDLSTMConfig(len(tokenizer), 100, 300, 2, pad_id=tokenizer.pad_id))
    model = TextClassifier(encoder, 2).eval()
    model = model.quantize() if precision == "int8" else model
    return Classifiers([(model, tokenizer, SingleLabel(["bad", "good"]))])


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_many_threads_predict_while_another_model_trains(precision: str) -> None:
    """Each has the bits of one that is alone, from the first call on, which packs the weights; so has the training."""
    config = replace(CLASSIFY, epochs=2)
    trained = finetune_classifier(TEXTS, LABELS, None, config, progress=False)
    expected = classifiers(precision).activated(TEXTS)
    shared = classifiers(precision)  # has packed nothing yet
    start = threading.Barrier(_THREADS + 1)

    def predict(number: int) -> bool:
        start.wait()
        same = True
        for turn in range(_ROUNDS):
            chosen = np.random.default_rng(100 * number + turn).permutation(len(TEXTS))[: 1 + 7 * number % 40]
            found = shared.activated([TEXTS[i] for i in chosen], batch_size=1 + number)
            same = same and np.array_equal(found, expected[chosen])
            stream = TextStream(*shared.members[0])
            stream.feed(TEXTS[number])
            same = same and np.array_equal(stream.predict_proba(), expected[number])
        return same

    def train() -> Any:
        start.wait()
        return finetune_classifier(TEXTS, LABELS, None, config, progress=False)

    with ThreadPoolExecutor(_THREADS + 1) as pool:
        training = pool.submit(train)
        assert all(pool.map(predict, range(_THREADS)))
        beside = training.result(_ENOUGH_S)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, beside.model.state_dict()[name]), name


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_process_that_is_forked_while_threads_predict(precision: str) -> None:
    """They hold the tokenizer's lock and that of the packed weights now and then: the child predicts the same."""
    model = classifiers(precision)
    expected = model.activated(TEXTS)
    ended = threading.Event()

    def predict() -> None:
        while not ended.is_set():
            list(model.members[0][1].encode(TEXTS))
            model.activated(TEXTS[:2])

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            assert _in_a_child(model, expected) == b"same"
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _in_a_child(model: Classifiers, expected: np.ndarray) -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # torch's own operators hang in a forked child, too: OpenMP has lost its threads
            os.write(writing, b"same" if np.array_equal(model.activated(TEXTS), expected) else b"other")
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    readable, _, _ = select.select([reading], [], [], _ENOUGH_S)
    said = os.read(reading, 4000) if readable else b"hangs"
    os.close(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return said
