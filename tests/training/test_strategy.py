"""ULMFiT's strategies on a residual network, a real MiniLM and our classifier: what moves, and at which rate.

SGD without momentum: a step is the rate times the gradient, so each parameter's movement tells its rate exactly. The
rates and the order of unfreezing are written down by hand, by the names of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.training.any_models import MiniLMClassifier, ResNet
from ulmfit_fast import (
    AWDLSTM,
    AWDLSTMConfig,
    InputError,
    Schedule,
    TextClassifier,
    ULMFiTStrategy,
    depth_blocks,
    depth_layers,
    plot_schedule,
)
from ulmfit_fast.text.batching import pack_documents
from ulmfit_fast.training.schedule_plot import rate_curves
from ulmfit_fast.training.unfreezing import block_numbers

# Six steps in three epochs. cut_fraction 0.1 of 6 steps is none, which counts as one: step 0 has 1/32 of the rate, step
# 1 the whole, and then five steps fall to 1/32 at step 6: p = 1, 4/5, 3/5, 2/5, 1/5.
SHARES = [1 / 32, 1.0, (1 + 31 * 4 / 5) / 32, (1 + 31 * 3 / 5) / 32, (1 + 31 * 2 / 5) / 32, (1 + 31 / 5) / 32]


def check_movements(
    model: nn.Module,
    strategy: ULMFiTStrategy,
    loss_of: Callable[[int], Tensor],
    expected: Callable[[str, int, int], float],
    epochs: int = 3,
    steps: int = 2,
) -> None:
    """Train, and compare every parameter's every movement with ``expected(name, epoch, step)`` times its gradient."""
    optimizer, scheduler, unfreezing = strategy.prepare(model, epochs * steps)
    step = 0
    for epoch in range(epochs):
        model.train()
        unfreezing.start_epoch(epoch)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(step).backward()
            before = {name: p.detach().clone() for name, p in model.named_parameters()}
            optimizer.step()
            for name, parameter in model.named_parameters():
                rate = expected(name, epoch, step)
                if rate == 0:
                    assert parameter.grad is None, (epoch, name)
                    assert torch.equal(parameter, before[name]), (epoch, name)
                else:
                    assert parameter.grad is not None, (epoch, name)
                    torch.testing.assert_close(
                        parameter.detach(), before[name] - rate * parameter.grad, rtol=2e-6, atol=0
                    )
            scheduler.step()
            step += 1


def table(blocks: Sequence[Sequence[str]], lr: float, factor: float) -> Callable[[str], tuple[int, float]]:
    """A parameter's block, counted from the last, and its highest rate; ``blocks`` are prefixes, last block first."""

    def find(name: str) -> tuple[int, float]:
        (found,) = [k for k, prefixes in enumerate(blocks) if name.startswith(tuple(prefixes))]
        return found, lr / factor**found

    return find


RESNET_BLOCKS = [["fc.", "layer2.1."], ["layer2.0.", "layer1.1."], ["layer1.0.", "bn1.", "conv1."]]


def resnet_loss(model: nn.Module) -> Callable[[int], Tensor]:
    images, labels = torch.randn(6, 6, 3, 8, 8), torch.randint(3, (6, 6))
    return lambda step: F.cross_entropy(model(images[step]), labels[step])


def test_layers_of_a_residual_network() -> None:
    model = ResNet()
    assert depth_layers(model) == [model.conv1, model.bn1, *model.layer1, *model.layer2, model.fc]


@pytest.mark.parametrize("freeze_batch_norm", [False, True])
def test_a_residual_network(freeze_batch_norm: bool) -> None:
    torch.manual_seed(0)
    model, find = ResNet().double(), table(RESNET_BLOCKS, 0.01, 2.6)
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    images, labels = torch.randn(6, 6, 3, 8, 8, dtype=torch.float64), torch.randint(3, (6, 6))
    statistics: list[dict[str, Tensor]] = []

    def loss_of(step: int) -> Tensor:
        loss = F.cross_entropy(model(images[step]), labels[step])
        statistics.append({name: buffer.clone() for name, buffer in model.named_buffers()})
        return loss

    def expected(name: str, epoch: int, step: int) -> float:
        block, rate = find(name)
        is_norm = name.rpartition(".")[0] in norms
        trains = block <= epoch or (is_norm and not freeze_batch_norm)
        return rate * SHARES[step] if trains else 0.0

    strategy = ULMFiTStrategy(
        learning_rate=0.01, optimizer_name="sgd", cut_fraction=0.1, ratio=32, dis_blocks=3, factor=2.6, frz_blocks=3,
        freeze_batch_norm=freeze_batch_norm,
    )  # fmt: skip
    first = {name: buffer.clone() for name, buffer in model.named_buffers()}
    check_movements(model, strategy, loss_of, expected)
    for name, buffer in statistics[3].items():  # the end of the second epoch
        block, _ = find(name)
        assert torch.equal(buffer, first[name]) == (freeze_batch_norm and block == 2), name


def test_parts_that_are_off() -> None:
    """0 blocks: one rate for all, and everything trains from the start; a cut_fraction of 0: the rate is constant."""
    torch.manual_seed(0)
    model = ResNet().double()
    images, labels = torch.randn(6, 6, 3, 8, 8, dtype=torch.float64), torch.randint(3, (6, 6))
    strategy = ULMFiTStrategy(0.01, "sgd", cut_fraction=0, dis_blocks=0, frz_blocks=0)
    check_movements(
        model, strategy, lambda step: F.cross_entropy(model(images[step]), labels[step]), lambda *_: 0.01
    )  # fmt: skip


def test_factor_of_fitlam() -> None:
    """Each block has 0.3 of the rate of the next."""
    optimizer, _, _ = ULMFiTStrategy(1.0, "sgd", cut_fraction=0, dis_blocks=3, factor=1 / 0.3).prepare(ResNet(), 1)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.09, 0.09, 0.09, 0.3, 0.3, 1, 1])


def test_a_real_minilm() -> None:
    torch.manual_seed(0)
    model = MiniLMClassifier()
    layers = [f"bert.encoder.layer.{i}." for i in range(6)]
    assert depth_layers(model) == [model.bert.embeddings, *model.bert.encoder.layer, model.classifier]
    # Eight layers in five blocks from the last: 8k // 5 = 0, 1, 3, 4, 6, 8.
    rates = table([["classifier."], layers[4:], [layers[3]], layers[1:3], [layers[0], "bert.embeddings."]], 0.001, 2.6)
    # In three blocks: 8k // 3 = 0, 2, 5, 8.
    frozen = table([["classifier.", layers[5]], layers[2:5], [*layers[:2], "bert.embeddings."]], 1, 1)
    ids, labels = torch.randint(1000, 3000, (6, 3, 7)), torch.randint(2, (6, 3))

    def expected(name: str, epoch: int, step: int) -> float:
        return rates(name)[1] * SHARES[step] if frozen(name)[0] <= epoch else 0.0

    model.double()
    strategy = ULMFiTStrategy(0.001, "sgd", dis_blocks=5, frz_blocks=3)
    check_movements(model, strategy, lambda step: F.cross_entropy(model(ids[step]), labels[step]), expected)


def test_our_classifier() -> None:
    torch.manual_seed(0)
    model = TextClassifier(AWDLSTM(AWDLSTMConfig(20, 4, 6, 3)), 2, bptt=3).double()
    layers = ["bpt3c.encoder.encoder.", *(f"bpt3c.encoder.rnns.{i}." for i in range(3)), "head."]
    # Five layers in three blocks from the last: 5k // 3 = 0, 1, 3, 5.
    find = table([[layers[4]], layers[2:4], layers[:2]], 0.1, 2.6)
    documents = [[torch.randint(9, 20, (length,)) for length in (7, 4, 2)] for _ in range(6)]
    labels = torch.randint(2, (6, 3))

    def expected(name: str, epoch: int, step: int) -> float:
        block, rate = find(name)
        return rate * SHARES[step] if block <= epoch else 0.0

    def loss_of(step: int) -> Tensor:
        return F.cross_entropy(model(pack_documents(documents[step])), labels[step])

    check_movements(model, ULMFiTStrategy(0.1, "sgd"), loss_of, expected)


def test_a_block_every_so_many_steps() -> None:
    torch.manual_seed(0)
    model, find = ResNet(), table(RESNET_BLOCKS, 1, 1)
    _, _, unfreezing = ULMFiTStrategy(unfreeze_every=4).prepare(model, 20)
    for step in range(20):
        model.train()
        unfreezing.start_step(step)  # type: ignore[attr-defined]
        for name, parameter in model.named_parameters():
            trains = find(name)[0] <= step // 4 or "bn" in name or "downsample.1" in name
            assert parameter.requires_grad == trains, (step, name)
    with pytest.raises(InputError, match=r"goes by steps: call start_step\(step\)"):
        unfreezing.start_epoch(0)


@pytest.mark.parametrize(
    ("layers", "blocks", "sizes"),
    [(6, 3, [2, 2, 2]), (5, 3, [1, 2, 2]), (4, 3, [1, 1, 2]), (7, 3, [2, 2, 3]), (2, 3, [1, 1]), (9, 1, [9])],
)
def test_block_sizes_from_the_last(layers: int, blocks: int, sizes: list[int]) -> None:
    numbers = block_numbers(layers, blocks)
    assert numbers == sorted(numbers, reverse=True)
    assert [numbers.count(k) for k in range(len(sizes))] == sizes
    assert len(numbers) == sum(sizes)
    modules = [nn.Linear(1, 1) for _ in range(layers)]
    joined = depth_blocks(modules, blocks)
    assert [len(list(block.parameters())) // 2 for block in reversed(joined)] == sizes
    assert [p for block in joined for p in block.parameters()] == [p for m in modules for p in m.parameters()]


def test_parameters_outside_all_children_are_a_layer() -> None:
    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(2))
            self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    model = Vision()
    layers = depth_layers(model)
    assert [list(layer.parameters()) for layer in layers] == [
        [model.token], list(model.blocks[0].parameters()), list(model.blocks[1].parameters())
    ]  # fmt: skip
    assert depth_layers(nn.Linear(2, 2))[0].weight.shape == (2, 2)
    with pytest.raises(InputError, match="ReLU has no parameters"):
        depth_layers(nn.ReLU())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer_name": "ftrl"}, "optimizer_name must be one of adam, .*got 'ftrl'"),
        ({"dis_blocks": -1}, "dis_blocks and frz_blocks must not be negative, got -1 and 3"),
        ({"learning_rate": 0.0}, "lr must be positive, got 0"),
        ({"factor": 0.3}, "factor must be at least 1, got 0.3"),
        ({"ratio": 0.5}, "ratio must be at least 1, got 0.5"),
        ({"cut_fraction": 2.0}, r"cut_frac must be in \[0, 1\], got 2"),
        ({"unfreezing": "slow"}, "name must be one of gradual, .*got 'slow'"),
        ({"unfreezing": "all", "unfreeze_every": 3}, "every=3 goes with 'gradual', not with 'all'"),
        ({"weight_decay": -1.0}, "weight_decay and l2_sp must not be negative, got -1.0 and 0.0"),
        ({"l2_sp": -1.0}, "weight_decay and l2_sp must not be negative, got 0.0 and -1.0"),
        ({"weight_decay_factor": 0.5}, "weight_decay_factor must be at least 1, got 0.5"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ULMFiTStrategy(**arguments)


def test_layers_must_cover_the_model() -> None:
    model = ResNet()
    with pytest.raises(InputError, match=r"prepare: layers lack conv1\.weight, bn1\.weight"):
        ULMFiTStrategy().prepare(model, 5, [model.layer1, model.layer2, model.fc])


@pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "adagrad", "rmsprop", "momentum", "sgd"])
def test_every_optimizer_trains(name: str) -> None:
    torch.manual_seed(0)
    model = ResNet()
    loss_of = resnet_loss(model)
    optimizer, _, unfreezing = ULMFiTStrategy(1e-3, name, frz_blocks=0, weight_decay=0.01).prepare(model, 6)
    unfreezing.start_epoch(0)
    before = [p.detach().clone() for p in model.parameters()]
    loss_of(0).backward()
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_l2_sp_by_hand() -> None:
    """Two steps of SGD at a rate of 0.1: the second one's gradient has 0.5 times the first one's movement added."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    strategy = ULMFiTStrategy(0.1, "sgd", cut_fraction=0, dis_blocks=0, frz_blocks=0, l2_sp=0.5)
    optimizer, _, _ = strategy.prepare(model, 2)
    starts = [p.detach().clone() for p in model.parameters()]
    x = torch.randn(3, 2, dtype=torch.float64)
    for step in range(2):
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        model(x).square().sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
        optimizer.step()
        pull = 0.5 * (before[0] - starts[0])
        assert (pull.abs().sum() > 0) == (step == 1)
        torch.testing.assert_close(model[0].weight.detach(), before[0] - 0.1 * (gradients[0] + pull))
        torch.testing.assert_close(model[1].weight.detach(), before[1] - 0.1 * gradients[1])


def test_curves_of_a_strategy() -> None:
    """Two epochs of four steps, three layers, two blocks: the last layer, and two that join in the second epoch."""
    strategy = ULMFiTStrategy(1.0, cut_fraction=0, dis_blocks=2, frz_blocks=2, factor=4)
    curves = rate_curves(strategy.prepare, 2, 4, 3)
    assert curves.rates == [[0] * 4 + [0.25] * 4, [0] * 4 + [0.25] * 4, [1] * 8]
    assert curves.momentum == []
    cycle = ULMFiTStrategy(1.0, schedule=Schedule("one-cycle"), frz_blocks=0)
    curves = rate_curves(cycle.prepare, 2, 4, 3)
    assert curves.momentum[:3] == pytest.approx([0.95, 0.9, 0.85])
    steps = rate_curves(ULMFiTStrategy(unfreeze_every=3).prepare, 2, 4, 3)
    assert [sum(rate > 0 for rate in own) for own in steps.rates] == [2, 5, 8]


def test_a_schedule_is_drawn() -> None:
    for strategy in (ULMFiTStrategy(), ULMFiTStrategy(schedule=Schedule("one-cycle"))):
        image = plot_schedule(strategy.prepare, 3, 10, ["embedding", "LSTM", "head"])
        assert image.startswith(b"\x89PNG")
    assert plot_schedule(ULMFiTStrategy().prepare, 1, 1, 2).startswith(b"\x89PNG")
    with pytest.raises(InputError, match="epochs must be at least 1, got 0"):
        plot_schedule(ULMFiTStrategy().prepare, 0, 10, 2)
