"""One LSTM layer on a GPU beside nn.LSTM (cuDNN): `python -m benchmarks.cuda_layers --output RESULTS.json`.

Rounds of ours and of cuDNN one after the other, timed by CUDA events; dense and packed, three types, forward alone and
forward with backward. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.backends.cudnn.rnn import get_cudnn_mode
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from ulmfit_fast import WeightDropLSTM

# float32 is float32 on both sides: cuDNN's default, TF32, has ten bits of mantissa.
torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

SIZES = ((400, 1152), (1152, 1152), (1152, 400))
BATCHES = (1, 8, 16, 32, 64, 256)
STEPS, ROUNDS, CALLS = 70, 9, 3


def lengths_of(batch: int, packed: bool) -> list[int]:
    return [STEPS] * batch if not packed else torch.linspace(200, 50, batch).long().tolist()


def draw(input_size: int, batch: int, packed: bool, dtype: torch.dtype) -> PackedSequence | Tensor:
    if not packed:
        return torch.randn(STEPS, batch, input_size, device="cuda", dtype=dtype).requires_grad_()
    texts = [torch.randn(n, input_size, device="cuda", dtype=dtype) for n in lengths_of(batch, True)]
    sequence = pack_sequence(texts)
    return sequence._replace(data=sequence.data.requires_grad_())


def run(layer: nn.Module, x: PackedSequence | Tensor, training: bool) -> None:
    with torch.set_grad_enabled(training):
        output, _ = layer(x)
    if training:
        data = output.data if isinstance(output, PackedSequence) else output
        leaf = x.data if isinstance(x, PackedSequence) else x
        torch.autograd.grad(data.sum(), [leaf, *layer.parameters()])


def milliseconds(layer: nn.Module, x: PackedSequence | Tensor, training: bool) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(CALLS):
        run(layer, x, training)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / CALLS


def in_one_piece(layer: nn.LSTM) -> None:
    """bfloat16 weights as cuDNN wants them: of this type alone nn.LSTM leaves them apart, to be copied each call."""
    with torch.no_grad():
        torch._cudnn_rnn_flatten_weight(
            layer._flat_weights, 4, layer.input_size, get_cudnn_mode("LSTM"), layer.hidden_size, 0, 1, False, False
        )


def measure(
    input_size: int, hidden: int, batch: int, packed: bool, dtype: torch.dtype, training: bool
) -> dict[str, Any]:
    layers = {
        "ours": WeightDropLSTM(input_size, hidden),
        "ours, weight drop": WeightDropLSTM(input_size, hidden, weight_dropout=0.5),
        "nn.LSTM": nn.LSTM(input_size, hidden),
    }
    x = draw(input_size, batch, packed, dtype)
    times: dict[str, list[float]] = {name: [] for name in layers}
    for layer in layers.values():
        layer.to("cuda", dtype).train()
        if isinstance(layer, nn.LSTM) and dtype == torch.bfloat16:
            in_one_piece(layer)
        run(layer, x, training)
    for _ in range(ROUNDS):
        for name, layer in layers.items():
            times[name].append(milliseconds(layer, x, training))
    tokens = sum(lengths_of(batch, packed))
    flop = 2 * 4 * hidden * (input_size + hidden) * tokens * (3 if training else 1)
    return {
        "input": input_size, "hidden": hidden, "batch": batch, "packed": packed, "dtype": str(dtype)[6:],
        "training": training, "steps": max(lengths_of(batch, packed)), "tokens": tokens, "gflop": flop / 1e9,
        "ms": {name: statistics.median(values) for name, values in times.items()}, "all ms": times,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="one size, two batches")
    arguments = parser.parse_args()
    rows = []
    print("| layer | type | mode | B | ours ms | us a step | weight drop | nn.LSTM ms | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for input_size, hidden in SIZES[1:2] if arguments.quick else SIZES:
        for packed in (False, True):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                for training in (False, True):
                    for batch in (32,) if packed else (8, 64) if arguments.quick else BATCHES:
                        row = measure(input_size, hidden, batch, packed, dtype, training)
                        rows.append(row)
                        ms = row["ms"]
                        print(
                            f"| {input_size} -> {hidden}{', packed' if packed else ''} | {row['dtype']} | "
                            f"{'training' if training else 'inference'} | {batch} | {ms['ours']:.3f} | "
                            f"{1000 * ms['ours'] / row['steps']:.1f} | {ms['ours, weight drop']:.3f} | "
                            f"{ms['nn.LSTM']:.3f} | {ms['nn.LSTM'] / ms['ours']:.2f} |",
                            flush=True,
                        )
                        document = {
                            "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
                            "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
                            "tf32": torch.backends.cuda.matmul.allow_tf32, "rows": rows,
                        }  # fmt: skip
                        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
