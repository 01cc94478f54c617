"""One LSTM layer on a GPU beside nn.LSTM (cuDNN): `python -m benchmarks.cuda_layers --output RESULTS.json`.

Rounds of ours and of cuDNN one after the other, timed by CUDA events; dense and packed, three types, forward alone and
forward with backward. Float32 is float32 on both sides, and beside it stands what torch's default flags give nn.LSTM:
TF32. Of dense batches also the replay of a CUDA graph, which leaves out the CPU's part. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from benchmarks.cuda_timing import Work, captured, flags, in_turns, machine, medians
from ulmfit_fast import WeightDropLSTM

SIZES = ((400, 1152), (1152, 1152), (1152, 400))
BATCHES = (1, 8, 64, 256)
STEPS = 70
FUSED_STEP, PERSISTENT = "ULMFIT_FAST_CUDA_FUSED_STEP", "ULMFIT_FAST_CUDA_PERSISTENT"


def lengths_of(batch: int, packed: bool) -> list[int]:
    return [STEPS] * batch if not packed else torch.linspace(200, 50, batch).long().tolist()


def draw(input_size: int, batch: int, packed: bool, dtype: torch.dtype, device: str) -> PackedSequence | Tensor:
    if not packed:
        return torch.randn(STEPS, batch, input_size, device=device, dtype=dtype).requires_grad_()
    texts = [torch.randn(n, input_size, device=device, dtype=dtype) for n in lengths_of(batch, True)]
    sequence = pack_sequence(texts)
    return sequence._replace(data=sequence.data.requires_grad_())


def run(layer: nn.Module, x: PackedSequence | Tensor, training: bool) -> None:
    with torch.set_grad_enabled(training):
        output, _ = layer(x)
    if training:
        data = output.data if isinstance(output, PackedSequence) else output
        leaf = x.data if isinstance(x, PackedSequence) else x
        torch.autograd.grad(data.sum(), [leaf, *layer.parameters()])


def in_one_piece(layer: nn.LSTM) -> None:
    """bfloat16 weights as cuDNN wants them: of this type alone nn.LSTM leaves them apart, to be copied each call."""
    with torch.no_grad():
        torch._cudnn_rnn_flatten_weight(
            layer._flat_weights, 4, layer.input_size, get_cudnn_mode("LSTM"), layer.hidden_size, 0, 1, False, False
        )


def with_variables(work: Work, *names: str) -> Work:
    """With kernels that are off by default, where the device passes their check."""

    def with_them() -> None:
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, "1"))
        try:
            work()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    return with_them


def works_of(
    input_size: int, hidden: int, x: PackedSequence | Tensor, dtype: torch.dtype, training: bool, device: str
) -> dict[str, Work]:
    layers = {
        "ours": WeightDropLSTM(input_size, hidden),
        "ours, weight drop": WeightDropLSTM(input_size, hidden, weight_dropout=0.5),
        "nn.LSTM": nn.LSTM(input_size, hidden),
    }
    works: dict[str, Work] = {}
    for name, layer in layers.items():
        layer.to(device, dtype).train()
        if isinstance(layer, nn.LSTM) and dtype == torch.bfloat16 and device == "cuda":
            in_one_piece(layer)
        works[name] = lambda layer=layer: run(layer, x, training)  # type: ignore[misc]
    theirs = works["nn.LSTM"]

    def as_torch_leaves_it() -> None:
        with flags(strict=False):
            theirs()

    works["nn.LSTM, default flags"] = as_torch_leaves_it
    if dtype.itemsize == 2:
        works["ours, fused"] = with_variables(works["ours"], FUSED_STEP)
        works["ours, persistent"] = with_variables(works["ours"], FUSED_STEP, PERSISTENT)  # forward; backward is fused
    if isinstance(x, Tensor):
        for name in ("ours", "nn.LSTM"):
            works[f"{name}, graph"] = captured(works[name])
    return works


def measure(
    input_size: int, hidden: int, batch: int, packed: bool, dtype: torch.dtype, training: bool, device: str
) -> dict[str, Any]:
    x = draw(input_size, batch, packed, dtype, device)
    with flags(strict=True):
        times = in_turns(works_of(input_size, hidden, x, dtype, training, device))
    tokens = sum(lengths_of(batch, packed))
    flop = 2 * 4 * hidden * (input_size + hidden) * tokens * (3 if training else 1)
    return {
        "input": input_size, "hidden": hidden, "batch": batch, "packed": packed, "dtype": str(dtype)[6:],
        "training": training, "steps": max(lengths_of(batch, packed)), "tokens": tokens, "gflop": flop / 1e9,
        "ms": medians(times), "all ms": times,
    }  # fmt: skip


def printed(row: dict[str, Any]) -> str:
    ms = row["ms"]
    others = ("ours, fused", "ours, persistent", "ours, graph", "nn.LSTM, graph")
    fused_step, persistent, *graphs = (f"{ms[name]:.3f}" if name in ms else "" for name in others)
    return (
        f"| {row['input']} -> {row['hidden']}{', packed' if row['packed'] else ''} | {row['dtype']} | "
        f"{'training' if row['training'] else 'inference'} | {row['batch']} | {ms['ours']:.3f} | "
        f"{1000 * ms['ours'] / row['steps']:.1f} | {ms['ours, weight drop']:.3f} | {fused_step} | {persistent} | "
        f"{ms['nn.LSTM']:.3f} | "
        f"{ms['nn.LSTM, default flags']:.3f} | {ms['nn.LSTM'] / ms['ours']:.2f} | {graphs[0]} | {graphs[1]} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one size, two batches")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: tiny, whether it runs at all")
    arguments = parser.parse_args()
    tiny = arguments.device == "cpu"
    sizes = ((8, 12),) if tiny else SIZES[1:2] if arguments.quick else SIZES
    dtypes = (torch.float32,) if tiny else (torch.float32, torch.bfloat16, torch.float16)
    batches = (2,) if tiny else (8, 64) if arguments.quick else BATCHES
    rows: list[dict[str, Any]] = []
    print("| layer | type | mode | B | ours ms | us a step | weight drop | fused | persistent | nn.LSTM | "
          "default flags | ratio | ours, graph | nn.LSTM, graph |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for input_size, hidden in sizes:
        for packed in (False, True):
            for dtype in dtypes:
                for training in (False, True):
                    for batch in (32 if not tiny else 2,) if packed else batches:
                        rows.append(measure(input_size, hidden, batch, packed, dtype, training, arguments.device))
                        print(printed(rows[-1]), flush=True)
                        arguments.output.write_text(json.dumps(machine() | {"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
