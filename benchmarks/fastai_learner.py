"""fastai's own classifier and ours under its Learner, step by step: `python -m benchmarks.fastai_learner [--smoke]`.

Both fit the same batches of documents from the same weights, each in turns; what is timed is a whole step of
``fit_one_cycle``, forward, backward and optimizer. Without dropout, so that losses can be compared.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ulmfit_fast import AWDLSTM, ops
from ulmfit_fast.interop.fastai_classifier import import_classifier
from ulmfit_fast.interop.fastai_learner import fastai_learner
from ulmfit_fast.text.rules import SPECIAL_TOKENS

_NONE = dict.fromkeys(("embed_p", "input_p", "hidden_p", "weight_p", "output_p"), 0.0)


def learners(sizes: dict[str, int], vocab_size: int, batch: int, folder: Path) -> tuple[Any, Any]:
    """fastai's learner and ours with the same weights, over no data: batches are given one by one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastai.text import all as fastai
    # BatchNorm needs documents that differ; whole chunks, as fastai's batches then change nothing.
    random = torch.Generator().manual_seed(0)
    lengths = [72 * (1 + i * 9 // max(batch - 1, 1)) for i in range(batch)][::-1]
    rows = [torch.randint(9, vocab_size, (length,), generator=random) for length in lengths]
    tokens = torch.stack([nn.functional.pad(row, (max(lengths) - len(row), 0), value=1) for row in rows])
    data = [(fastai.TensorText(tokens), fastai.TensorCategory(torch.arange(batch) % 2))]
    vocab = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(vocab_size - len(SPECIAL_TOKENS)))]
    dls = fastai.DataLoaders(data, data, device=torch.device("cpu"))
    dls.vocab, dls.c = fastai.L(vocab, ["bad", "good"]), 2
    theirs = fastai.text_classifier_learner(
        dls, fastai.AWD_LSTM, config=fastai.awd_lstm_clas_config | sizes, pretrained=False, path=folder, alpha=0,
        beta=0, loss_func=fastai.CrossEntropyLossFlat(),
    )  # fmt: skip
    path = theirs.save("begin", with_opt=False)
    trained = import_classifier(path, vocab, ["bad", "good"], tokenizer="whitespace")
    ours = fastai_learner(dls, trained.model, loss_func=fastai.CrossEntropyLossFlat())
    for model in (theirs.model, trained.model):
        for module in model.modules():
            for name in ("p", "embed_p", "weight_p"):
                if isinstance(getattr(module, name, None), float):  # fastai breaks where weight_p is 0
                    setattr(module, name, 1e-30 if name == "weight_p" else 0.0)
            if isinstance(module, AWDLSTM):
                module.set_dropouts(replace(module.config, **_NONE))
    for learn in (theirs, ours):
        learn.remove_cbs([learn.progress])
        learn.logger = lambda _: None
    return theirs, ours


def step(learn: Any) -> tuple[float, float]:
    """Seconds and loss of one step of training."""
    from fastai.callback.core import Callback, CancelFitException

    found: list[tuple[float, float]] = []

    class Time(Callback):  # type: ignore[misc]
        order = -100

        def before_batch(self) -> None:
            self.start = time.perf_counter()

        def after_batch(self) -> None:
            if self.training:
                found.append((time.perf_counter() - self.start, float(self.learn.loss.detach())))
                raise CancelFitException

    learn.fit_one_cycle(1, 1e-3, cbs=Time())
    return found[0]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fastai_learner", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: that it still runs")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    sizes, vocab_size, batch, rounds = {"emb_sz": 400, "n_hid": 1152, "n_layers": 3}, 30_000, 16, options.rounds
    if options.smoke:
        sizes, vocab_size, batch, rounds = {"emb_sz": 20, "n_hid": 24, "n_layers": 2}, 60, 4, 1
    with tempfile.TemporaryDirectory() as folder:
        pair = learners(sizes, vocab_size, batch, Path(folder))
        seconds: list[list[float]] = [[], []]
        for number in range(rounds + 1):  # the first warms up
            losses = [0.0, 0.0]
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                taken, losses[which] = step(pair[which])
                if number:
                    seconds[which].append(taken)
            if abs(losses[0] - losses[1]) > 1e-2 * max(1.0, losses[0]):
                raise AssertionError(f"losses differ: fastai {losses[0]}, ours {losses[1]}")
            print(f"round {number}: loss of fastai {losses[0]:.6f}, ours {losses[1]:.6f}", flush=True)
    ratios = sorted(a / b for a, b in zip(*seconds, strict=True))
    theirs, own = (statistics.median(times) for times in seconds)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, kernels {ops.build_info()['isa']}, torch "
        f"{torch.__version__}: a step of {batch} documents of 72 to 720 tokens, median of {rounds}: fastai "
        f"{theirs:.2f} s, ours {own:.2f} s, ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
