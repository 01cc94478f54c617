"""How fast several processes train a language model, and what they tell each other a step.

One core a process, each number of processes by itself, on a machine that does nothing else:

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.scaling --output 1.json
    taskset -c 0,1 torchrun --standalone --nproc-per-node 2 -m benchmarks.scaling --bind --output 2.json

The batch is the whole run's, so that all do the same work (strong scaling); ``--batch-size`` times the number of
processes shows weak scaling. The first steps are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ulmfit_fast import PretrainConfig, pretrain_lm
from ulmfit_fast.core.distributed import joined
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.loop import EpochProgress
from ulmfit_fast.training.trainer import Trainer

_WARM_UP = 3  # steps
_BUCKET_BYTES = 25 << 20  # of DDP


class EnoughError(Exception):
    """All steps are measured."""


class Timed(Callback):
    """Times of steps, and tokens of each, until there are enough."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.times: list[float] = []
        self.tokens: list[int] = []
        self.gradient_bytes = 0

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        self.times.append(time.perf_counter())
        self.tokens.append(done.tokens)
        if len(self.times) > _WARM_UP + self.steps:
            trained = {id(p): p for p in trainer.model.parameters() if p.grad is not None}
            self.gradient_bytes = sum(p.grad.nbytes for p in trained.values() if p.grad is not None)
            raise EnoughError

    def result(self) -> dict[str, Any]:
        seconds = np.diff(self.times)[_WARM_UP:]
        tokens = np.diff(self.tokens)[_WARM_UP:]
        return {
            "steps": len(seconds), "seconds_a_step": float(np.median(seconds)),
            "tokens_per_s": float(tokens.sum() / seconds.sum()), "gradient_bytes": self.gradient_bytes,
        }  # fmt: skip


def corpus_of(vocab_size: int, tokens: int) -> Corpus:
    """Random words, with the frequencies that words have."""
    tokenizer = Tokenizer.train("whitespace", [" ".join(f"w{i}" for i in range(vocab_size))], vocab_size, 1)
    random = np.random.default_rng(0)
    ids = np.minimum(random.zipf(1.2, tokens), len(tokenizer)) - 1
    return Corpus(tokenizer, TokenArray(list(ids.astype(np.int32).reshape(-1, 100))), None)


def all_reduce_seconds(size_bytes: int, device: torch.device) -> float:
    """Of summing so many bytes of float32 over the processes, in DDP's buckets, with nothing else to do."""
    buckets = [torch.zeros(n // 4, device=device) for n in _pieces(size_bytes)]
    measured = []
    for _ in range(7):
        dist.barrier()
        start = time.perf_counter()
        for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            work.wait()
        if device.type == "cuda":
            torch.cuda.synchronize()
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def _pieces(size_bytes: int) -> list[int]:
    whole, rest = divmod(size_bytes, _BUCKET_BYTES)
    return [_BUCKET_BYTES] * whole + [rest] * bool(rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--vocab-size", type=int, default=30_000)
    parser.add_argument("--hidden-size", type=int, default=1152)
    parser.add_argument("--embedding-size", type=int, default=400)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bind", action="store_true", help="each process to one of the cores it is given")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.bind:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ.get("LOCAL_RANK", "0")) % len(cores)]})
    with joined() as processes:
        config = PretrainConfig(
            batch_size=options.batch_size, hidden_size=options.hidden_size, embedding_size=options.embedding_size,
            vocab_size=options.vocab_size, precision=options.precision, device=options.device, checkpoint_minutes=0,
        )  # fmt: skip
        timed = Timed(options.steps)
        corpus = corpus_of(options.vocab_size, 100 * options.batch_size * (options.steps + 10))
        try:
            pretrain_lm(corpus, config, callbacks=[timed], progress=False)
        except EnoughError:
            found = timed.result()
        found |= {
            "processes": processes.size, "threads": torch.get_num_threads(), "batch_size": options.batch_size,
            "precision": options.precision, "torch": torch.__version__,
        }  # fmt: skip
        if processes.size > 1:
            device = torch.device("cuda" if options.device == "cuda" else "cpu")
            found["all_reduce_seconds"] = all_reduce_seconds(found["gradient_bytes"], device)
        if processes.is_first:
            print(json.dumps(found, indent=2))
            if options.output is not None:
                options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
