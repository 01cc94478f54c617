"""Schedules, blocks, unfreezing, L2-SP and augmentation as options of the stages: what trains, and that runs go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from tests.training.test_resume import EVERY_STEP, assert_same, train_killed
from ulmfit_fast import (
    L2SP,
    InputError,
    Schedule,
    TrainedClassifier,
    TrainingInterrupted,
    ULMFiTClassifier,
    finetune_classifier,
    finetune_lm,
    one_cycle_momentum,
    plot_schedule,
    pretrain_lm,
)
from ulmfit_fast.storage.run_file import load_state, save_state
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig
from ulmfit_fast.training.optim import NTASGD
from ulmfit_fast.training.schedule_plot import rate_curves
from ulmfit_fast.training.trainer import Trainer
from ulmfit_fast.training.tuning import param_groups_of, prepare_config

TEXTS, LABELS = make_task(60)
VALID_TEXTS, VALID_LABELS = make_task(20, seed=5)
TUNE = replace(FINETUNE, batch_size=2, epochs=2)


@pytest.fixture(scope="module")
def base() -> Any:
    return pretrain_lm(TEXTS, PRETRAIN)


def matrices(group: nn.Module) -> list[nn.Parameter]:
    return [p for p in group.parameters() if p.dim() > 1]


class Watch(Callback):
    """Which layer groups train, and what their matrices are (BatchNorm trains always), after each step."""

    def __init__(self) -> None:
        self.trains: list[list[bool]] = []
        self.weights: list[list[torch.Tensor]] = []
        self.epochs: list[int] = []

    def on_step(self, trainer: Trainer, done: Any) -> None:
        groups = trainer.model.layer_groups()  # type: ignore[operator]
        self.trains.append([all(p.requires_grad for p in matrices(group)) for group in groups])
        self.weights.append([torch.cat([p.detach().flatten() for p in matrices(group)]) for group in groups])
        self.epochs.append(trainer.epoch)

    def moved(self) -> list[list[bool]]:
        """By step, from the second on: which groups moved."""
        return [[not torch.equal(a, b) for a, b in zip(old, new, strict=True)] for old, new in pairwise(self.weights)]


def tune(base: Any, watch: Watch, **options: Any) -> Any:
    return finetune_lm(TEXTS, base, replace(TUNE, **options), callbacks=[watch])


def classify(base: Any, watch: Watch, **options: Any) -> Any:
    given = {"epochs": 4, "unfreezing": "gradual"} | options
    return finetune_classifier(TEXTS, LABELS, base, replace(CLASSIFY, **given), callbacks=[watch])


# Groups of the classifier: embedding, two LSTM layers, head; of the language model: two LSTM layers, embedding.
BY_EPOCH = [
    (classify, {"unfreezing": "gradual"}, ["---x", "--xx", "-xxx", "xxxx"]),
    (classify, {"unfreezing": "fastai"}, ["---x", "--xx", "-xxx", "xxxx"]),
    (classify, {"unfreezing": "chain-thaw"}, ["---x", "x---", "-x--", "--x-"]),
    (classify, {"unfreezing": "last"}, ["---x", "---x"]),
    (classify, {"unfreezing": "all"}, ["xxxx", "xxxx"]),
    (classify, {"frz_blocks": 2}, ["--xx", "xxxx"]),
    (classify, {"frz_blocks": 3}, ["---x", "--xx", "xxxx"]),
    (classify, {"frz_blocks": 0}, ["xxxx", "xxxx"]),
    (tune, {"epochs": 3, "unfreezing": "gradual"}, ["--x", "-xx", "xxx"]),
    (tune, {"epochs": 3, "unfreezing": "chain-thaw"}, ["--x", "x--", "-x-"]),
    (tune, {"epochs": 3, "unfreezing": "gradual", "frz_blocks": 2}, ["--x", "xxx"]),
    (tune, {"epochs": 2, "unfreezing": "all"}, ["xxx", "xxx"]),
]


@pytest.mark.parametrize(("train", "options", "expected"), BY_EPOCH, ids=lambda x: getattr(x, "__name__", None))
def test_what_trains_in_an_epoch(
    base: Any, train: Callable[..., Any], options: dict[str, Any], expected: list[str]
) -> None:
    watch = Watch()
    trained = train(base, watch, **options)
    for epoch, trains in zip(watch.epochs, watch.trains, strict=True):
        assert trains == [mark == "x" for mark in expected[min(epoch, len(expected) - 1)]], epoch
    for epoch, trains, moved in zip(watch.epochs[1:], watch.trains[1:], watch.moved(), strict=True):
        assert all(t or not m for t, m in zip(trains, moved, strict=True)), epoch
        assert any(moved)
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    if train is classify or options.get("unfreezing") != "all":
        counts = [record["trainable_groups"] for record in trained.history.records]
        blocks = options.get("frz_blocks", 0)
        if not blocks:
            assert counts == [expected[min(e, len(expected) - 1)].count("x") for e in range(len(counts))]
        else:
            assert counts == [min(e + 1, blocks) for e in range(len(counts))]
    else:
        assert "trainable_groups" not in trained.history.records[0]  # as it was


@pytest.mark.parametrize("train", [classify, tune])
def test_a_group_every_so_many_steps(base: Any, train: Callable[..., Any]) -> None:
    watch = Watch()
    trained = train(base, watch, unfreezing="gradual", unfreeze_every=3)
    assert len(watch.trains) > 9
    for step, trains in enumerate(watch.trains):
        assert sum(trains) == min(len(trains), 1 + step // 3), step
        assert trains == sorted(trains)
    steps = [watch.epochs.count(epoch) for epoch in range(len(trained.history.records))]
    last = [sum(steps[: epoch + 1]) - 1 for epoch in range(len(steps))]
    counts = [record["trainable_groups"] for record in trained.history.records]
    assert counts == [sum(watch.trains[step]) for step in last]


def test_rates_of_a_configuration() -> None:
    layers = [nn.Linear(1, 1) for _ in range(4)]

    def rates(**options: Any) -> list[float]:
        return [group["lr"] for group in param_groups_of(ClassifierConfig(lr=0.1, **options), layers)]

    assert rates() == pytest.approx([0.1 / 2.6**3, 0.1 / 2.6**2, 0.1 / 2.6, 0.1])
    assert rates(discriminative_factor=10) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert rates(lr_lowest=0.0001) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert rates(dis_blocks=2, discriminative_factor=10) == pytest.approx([1e-2, 1e-2, 1e-1, 1e-1])
    assert rates(dis_blocks=2, lr_lowest=0.05) == pytest.approx([0.05, 0.05, 0.1, 0.1])
    assert rates(dis_blocks=1, lr_lowest=0.05) == pytest.approx([0.1] * 4)
    assert rates(dis_blocks=0) == [0.1] * 4
    assert [group["lr"] for group in param_groups_of(PRETRAIN, layers)] == [PRETRAIN.lr] * 4
    decays = param_groups_of(FinetuneLMConfig(weight_decay=0.08, weight_decay_factor=2.0), layers)
    assert [group["weight_decay"] for group in decays] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert "weight_decay" not in param_groups_of(FinetuneLMConfig(), layers)[0]


@pytest.mark.parametrize("name", ["linear", "cosine", "reverse-annealing", "inverse-sqrt", "constant", "one-cycle"])
@pytest.mark.parametrize("train", ["pretrain", "tune", "classify"])
def test_the_schedule_moves_the_rate(base: Any, train: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step, and the momentum with it; the schedules' own values have their tests."""
    seen: list[tuple[float, float]] = []
    real = Trainer.new_loop

    def new_loop(trainer: Trainer) -> Any:
        loop = real(trainer)
        total.append(trainer.config.epochs * trainer.expected_batches)

        def watch(optimizer: Any, *_: Any) -> None:
            group = optimizer.param_groups[-1]
            seen.append((loop.scheduler.get_last_lr()[-1], group["betas"][0]))

        loop.optimizer.register_step_pre_hook(watch)
        return loop

    total: list[int] = []
    monkeypatch.setattr(Trainer, "new_loop", new_loop)
    options: dict[str, Any] = {"schedule": name, "epochs": 2, "lr": 0.01}
    if train == "pretrain":
        pretrain_lm(TEXTS, replace(PRETRAIN, **options))
    elif train == "tune":
        finetune_lm(TEXTS, base, replace(FINETUNE, **options))
    else:
        finetune_classifier(TEXTS, LABELS, base, replace(CLASSIFY, **options))
    rates = [rate for rate, _ in seen]
    assert len(seen) > 4
    assert rates == pytest.approx([0.01 * Schedule(name).rate(step, total[0]) for step in range(len(rates))])
    expected = (
        [one_cycle_momentum(s, total[0]) for s in range(len(rates))] if name == "one-cycle" else [0.7] * len(rates)
    )
    assert [m for _, m in seen] == pytest.approx(expected)


def test_l2_sp_is_the_gradient_of_its_penalty() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    pull = L2SP(model[0].parameters(), 0.3)
    starts = [p.detach().clone() for p in model[0].parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    x = torch.randn(5, 3)
    model(x).square().sum().backward()
    pull.add_gradients()
    mine = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    penalty = sum((p - start).square().sum() for p, start in zip(model[0].parameters(), starts, strict=True))
    (model(x).square().sum() + 0.3 / 2 * penalty).backward()
    for a, p in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad)
    model[0].weight.grad = None  # frozen
    pull.add_gradients()
    assert model[0].weight.grad is None
    with pytest.raises(InputError, match="L2SP: strength must be above 0, got 0"):
        L2SP(model.parameters(), 0.0)


@pytest.mark.parametrize("train", ["tune", "classify"])
def test_l2_sp_holds_the_pretrained_layers(base: Any, train: str) -> None:
    start = {name: p.detach().clone() for name, p in base.model.encoder.named_parameters()}

    def distance(strength: float) -> tuple[float, Any]:
        if train == "tune":
            config = replace(FINETUNE, new_vocabulary=False, epochs=2, l2_sp=strength)
            model = finetune_lm(TEXTS, base, config).model
            encoder: Any = model.encoder
        else:
            model = finetune_classifier(TEXTS, LABELS, base, replace(CLASSIFY, epochs=2, l2_sp=strength)).model
            encoder = model.bpt3c.encoder
        return sum(float((p.detach() - start[name]).square().sum()) for name, p in encoder.named_parameters()), model

    free, _ = distance(0.0)
    held, _ = distance(1.0)
    assert held < 0.5 * free


def test_l2_sp_and_replacement_need_a_model(base: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"l2_sp=0\.1 pulls towards a pretrained model's weights, and there is none"):
        finetune_classifier(TEXTS, LABELS, None, replace(CLASSIFY, l2_sp=0.1))
    with pytest.raises(InputError, match="replace_by='embedding' needs a language model or a classifier"):
        finetune_classifier(TEXTS, LABELS, None, replace(CLASSIFY, word_replace=0.1))
    config = replace(CLASSIFY, epochs=1, word_replace=0.1, replace_by="language-model")
    classifier = finetune_classifier(TEXTS, LABELS, base, config)
    assert isinstance(classifier, TrainedClassifier)
    with pytest.raises(InputError, match="replace_by='language-model' needs a language model; give language_model"):
        finetune_classifier(TEXTS, LABELS, classifier, config)
    finetune_classifier(TEXTS, LABELS, classifier, replace(config, replace_by="embedding"))


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_of_a_frozen_head(base: Any, frozen: bool) -> None:
    """Chain-thaw freezes the head in its second epoch."""
    norms: list[tuple[int, list[torch.Tensor]]] = []

    class Norms(Callback):
        def on_step(self, trainer: Any, done: Any) -> None:
            norm = trainer.model.head[0]
            norms.append((trainer.epoch, [x.detach().clone() for x in (norm.running_mean, norm.weight)]))

    config = replace(CLASSIFY, epochs=3, unfreezing="chain-thaw", freeze_batch_norm=frozen)
    trained = finetune_classifier(TEXTS, LABELS, base, config, callbacks=[Norms()])
    for (_, old), (epoch, new) in pairwise(norms):
        for before, after in zip(old, new, strict=True):
            assert torch.equal(before, after) == (frozen and epoch > 0)
    assert trained.model.head[0].weight.requires_grad


def test_augmented_training(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch reads other texts, the labels stay, and it still learns; without options nothing changes."""
    read: list[torch.Tensor] = []
    from ulmfit_fast.training.classifier import ClassifierTrainer

    real = ClassifierTrainer.compute_loss

    def compute_loss(self: Any, batch: Any) -> Any:
        read.append(batch.documents.data.clone())
        return real(self, batch)

    monkeypatch.setattr(ClassifierTrainer, "compute_loss", compute_loss)
    config = replace(CLASSIFY, word_dropout=0.1, word_swap=0.1, word_replace=0.1, word_noise=0.05)
    trained = finetune_classifier(
        TEXTS, LABELS, base, config, valid_texts=VALID_TEXTS, valid_labels=VALID_LABELS
    )  # fmt: skip
    tokens = sum(map(len, trained.tokenizer.encode(TEXTS)))
    batches = len(read) // 8
    lengths = [sum(len(x) for x in read[k * batches : (k + 1) * batches]) for k in range(8)]
    assert len(set(lengths)) > 4
    assert all(0.8 * tokens < length < tokens for length in lengths)
    assert max(record["accuracy"] for record in trained.history.records) > 0.8
    read.clear()
    finetune_classifier(TEXTS, LABELS, base, replace(CLASSIFY, epochs=1))
    assert sum(map(len, read)) == tokens


def tune_all(base: Any, output: Path | None, resume: bool) -> Any:
    config = replace(
        FINETUNE, epochs=3, unfreezing="gradual", frz_blocks=2, schedule="one-cycle", l2_sp=0.01, dis_blocks=2,
        weight_decay_factor=2.0, checkpoint_minutes=EVERY_STEP,
    )  # fmt: skip
    return finetune_lm(TEXTS, base, config, valid_texts=VALID_TEXTS, output=output, resume=resume)


def classify_all(base: Any, output: Path | None, resume: bool) -> Any:
    config = replace(
        CLASSIFY, epochs=3, unfreezing="gradual", unfreeze_every=3, schedule="one-cycle-torch", lr_lowest=0.001,
        l2_sp=0.01, freeze_batch_norm=True, word_dropout=0.1, word_swap=0.1, word_replace=0.1, word_noise=0.1,
        replace_by="language-model", drop_mult=0.5, checkpoint_minutes=EVERY_STEP,
    )  # fmt: skip
    return finetune_classifier(
        TEXTS, LABELS, base, config, valid_texts=VALID_TEXTS, valid_labels=VALID_LABELS, output=output, resume=resume
    )


@pytest.mark.parametrize("train", [tune_all, classify_all], ids=lambda f: f.__name__)
def test_killed_and_gone_on(
    base: Any, train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(base, tmp_path / "whole", False)
    assert_same(train_killed(partial(train, base), tmp_path / "killed", monkeypatch), whole)


def test_a_checkpoint_from_before_these_options_goes_on(base: Any, tmp_path: Path) -> None:
    """One that knows nothing of them, and a scheduler's state as torch's own ``LambdaLR`` has it."""
    config = replace(CLASSIFY, epochs=3, unfreezing="gradual", checkpoint_minutes=EVERY_STEP)

    class Interrupt(Callback):
        def on_step(self, trainer: Any, done: Any) -> None:
            if trainer.epoch == 1 and done.batches == 2:
                raise KeyboardInterrupt

    def train(output: Path | None, resume: bool, callbacks: Any = ()) -> Any:
        return finetune_classifier(TEXTS, LABELS, base, config, output=output, resume=resume, callbacks=callbacks)

    with pytest.raises(TrainingInterrupted):
        train(tmp_path, False, [Interrupt()])
    state = load_state(tmp_path)
    assert state is not None
    new = (
        "schedule", "end_frac", "lr_lowest", "dis_blocks", "frz_blocks", "unfreeze_every", "weight_decay_factor",
        "l2_sp", "freeze_batch_norm", "word_dropout", "word_swap", "word_replace", "word_noise", "replace_by",
    )  # fmt: skip
    for name in new:
        del state["arguments"][name]
    plain = LambdaLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), lambda _: 1.0).state_dict()
    assert set(state["scheduler"]) == set(plain)
    save_state(tmp_path, state)
    assert_same(train(tmp_path, True), train(None, False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "triangle"}, "schedule must be one of slanted-triangular, "),
        ({"end_frac": 2.0}, "end_frac must be at most 1, got 2"),
        ({"lr_lowest": 1.0}, r"lr_lowest must be at most lr \(0\.03\), got 1"),
        ({"dis_blocks": -2}, "dis_blocks must be at least -1, got -2"),
        ({"frz_blocks": -2}, "frz_blocks must be at least -1, got -2"),
        ({"unfreezing": "all", "unfreeze_every": 2}, "unfreeze_every=2 goes with unfreezing='gradual'"),
        ({"unfreezing": "gradual", "frz_blocks": 0, "unfreeze_every": 2}, "frz_blocks other than 0"),
        ({"weight_decay_factor": 0.9}, "weight_decay_factor must be at least 1, got 0.9"),
        ({"word_swap": 1.1}, "word_swap must be at most 1, got 1.1"),
        ({"replace_by": "luck"}, "replace_by must be one of embedding, language-model, got 'luck'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"ClassifierConfig: .*{message}"):
        replace(CLASSIFY, **options)


def test_ntasgd_has_no_schedule() -> None:
    with pytest.raises(InputError, match="ntasgd keeps its rate constant; leave schedule out"):
        replace(PRETRAIN, optimizer="ntasgd", schedule="linear")
    constant = replace(PRETRAIN, optimizer="ntasgd", schedule="constant", lr=1.0)
    pretrain_lm(TEXTS, constant, valid_texts=VALID_TEXTS)
    assert rate_curves(partial(prepare_config, constant), 1, 3, 2).rates == [[1.0] * 3] * 2
    assert issubclass(NTASGD, torch.optim.SGD)


def test_the_estimator_has_the_options(base: Any, tmp_path: Path) -> None:
    finetune_classifier(
        TEXTS, LABELS, base, replace(CLASSIFY, epochs=1, schedule="linear", word_dropout=0.2), output=tmp_path / "clf"
    )
    loaded = ULMFiTClassifier.load(tmp_path / "clf")
    assert loaded.get_params()["classifier_config__schedule"] == "linear"
    assert loaded.get_params()["classifier_config__word_dropout"] == 0.2
    loaded.set_params(classifier_config__frz_blocks=2, finetune_config__unfreezing="gradual")
    assert loaded.classifier_config is not None
    assert loaded.classifier_config.frz_blocks == 2


def test_a_configurations_schedule_is_drawn() -> None:
    image = plot_schedule(partial(prepare_config, ClassifierConfig()), 6, 5, ["embedding", "1", "2", "3", "head"])
    assert image.startswith(b"\x89PNG")
