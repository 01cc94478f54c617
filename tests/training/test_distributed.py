"""Two processes train what one would: the same losses, order and model; they stop together, and one goes on alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import two_processes
from ulmfit_fast.core.distributed import ALONE, Processes, share_of_sizes
from ulmfit_fast.core.random import Generators

WITHOUT_DROPOUT = [
    "language_model",
    "accumulated",
    "tuned",
    "classifier",
    "several_labels",
    "attention",
    "one_does_nothing",
]
EXACT = 1e-10  # in float64, where rounding is nothing: what is left would be an error
LOSS_TOLERANCE = 1e-5  # in float32
# Over an encoder that has learnt nothing, pooled vectors hardly differ and a classifier's BatchNorm magnifies rounding.
IN_FLOAT32 = ["language_model", "over_language_model"]
LONG = [*IN_FLOAT32, "classifier"]  # 100 steps or more
STOPPED_AFTER = 7  # steps of the second epoch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, list[Any]]:
    """What each of two processes found, by task."""
    stopped = {"stop_after": STOPPED_AFTER}
    tasks: dict[str, dict[str, Any]] = {name: {"name": name} for name in (*IN_FLOAT32, "with_dropout")} | {
        **{f"{name}, float64": {"name": name, "double": True} for name in WITHOUT_DROPOUT},
        "batch_norm": {"call": "batch_norm"},
        "stopped": {"name": "with_dropout", "output": str(folder / "dropout"), **stopped},
        "stopped_lm": {"name": "language_model", "output": str(folder / "lm"), **stopped},
    }
    both = two_processes.start(list(tasks.values()), folder)
    return {name: list(each) for name, *each in zip(tasks, *both, strict=True)}


@pytest.fixture(scope="module")
def goes_on(folder: Path, found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What two processes made of runs that were interrupted: one with two processes, one with one."""
    alone = two_processes.run("classifier", STOPPED_AFTER, double=True, output=str(folder / "clf"))
    tasks = {
        "with_dropout": {"name": "with_dropout", "output": str(folder / "dropout"), "resume": True},
        "classifier": {"name": "classifier", "double": True, "output": str(folder / "clf"), "resume": True},
    }
    both = two_processes.start(list(tasks.values()), folder)
    return {name: list(each) for name, *each in zip(tasks, *both, strict=True)} | {"alone": [alone]}


def tokens(found: dict[str, Any]) -> list[int]:
    """Of each epoch, after each step: which batches they were."""
    return [tokens for tokens, _ in found["sums"]]


def losses_of(found: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(two_processes.losses(found["sums"]), dtype=torch.float64)


def assert_same(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> None:
    assert tokens(a) == tokens(b)
    torch.testing.assert_close(losses_of(a), losses_of(b), atol=tolerance, rtol=0)
    for one, other in zip(a["records"], b["records"], strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            assert one[key] == pytest.approx(
                other[key], abs=2 * tolerance if key != "perplexity" else 100 * tolerance
            ), key


@pytest.mark.parametrize("name", [*IN_FLOAT32, *(f"{name}, float64" for name in WITHOUT_DROPOUT)])
def test_two_processes_train_as_one_does(name: str, found: dict[str, list[Any]]) -> None:
    first, second = found[name]
    seconds = [[record.pop("seconds") for record in each["records"]] for each in (first, second)]
    assert first == second  # to the bit
    for each, of_each in zip((first, second), seconds, strict=True):
        for record, value in zip(each["records"], of_each, strict=True):
            record["seconds"] = value
    training, _, precision = name.partition(", ")
    one = two_processes.run(training, double=bool(precision))
    assert len(one["sums"]) >= (100 if training in LONG else 12)
    assert_same(one, first, EXACT if precision else LOSS_TOLERANCE)


def test_dropout_differs_by_rank_and_weights_do_not(found: dict[str, list[Any]]) -> None:
    first, second = found["with_dropout"]
    assert first["weights"] == second["weights"]
    masks = []
    for rank in range(3):
        generators = Generators(0)
        generators.of("cpu")
        if rank:
            generators.begin_again(rank)
        masks.append(torch.rand(1000, generator=generators.of("cpu")))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(float(torch.corrcoef(torch.stack([masks[i], masks[j]]))[0, 1])) < 0.15


def test_batch_norm_goes_by_all_rows(found: dict[str, list[Any]]) -> None:
    torch.manual_seed(3)
    x, dy = (5 + 2 * torch.randn(9, 4)).requires_grad_(), torch.randn(9, 4)
    layer = torch.nn.BatchNorm1d(4)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 5.0))
    y = layer(x)
    y.backward(dy)
    first, second = ([torch.tensor(values) for values in each["batch_norm"]] for each in found["batch_norm"])
    both = [torch.cat(pair) for pair in zip(first[:2], second[:2], strict=True)]
    both += [*second[2:4], first[4] + second[4], first[5] + second[5]]
    assert x.grad is not None
    assert layer.weight.grad is not None
    expected = [y, x.grad, layer.running_mean, layer.running_var, layer.weight.grad, layer.bias.grad]
    for mine, torchs in zip(both, expected, strict=True):
        torch.testing.assert_close(mine, torchs.detach(), atol=2e-6, rtol=1e-5)


def test_a_signal_to_one_process_stops_all_at_one_step(found: dict[str, list[Any]]) -> None:
    for name in ("stopped", "stopped_lm"):
        first, second = found[name]
        assert first["interrupted"] == second["interrupted"]
        assert "go on with --resume" in first["interrupted"]
        assert first["sums"] == second["sums"]
    whole = found["with_dropout"][0]["sums"]
    assert found["stopped"][0]["sums"] == whole[: len(whole) // 2 + STOPPED_AFTER + 1]  # all are told a step later


def test_as_many_processes_go_on_to_the_same_bits(found: dict[str, list[Any]], goes_on: dict[str, list[Any]]) -> None:
    whole, (first, second) = found["with_dropout"][0], goes_on["with_dropout"]
    assert first["weights"] == second["weights"] == whole["weights"]
    assert whole["sums"][-len(first["sums"]) :] == first["sums"]


def test_another_number_of_processes_goes_on_in_the_same_order(
    folder: Path, found: dict[str, list[Any]], goes_on: dict[str, list[Any]]
) -> None:
    with pytest.warns(UserWarning, match="made with processes 2, now it is 1: the run goes on"):
        alone = two_processes.run("language_model", output=str(folder / "lm"), resume=True)
    before = found["stopped_lm"][0]
    assert_continues(found["language_model"][0], before, alone, LOSS_TOLERANCE)
    assert_continues(found["classifier, float64"][0], goes_on["alone"][0], goes_on["classifier"][0], EXACT)


def assert_continues(whole: dict[str, Any], before: dict[str, Any], after: dict[str, Any], tolerance: float) -> None:
    """Before and after an interruption the steps are those of a run that never stopped."""
    assert "interrupted" in before
    both = {"sums": [*before["sums"], *after["sums"]]}
    assert tokens(both) == tokens(whole)
    torch.testing.assert_close(losses_of(both), losses_of(whole), atol=tolerance, rtol=0)


def test_documents_are_shared_by_their_tokens() -> None:
    sizes = [9, 1, 1, 1, 1, 1, 4, 2, 30]
    parts = share_of_sizes(sizes, 3)
    assert sorted(i for part in parts for i in part) == list(range(9))
    assert [sum(sizes[i] for i in part) for part in parts] == [30, 10, 10]
    assert share_of_sizes([5], 3) == [[0], [], []]


def test_lanes_are_shared_evenly() -> None:
    for count, size in ((64, 3), (5, 4), (2, 3)):
        parts = [Processes(rank, size).share(count) for rank in range(size)]
        assert [lane for part in parts for lane in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert list(ALONE.share(3)) == [0, 1, 2]
