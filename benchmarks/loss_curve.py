"""Training losses of ours and of plain PyTorch, step by step, on the same tokens with the same masks.

`python -m benchmarks.loss_curve TEXT [--steps 300] [--small]` prints the largest differences and writes the curves.
At full size it takes two hours of two cores; stopped, it goes on where its checkpoint beside the curves left it.
`--models` runs some of the three; the others' curves stay in the file and are compared, too.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulmfit_fast import _C, AWDLSTM, AWDLSTMConfig, LanguageModel, SlantedTriangularLR, ops
from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.nn.language_model import language_model_loss
from ulmfit_fast.nn.stacked import scaled_mask
from ulmfit_fast.text.batching import LanguageModelStream

ALPHA, BETA = 2.0, 1.0
NAMES = ("plain", "ours", "ours, bfloat16")
State = list[tuple[Tensor, Tensor]]


class PlainLanguageModel(nn.Module):
    """nn.LSTM layers, F.linear and F.cross_entropy, with the dropout masks that ours would draw.

    Args:
        model: whose weights to copy, and whose encoder draws the masks.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.masks_of = [model.encoder]  # in a list: its parameters are not this module's
        self.embedding = nn.Parameter(model.decoder_weight.detach().clone())
        self.bias = nn.Parameter(model.decoder_bias.detach().clone())
        self.layers = nn.ModuleList(nn.LSTM(rnn.input_size, rnn.hidden_size) for rnn in model.encoder.rnns)
        self.layers.load_state_dict(copy.deepcopy(model.encoder.rnns.state_dict()))
        self.to(self.embedding.dtype)

    def forward(self, tokens: Tensor, targets: Tensor, state: State | None) -> tuple[Tensor, Tensor, State]:
        """(cross-entropy, loss to train on, state); tokens and targets [T, B]."""
        encoder, batch = self.masks_of[0], tokens.shape[1]
        masks = encoder.draw_masks(batch)
        assert masks is not None
        embedding = self.embedding if masks.embedding is None else self.embedding * masks.embedding.unsqueeze(1)
        x, new_state = F.embedding(tokens, embedding), []
        for i, (layer, mask, seed) in enumerate(zip(self.layers, masks.locked, masks.seeds, strict=True)):
            x = x if mask is None else x * mask
            weight = layer.weight_hh_l0
            if masks.weight_p:
                keep = ops.dropconnect_mask(seed, *weight.shape, masks.weight_p)
                weight = weight * keep / (1 - masks.weight_p)
            given = None if state is None else tuple(s.unsqueeze(0) for s in state[i])
            x, (h, c) = torch.func.functional_call(layer, {"weight_hh_l0": weight}, (x, given))
            new_state.append((h[0].detach(), c[0].detach()))
        mask = scaled_mask((batch, x.shape[2]), encoder.config.output_p, x)
        dropped = x if mask is None else x * mask
        cross_entropy = F.cross_entropy(F.linear(dropped, self.embedding, self.bias).flatten(0, 1), targets.flatten())
        regularised = ALPHA * dropped.square().mean() + BETA * (x[1:] - x[:-1]).square().mean()
        return cross_entropy, cross_entropy + regularised, new_state


def described(config: AWDLSTMConfig, stream: LanguageModelStream, steps: int, lr: float) -> dict[str, Any]:
    """What curves must have in common to be compared."""
    batch = [stream.batch_size, stream.bptt]
    return {"steps": steps, "lr": lr, "sizes": repr(config), "text": stream.corpus.checksum, "batch": batch}


def losses(
    config: AWDLSTMConfig,
    stream: LanguageModelStream,
    steps: int,
    names: tuple[str, ...],
    dtype: torch.dtype,
    lr: float,
    checkpoint: Path | None = None,
) -> Iterator[dict[str, float]]:
    """Each step's cross-entropy by name: "plain", "ours", "ours, bfloat16"; the rate rises to ``lr`` and falls.

    With ``checkpoint``, a file that holds everything each 20 steps, the steps go on after the last that it knows.
    """
    torch.manual_seed(0)
    first = LanguageModel(AWDLSTM(config)).to(dtype).train()
    models: dict[str, nn.Module] = {
        name: PlainLanguageModel(first) if name == "plain" else copy.deepcopy(first) for name in names
    }
    optimizers = {
        name: torch.optim.AdamW(m.parameters(), lr=lr, betas=(0.7, 0.99), weight_decay=0.01)
        for name, m in models.items()
    }
    schedules = {name: SlantedTriangularLR(optimizer, steps) for name, optimizer in optimizers.items()}
    states: dict[str, State | None] = dict.fromkeys(names)
    parts: dict[str, Any] = {"models": models, "optimizers": optimizers, "schedules": schedules}
    run = described(config, stream, steps, lr) | {
        "models": list(names), "dtype": str(dtype), "torch": str(torch.__version__), "isa": ops.build_info()["isa"],
        "module": zlib.crc32(Path(_C.__file__).read_bytes()),
    }  # fmt: skip
    done: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["run"] != run:
            raise ValueError(f"{checkpoint} is of another run, {saved['run']}, not {run}: delete it to start anew")
        done, states = saved["losses"], saved["states"]
        for kind, holders in parts.items():
            for name in names:
                holders[name].load_state_dict(saved[kind][name])
        del saved
        yield from done
    for step, (tokens, targets) in enumerate(itertools.islice(stream.epoch(), steps)):
        if step < len(done):
            continue
        result = {}
        for name, model in models.items():
            torch.manual_seed(step)  # the same masks for all
            optimizers[name].zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled="bfloat16" in name):
                if isinstance(model, PlainLanguageModel):
                    cross_entropy, loss, states[name] = model(tokens, targets, states[name])
                else:
                    output = model(tokens, states[name])
                    cross_entropy, loss = language_model_loss(model, output, targets, ALPHA, BETA)  # type: ignore[arg-type]
                    states[name] = [(h.detach(), c.detach()) for h, c in output.state]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.4)
            optimizers[name].step()
            schedules[name].step()
            result[name] = float(cross_entropy.detach())
        done.append(result)
        if checkpoint is not None and len(done) % 20 == 0:
            whole = {kind: {name: holders[name].state_dict() for name in names} for kind, holders in parts.items()}
            partial = checkpoint.with_suffix(".partial")
            torch.save(whole | {"run": run, "losses": done, "states": states}, partial)
            partial.replace(checkpoint)
        yield result
    if len(done) < steps:
        raise ValueError(f"the text has {len(done)} batches, {steps} steps were asked for")


def main() -> None:
    from ulmfit_fast.text.files import iterate_texts
    from ulmfit_fast.text.reading import ReadOptions
    from ulmfit_fast.text.tokenizer import Tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    # Constant at 3e-3 the full-size model's loss jumps to 11 in step 15, in plain PyTorch too: rounding is magnified.
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--small", action="store_true", help="128/256/2 instead of 400/1152/3")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--output", type=Path, default=Path("build/bench/loss_curve.json"))
    arguments = parser.parse_args()
    texts = list(iterate_texts(arguments.text, ReadOptions(split="file")))
    tokenizer = Tokenizer.train_whitespace(texts, 30_000)
    stream = LanguageModelStream(list(tokenizer.encode(texts)), 64, 72)
    sizes = (128, 256, 2) if arguments.small else (400, 1152, 3)
    names = tuple(arguments.models)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    config = AWDLSTMConfig(len(tokenizer), *sizes)
    run = described(config, stream, arguments.steps, arguments.lr)
    before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    if before and before.get("run") != run:
        parser.error(f"{arguments.output} has curves of another run, {before.get('run')}; choose another --output")
    curves: dict[str, list[float]] = before.get("curves", {})
    curves |= {name: [] for name in names}
    checkpoint = arguments.output.with_suffix(".checkpoint")
    for result in losses(config, stream, arguments.steps, names, torch.float32, arguments.lr, checkpoint):
        for name, loss in result.items():
            curves[name].append(loss)
        write_atomically(arguments.output, json.dumps({"run": run, "curves": curves}))
    checkpoint.unlink(missing_ok=True)
    plain = torch.tensor(curves.get("plain", []))
    for name in NAMES[1:]:
        if len(curves.get(name, [])) != len(plain) or len(plain) == 0:
            print(f"{name}: not compared, {len(curves.get(name, []))} steps beside {len(plain)} of plain PyTorch")
            continue
        difference = (torch.tensor(curves[name]) / plain - 1).abs()
        print(
            f"{name}: largest relative difference of the loss from plain PyTorch over {len(plain)} steps "
            f"{float(difference.max()):.1e} (step {int(difference.argmax())}), mean {float(difference.mean()):.1e}, "
            f"above 1 % in {int((difference > 0.01).sum())} steps; last losses "
            f"{curves[name][-1]:.4f} and {curves['plain'][-1]:.4f}"
        )


if __name__ == "__main__":
    main()
