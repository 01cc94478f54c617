"""Layer groups, discriminative rates and gradual unfreezing, on our models and on others."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ulmfit_fast import (
    AWDLSTM,
    AWDLSTMConfig,
    ChainThaw,
    GradualUnfreezing,
    LanguageModel,
    TextClassifier,
    discriminative_param_groups,
    layer_groups,
)

CONFIG = AWDLSTMConfig(20, 4, 6, 3)


def foreign_model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def test_groups_of_our_models() -> None:
    classifier = TextClassifier(AWDLSTM(CONFIG), 2)
    encoder = classifier.bpt3c.encoder
    assert layer_groups(classifier) == [encoder.encoder, *encoder.rnns, classifier.head]
    model = LanguageModel(AWDLSTM(CONFIG))
    groups = layer_groups(model)
    assert groups[:3] == list(model.encoder.rnns)
    assert {id(p) for p in groups[3].parameters()} == {id(model.decoder_weight), id(model.decoder_bias)}


def test_groups_of_another_model() -> None:
    model = foreign_model()
    assert layer_groups(model) == [model[0], model[1], model[3]]
    assert layer_groups(nn.Linear(2, 2))[0].weight.shape == (2, 2)


def test_a_parameter_outside_the_groups_is_an_error() -> None:
    model = foreign_model()
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="parameters outside its groups: scale"):
        layer_groups(model)


def test_rates_fall_by_the_factor() -> None:
    model = TextClassifier(AWDLSTM(CONFIG), 2)
    groups = discriminative_param_groups(layer_groups(model), 0.01, weight_decay=0.1)
    assert [g["lr"] for g in groups] == pytest.approx([0.01 / 2.6**k for k in (4, 3, 2, 1, 0)])
    assert all(g["weight_decay"] == 0.1 for g in groups)
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.parameters()}


def test_a_shared_parameter_belongs_to_the_later_group() -> None:
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    last.weight = first.weight
    groups = discriminative_param_groups([first, last], 1.0)
    assert [len(g["params"]) for g in groups] == [1, 2]


def test_gradual_unfreezing_and_batch_norm() -> None:
    model = foreign_model()
    unfreezing = GradualUnfreezing(layer_groups(model))

    def trainable() -> list[bool]:
        return [all(p.requires_grad for p in model[i].parameters()) for i in (0, 1, 3)]

    assert unfreezing.start_epoch(0) == 1
    assert trainable() == [False, True, True]  # BatchNorm stays trainable
    assert unfreezing.start_epoch(2) == 3
    assert trainable() == [True, True, True]
    assert unfreezing.start_epoch(9) == 3
    assert unfreezing.start_epoch(0) == 1
    assert trainable() == [False, True, True]


def test_chain_thaw() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    unfreezing = ChainThaw(layer_groups(model))
    seen = []
    for epoch in range(6):
        count = unfreezing.start_epoch(epoch)
        seen.append([i for i in range(3) if model[i].weight.requires_grad and model[i].bias.requires_grad])
        assert count == len(seen[-1])
    assert seen == [[2], [0], [1], [0, 1, 2], [0, 1, 2], [0, 1, 2]]


def test_a_parameter_shared_with_a_frozen_group_trains() -> None:
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    last.weight = first.weight
    ChainThaw([first, last]).start_epoch(1)
    assert (first.weight.requires_grad, first.bias.requires_grad, last.bias.requires_grad) == (True, True, False)


def test_frozen_groups_are_left_alone_by_the_optimizer() -> None:
    model = foreign_model()
    groups = layer_groups(model)
    optimizer = torch.optim.AdamW(discriminative_param_groups(groups, 0.1), weight_decay=0.5)
    GradualUnfreezing(groups).start_epoch(0)
    before = [p.detach().clone() for p in model[0].parameters()]
    model(torch.randn(6, 3)).sum().backward()
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(model[0].parameters(), before, strict=True))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discriminative_param_groups([], 0.1), "groups is empty"),
        (lambda: discriminative_param_groups([nn.Linear(1, 1)], 0), "lr must be positive, got 0"),
        (lambda: discriminative_param_groups([nn.Linear(1, 1)], 1, 0.5), "factor must be at least 1, got 0.5"),
        (lambda: GradualUnfreezing([]), "groups is empty"),
        (lambda: ChainThaw([]), "groups is empty"),
        (lambda: GradualUnfreezing([nn.Linear(1, 1)], 0), "groups_per_epoch must be at least 1, got 0"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
