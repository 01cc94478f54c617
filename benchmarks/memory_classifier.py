"""Peak memory of one training step, full size: `python -m benchmarks.memory_classifier DOCUMENTS TOKENS`.

Counted beyond what a step of two short documents left: parameters, gradients, the optimizer's state, libraries.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from benchmarks.classifiers import Sizes, make_model
from benchmarks.resident_memory import resident_megabytes
from ulmfit_fast.text.batching import pack_documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", type=int)
    parser.add_argument("tokens", type=int, help="of each document")
    parser.add_argument("--memory", default="auto", choices=("auto", "recompute", "store"))
    parser.add_argument("--backprop", default="detached", choices=("detached", "exact"))
    parser.add_argument("--bfloat16", action="store_true", help="under autocast")
    arguments = parser.parse_args()
    model = make_model(Sizes(), 0.5).train()
    model.bpt3c.memory, model.bpt3c.backprop = arguments.memory, arguments.backprop
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(documents: int, tokens: int) -> None:
        packed = pack_documents([torch.randint(9, 30_000, (tokens,)) for _ in range(documents)])
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=arguments.bfloat16):
            logits = model(packed)
        F.cross_entropy(logits.float(), torch.arange(documents) % 2).backward()
        optimizer.step()

    step(2, 10)
    before = resident_megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.perf_counter()
    step(arguments.documents, arguments.tokens)
    seconds = time.perf_counter() - start
    total = arguments.documents * arguments.tokens
    print(
        f"{arguments.documents} documents of {arguments.tokens:,} tokens, {arguments.memory}, {arguments.backprop}, "
        f"{'bfloat16 autocast' if arguments.bfloat16 else 'float32'}: peak "
        f"{resident_megabytes('VmHWM') - before:.0f} MB beyond {before:.0f}, {total / seconds:,.0f} tokens/s"
    )


if __name__ == "__main__":
    main()
