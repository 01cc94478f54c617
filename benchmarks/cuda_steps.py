"""What trains on a GPU, beside plain torch: `python -m benchmarks.cuda_steps --output RESULTS.json`.

The loss with its softmax, an LSTM layer whose states are pooled, and a whole step of the language model (three layers
of the paper's sizes, all dropouts). Time and peak memory, in float32 and bfloat16. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from benchmarks.cuda_timing import Work, flags, in_turns, machine, medians
from ulmfit_fast import AWDLSTM, AWDLSTMConfig, ops
from ulmfit_fast.nn.language_model import LanguageModel, language_model_loss


def losses(rows: int, features: int, words: int, dtype: torch.dtype, device: str) -> dict[str, Work]:
    x = torch.randn(rows, features, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(words, features, device=device, dtype=dtype) / features**0.5).requires_grad_()
    bias = torch.zeros(words, device=device, dtype=dtype).requires_grad_()
    target = torch.randint(0, words, (rows,), device=device)

    def work(function: Any) -> Work:
        return lambda: torch.autograd.grad(function(), (x, weight, bias))

    return {
        "ours": work(lambda: ops.linear_cross_entropy(x, weight, target, bias)),
        "torch": work(lambda: F.cross_entropy(F.linear(x, weight, bias).float(), target)),
    }


def pooled_layers(batch: int, features: int, hidden: int, dtype: torch.dtype, device: str) -> dict[str, Work]:
    lengths = torch.linspace(400, 50, batch).long()
    sizes = torch.tensor([int((lengths > t).sum()) for t in range(int(lengths[0]))])
    x = torch.randn(int(lengths.sum()), features, device=device, dtype=dtype).requires_grad_()
    theirs = nn.LSTM(features, hidden).to(device, dtype)
    weights = [getattr(theirs, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    h0, c0 = (torch.zeros(batch, hidden, device=device, dtype=dtype) for _ in range(2))
    there = lengths.to(device)

    def ours() -> list[Tensor]:
        state = ops.PooledState.empty(batch, hidden, torch.float32, torch.device(device))
        result = ops.lstm_pool(x, sizes, h0, c0, *weights, state)
        return [result.state.total.float(), result.state.maximum]

    def torchs() -> list[Tensor]:
        padded, _ = pad_packed_sequence(theirs(PackedSequence(x, sizes))[0])
        absent = torch.arange(len(padded), device=device)[:, None] >= there
        masked = padded.float().masked_fill(absent[:, :, None], -torch.inf).amax(0)
        return [padded.float().sum(0), masked]

    def work(function: Any) -> Work:
        return lambda: torch.autograd.grad(sum(r.sum() for r in function()), [x, *weights])  # type: ignore[arg-type]

    return {"ours": work(ours), "torch": work(torchs)}


class PlainLanguageModel(nn.Module):
    """The same sizes out of torch's parts, with dropout between layers and none of the recurrent weights."""

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__()
        sizes = config.layer_sizes()
        self.embedding = nn.Embedding(config.vocab_size, sizes[0])
        self.layers = nn.ModuleList(nn.LSTM(a, b) for a, b in itertools.pairwise(sizes))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x, _ = layer(F.dropout(x, 0.25))
        return F.cross_entropy(F.linear(x, self.embedding.weight, self.bias).flatten(0, 1).float(), targets.flatten())


def language_model_steps(
    config: AWDLSTMConfig, steps: int, batch: int, dtype: torch.dtype, device: str
) -> dict[str, Work]:
    tokens, targets = torch.randint(0, config.vocab_size, (2, steps, batch), device=device)
    model, plain = LanguageModel(AWDLSTM(config)).to(device).train(), PlainLanguageModel(config).to(device).train()

    def work(module: nn.Module, loss: Any) -> Work:
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, foreach=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                value = loss()
            value.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 0.25)
            optimizer.step()

        return step

    return {
        "ours": work(model, lambda: language_model_loss(model, model(tokens), targets, 2.0, 1.0)[1]),
        "torch": work(plain, lambda: plain.loss(tokens, targets)),
    }


def peak_megabytes(work: Work) -> float | None:
    """Of one call beyond what was there before it."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny, whether it runs at all")
    arguments = parser.parse_args()
    device, tiny = arguments.device, arguments.device == "cpu"
    config = AWDLSTMConfig(50, 8, 12) if tiny else AWDLSTMConfig(60_000)
    rows, batch, steps = (6, 2, 5) if tiny else (64 * 70, 64, 70)
    results: list[dict[str, Any]] = []
    print("| what | type | flags | ours ms | torch ms | ratio | ours MB | torch MB |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.float32,) if tiny else (torch.float32, torch.bfloat16):
        for strict in (True, False):
            for what, works in (
                ("loss", losses(rows, config.embedding_size, config.vocab_size, dtype, device)),
                ("pooled layer", pooled_layers(batch, config.embedding_size, config.hidden_size, dtype, device)),
                ("language model step", language_model_steps(config, steps, batch, dtype, device)),
            ):
                with flags(strict=strict):
                    times = in_turns(works, rounds=2 if tiny else 5)
                    memory = {name: peak_megabytes(work) for name, work in works.items()}
                ms = medians(times)
                results.append(
                    {"what": what, "dtype": str(dtype)[6:], "strict": strict, "ms": ms, "all ms": times, "MB": memory}
                )
                cells = [f"{memory[name]:.0f}" if memory[name] is not None else "" for name in ("ours", "torch")]
                print(
                    f"| {what} | {str(dtype)[6:]} | {'strict' if strict else 'default'} | {ms['ours']:.3f} | "
                    f"{ms['torch']:.3f} | {ms['torch'] / ms['ours']:.2f} | {cells[0]} | {cells[1]} |",
                    flush=True,
                )
                arguments.output.write_text(json.dumps(machine() | {"rows": results}, indent=1))


if __name__ == "__main__":
    main()
