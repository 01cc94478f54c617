"""Every native op in plain PyTorch: its definition, and what the tests compare with. Slow and obvious on purpose.

Nothing falls back to this file: a missing kernel is an error, not a slow run.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW32 = np.uint64(0xFFFFFFFF)


def philox4x32_10(seed: int, counters: np.ndarray) -> np.ndarray:
    """Random bits of Philox4x32 with 10 rounds (Salmon et al., SC 2011).

    Args:
        seed: the 64-bit key.
        counters: uint64 [n]; the high 64 bits of the 128-bit counter are zero.

    Returns:
        uint32 [n, 4].
    """
    counters = counters.astype(np.uint64)
    c0, c1 = counters & _LOW32, counters >> np.uint64(32)
    c2, c3 = np.zeros_like(c0), np.zeros_like(c0)
    key0, key1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        product0, product1 = _MULTIPLIER[0] * c0, _MULTIPLIER[1] * c2
        c0, c1, c2, c3 = (
            (product1 >> np.uint64(32)) ^ c1 ^ np.uint64(key0),
            product1 & _LOW32,
            (product0 >> np.uint64(32)) ^ c3 ^ np.uint64(key1),
            product0 & _LOW32,
        )
        key0, key1 = (key0 + _WEYL[0]) & 0xFFFFFFFF, (key1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def dropconnect_mask(seed: Tensor, rows: int, columns: int, p: float) -> Tensor:
    """True where DropConnect keeps element (i, j): its 32 bits are at least p * 2**32. Bool [rows, columns]."""
    elements = rows * columns
    bits = philox4x32_10(int(seed) & (2**64 - 1), np.arange((elements + 3) // 4, dtype=np.uint64))
    keep = bits.reshape(-1)[:elements].astype(np.float64) >= p * 2.0**32
    return torch.from_numpy(keep.reshape(rows, columns))


def embedding(tokens: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """The tokens' rows of a weight whose rows are multiplied by the mask."""
    return (weight if mask is None else (weight * mask.unsqueeze(1)).to(weight.dtype))[tokens]


def locked_dropout(input: Tensor, mask: Tensor, batch_sizes: Tensor) -> Tensor:
    """Each packed row times the mask of its sequence."""
    return torch.cat([(rows * mask[: len(rows)]).to(input.dtype) for rows in input.split(batch_sizes.tolist())])


def lstm(
    input: Tensor,
    batch_sizes: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    weight_hr: Tensor | None = None,
    *,
    weight_dropout: float = 0.0,
    seed: Tensor | None = None,
    reverse: bool = False,
    bptt: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one LSTM layer over packed rows, step by step; see ``ops.lstm`` for the arguments."""
    if weight_dropout > 0:
        assert seed is not None
        mask = dropconnect_mask(seed, weight_hh.shape[0], weight_hh.shape[1], weight_dropout).to(weight_hh.device)
        weight_hh = torch.where(mask, weight_hh / (1 - weight_dropout), 0)
    sizes = batch_sizes.tolist()
    inputs = input.split(sizes)
    h, c = list(h0), list(c0)  # each sequence's current state
    outputs: list[Tensor] = [input.new_empty(0)] * len(sizes)
    for t in reversed(range(len(sizes))) if reverse else range(len(sizes)):
        rows = sizes[t]
        if bptt and t and t % bptt == 0:
            h[:rows], c[:rows] = [x.detach() for x in h[:rows]], [x.detach() for x in c[:rows]]
        gates = inputs[t] @ weight_ih.T + torch.stack(h[:rows]) @ weight_hh.T
        if bias_ih is not None and bias_hh is not None:
            gates = gates + bias_ih + bias_hh
        i, f, g, o = gates.chunk(4, dim=1)
        cell = f.sigmoid() * torch.stack(c[:rows]) + i.sigmoid() * g.tanh()
        output = o.sigmoid() * cell.tanh()
        if weight_hr is not None:
            output = output @ weight_hr.T
        outputs[t] = output
        h[:rows], c[:rows] = list(output), list(cell)
    return torch.cat(outputs), torch.stack(h), torch.stack(c)


def lstm_pool(
    input: Tensor,
    batch_sizes: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    total: Tensor,
    maximum: Tensor,
    argmax: Tensor,
    count: Tensor,
    pool_from: Tensor,
    *,
    weight_dropout: float = 0.0,
    seed: Tensor | None = None,
    bptt: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``lstm``, then running sum, maximum and its step over time; see ``ops.lstm_pool``.

    Returns:
        h_n, c_n, and the new total, maximum and argmax.
    """
    output, h_n, c_n = lstm(
        input, batch_sizes, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_dropout=weight_dropout, seed=seed,
        bptt=bptt,
    )  # fmt: skip
    return h_n, c_n, *pool_states(output, batch_sizes, total, maximum, argmax, count, pool_from)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Each row times the weight."""
    return (input.unsqueeze(1) * weight).sum(2) + (0 if bias is None else bias)


def forget_mult(
    gates: Tensor, batch_sizes: Tensor, c0: Tensor, *, output_gate: bool = True, bptt: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """The recurrence of a QRNN, step by step; see ``ops.forget_mult``. Returns output, h_n, c_n."""
    sizes = batch_sizes.tolist()
    c = list(c0)  # each sequence's current state
    h = list(torch.zeros_like(c0, dtype=gates.dtype))
    outputs = []
    for t, rows in enumerate(gates.split(sizes)):
        here = [x.detach() for x in c[: len(rows)]] if bptt and t and t % bptt == 0 else c[: len(rows)]
        z, f, *o = rows.chunk(3 if output_gate else 2, dim=1)
        cell = f.sigmoid() * z.tanh() + (1 - f.sigmoid()) * (torch.stack(here) if here else c0)
        output = (o[0].sigmoid() * cell if o else cell).to(gates.dtype)
        outputs.append(output)
        c[: len(rows)], h[: len(rows)] = list(cell), list(output)
    return torch.cat(outputs), torch.stack(h) if h else c0, torch.stack(c) if c else c0


def pool_states(
    output: Tensor, batch_sizes: Tensor, total: Tensor, maximum: Tensor, argmax: Tensor, count: Tensor,
    pool_from: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Running sum, maximum and its step over time of packed states; returns the new total, maximum and argmax."""
    sums, maxima, steps = list(total), list(maximum), list(argmax)
    for t, states in enumerate(output.to(maximum.dtype).split(batch_sizes.tolist())):
        for document, state in enumerate(states):
            step = int(count[document]) + t
            if step < int(pool_from[document]):
                continue
            sums[document] = sums[document] + state
            steps[document] = torch.where(state > maxima[document], step, steps[document]).to(argmax.dtype)
            maxima[document] = torch.where(state > maxima[document], state, maxima[document])
    return torch.stack(sums), torch.stack(maxima), torch.stack(steps)


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Minus the log-probability of each row's target under softmax(input weight^T + bias)."""
    logits = input @ weight.T + (0 if bias is None else bias)
    log_p = logits - logits.exp().sum(-1, keepdim=True).log()
    counts = target != ignore_index
    of_target = log_p.gather(-1, torch.where(counts, target, 0).unsqueeze(-1)).squeeze(-1)
    loss = -((1 - label_smoothing) * of_target + label_smoothing * log_p.mean(-1))
    loss = torch.where(counts, loss, 0)
    return {"none": loss, "sum": loss.sum(), "mean": loss.sum() / counts.sum()}[reduction]
