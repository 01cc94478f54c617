"""schedule, lr-find and search on files, and the options of the stages that they share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from ulmfit_fast.cli.main import main

PNG = b"\x89PNG"


def test_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rates by hand: two epochs of 10 steps; the head from 1/32 of 0.01, the rest joining in the second epoch."""
    picture = tmp_path / "a.png"
    arguments = ["--epochs", "2", "--steps", "10", "--num-layers", "1", "--frz-blocks", "2", "--dis-blocks", "2"]
    assert main(["schedule", "--output", str(picture), *arguments, "--discriminative-factor", "2"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert picture.read_bytes().startswith(PNG)
    assert out[-1] == f"curves in {picture}"
    # cut = 2: step 10 has p = 1 - 8 / 18 = 5/9, and step 19 p = 1/18
    assert out[2] == "head: 0.000313 at step 0, highest 0.01 at step 2, 0.000851 at step 19"
    assert out[1] == "LSTM 1: 0.00285 at step 10, highest 0.00285 at step 10, 0.000425 at step 19"
    assert out[0] == "embedding: 0.00285 at step 10, highest 0.00285 at step 10, 0.000425 at step 19"
    last = ["schedule", "--output", str(picture), "--overwrite", "--unfreezing", "last", "--schedule", "one-cycle"]
    assert main(last) == 0
    assert "embedding: stays frozen" in capsys.readouterr().out
    for stage in ("finetune-lm", "pretrain-lm"):
        assert main(["schedule", "--output", str(picture), "--overwrite", "--stage", stage]) == 0
        assert "embedding: 0.000125 at step 0, highest 0.004 at step 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "pretrain-lm", "--dis-blocks", "3"], "--dis-blocks does nothing here: it is no option of stage"),
        (["--optimizer", "sgd"], "--optimizer does nothing here: it is no option of stage classifier"),
        (["--schedule", "linear", "--ratio", "8"], "--ratio does nothing here: the schedule linear does not use it"),
        (["--end-frac", "0.1"], "--end-frac does nothing here: the schedule slanted-triangular does not use it"),
        (["--dis-blocks", "0", "--lr-lowest", "1e-4"], "--lr-lowest does nothing here: --dis-blocks is 0"),
        (["--lr-lowest", "1e-4", "--discriminative-factor", "2"], "--discriminative-factor does nothing here"),
        (["--schedule", "triangle"], "schedule must be one of slanted-triangular, "),
        (["--unfreeze-every", "5", "--unfreezing", "all"], "unfreeze_every=5 goes with unfreezing='gradual'"),
    ],
)
def test_options_that_do_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schedule", "--output", str(tmp_path / "a.png"), *arguments]) == 2
    assert_one_line(capsys, message)


def test_pictures(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.png").write_bytes(b"")
    for name, message in (
        ("a.jpg", "a picture is written, give a name that ends in .png"),
        ("old.png", "exists; choose another file or pass --overwrite"),
        ("none/a.png", "none does not exist"),
    ):
        for command in (["schedule"], ["lr-find", "t.csv"], ["search", "t.csv"]):
            assert main([*command, "--output", str(tmp_path / name)]) == 2
            assert_one_line(capsys, message)


def test_training_commands_refuse_them_too(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = str(models / "train.csv"), ["--output", str(tmp_path / "x")]
    for command in (
        ["pretrain-lm", data, "--schedule", "constant", "--cut-frac", "0.2"],
        ["finetune-lm", data, "--model", str(models / "lm"), "--schedule", "cosine", "--cut-frac", "0.2"],
        ["train", data, "--schedule", "one-cycle", "--cut-frac", "0.2"],
    ):
        assert main([*command, *output]) == 2
        assert_one_line(capsys, "--cut-frac does nothing here: the schedule ")
    lm = ["--pretrained", str(models / "lm"), "--lm-schedule", "linear", "--lm-ratio", "3"]
    assert main(["train", data, *lm, *output]) == 2
    assert_one_line(capsys, "--lm-ratio does nothing here: the schedule linear does not use it")
    assert main(["train", data, "--l2-sp", "0.1", *output]) == 2
    assert_one_line(capsys, "l2_sp=0.1 pulls towards a pretrained model's weights, and there is none")


def test_the_stages_take_the_options(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(models / "train.csv")
    options = [
        "--schedule", "linear", "--end-frac", "0.03125", "--dis-blocks", "2", "--frz-blocks", "2", "--l2-sp", "0.01",
        "--weight-decay-factor", "2", "--epochs", "2",
    ]  # fmt: skip
    words = ["--word-dropout", "0.1", "--word-swap", "0.1", "--word-replace", "0.1", "--word-noise", "0.1"]
    lm, clf = tmp_path / "lm", tmp_path / "clf"
    base = ["--model", str(models / "lm")]
    assert main(["finetune-lm", data, *base, "--output", str(lm), *SMALL, "--min-frequency", "1", *options]) == 0
    by = ["--replace-by", "language-model", "--freeze-batch-norm", "--unfreezing", "chain-thaw"]
    assert main(["train", data, "--model", str(lm), "--output", str(clf), *SMALL, *options, *words, *by]) == 0
    one = ["--schedule", "one-cycle", "--unfreezing", "gradual", "--unfreeze-every", "2", "--lr-lowest", "0.001"]
    both = [
        *one,
        "--lm-schedule",
        "cosine",
        "--lm-unfreezing",
        "gradual",
        "--lm-batch-size",
        "4",
        "--lm-min-frequency",
        "1",
    ]
    assert (
        main(["train", data, "--pretrained", str(models / "lm"), "--output", str(tmp_path / "b"), *SMALL, *both]) == 0
    )
    capsys.readouterr()


def test_lr_find(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, lm = str(models / "train.csv"), str(models / "lm")
    before = sorted((path, path.stat().st_mtime_ns) for path in models.rglob("*"))
    test = ["--steps", "30", "--lr-min", "1e-5", *SMALL]
    for name, command in {
        "classifier": ["--model", lm, "--unfreezing", "all"], "from scratch": SIZES,
        "finetune-lm": ["--stage", "finetune-lm", "--model", lm, "--min-frequency", "1"],
        "pretrain-lm": ["--stage", "pretrain-lm", *SIZES, "--optimizer", "sgd"],
    }.items():  # fmt: skip
        picture = tmp_path / f"{name}.png"
        assert main(["lr-find", data, "--output", str(picture), *command, *test]) == 0, name
        out = capsys.readouterr().out.splitlines()
        assert picture.read_bytes().startswith(PNG)
        assert out[0].endswith(f"curve in {picture}")
        assert [line.split(":")[0] for line in out[1:]] == ["steepest", "valley"]
        assert "--lr " in out[1]
    assert sorted((path, path.stat().st_mtime_ns) for path in models.rglob("*")) == before


def test_lr_find_on_a_corpus(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, output = str(tmp_path / "corpus"), str(tmp_path / "a.png")
    assert main(["tokenize", str(models / "train.csv"), "--output", corpus, "--min-frequency", "1"]) == 0
    command = ["lr-find", corpus, "--stage", "pretrain-lm", "--output", output, *SIZES, *SMALL, "--steps", "5"]
    capsys.readouterr()
    assert main([*command, "--max-texts", "5"]) == 2
    assert_one_line(capsys, "--max-texts does nothing here: ")
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("5 steps, rates 1e-07 to 10")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "finetune-lm"], "--model is needed for stage finetune-lm"),
        (["--stage", "pretrain-lm", "--model", "lm"], "--model does nothing here: stage pretrain-lm begins with no"),
        (["--stage", "pretrain-lm", "--label-column", "x"], "--label-column does nothing here: stage pretrain-lm"),
        (["--split", "line"], "--split does nothing here"),
        (["--lr-min", "1", "--lr-max", "0.1"], "0 < lr_min < lr_max is needed, got 1.0 and 0.1"),
        (["--model", "gone"], "gone"),
    ],
)
def test_bad_range_tests(
    models: Path, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["lr-find", str(models / "train.csv"), "--output", str(tmp_path / "a.png"), *SMALL]
    assert main([*command, *arguments]) == 2
    assert_one_line(capsys, message)
    assert not (tmp_path / "a.png").exists()


def test_search(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna", reason="needs the extra search")
    data, picture, study = str(models / "train.csv"), str(tmp_path / "s.png"), str(tmp_path / "s.db")
    command = ["search", data, "--output", picture, "--study", study, "--valid-fraction", "0.25", "--epochs", "2"]
    command += [*SIZES, *SMALL, "--space", "lr=1e-3:1e-1:log", "--space", "frz-blocks=1:3"]
    assert main([*command, "--trials", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("trial ") == 2
    best = captured.out.splitlines()
    assert best[0].startswith("best of 2 trials, valid_loss 0.")
    assert best[1].startswith("--lr 0.0")
    assert "--frz-blocks " in best[1]
    assert Path(picture).read_bytes().startswith(PNG)
    # What is printed is what train takes.
    train = ["train", data, "--output", str(tmp_path / "clf"), "--epochs", "1", *SIZES, *SMALL, *best[1].split()]
    assert main(train) == 0
    capsys.readouterr()
    assert main([*command, "--trials", "3", "--overwrite"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("trial ") == 1
    assert captured.out.startswith("best of 3 trials")
    assert main([*command, "--trials", "3", "--overwrite", "--drop-mult", "0.3"]) == 2
    assert_one_line(capsys, "the study was begun with another drop_mult; use another file, or the same")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --valid or --valid-fraction"),
        (["--valid", "v.csv", "--valid-fraction", "0.2"], "--valid-fraction does not go with --valid"),
        (["--space", "lr", "--lr", "0.1", "--valid-fraction", "0.2"], "--lr does nothing here: --space searches it"),
        (["--space", "speed", "--valid-fraction", "0.2"], "ClassifierConfig has no 'speed'"),
        (
            ["--stage", "pretrain-lm", "--valid-fraction", "0.2"],
            "--valid-fraction does nothing here: stage",
        ),
    ],
)
def test_bad_searches(
    models: Path, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", str(models / "train.csv"), "--output", str(tmp_path / "s.png"), *arguments]) == 2
    assert_one_line(capsys, message)


def test_search_on_validation_files(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna", reason="needs the extra search")
    valid = write_task(tmp_path / "v.csv", 20, 4)
    common = [str(models / "train.csv"), "--valid", str(valid), "--output", str(tmp_path / "s.png"), "--trials", "1"]
    small = [*SMALL, "--space", "lr", "--overwrite"]
    by = ["--measure", "accuracy", "--model", str(models / "lm"), "--epochs", "1"]
    assert main(["search", *common, *small, *by]) == 0
    assert "best of 1 trials, accuracy " in capsys.readouterr().out
    stage = ["--stage", "finetune-lm", "--model", str(models / "lm"), "--min-frequency", "1", "--measure", "perplexity"]
    assert main(["search", *common, *small, *stage]) == 0
    assert "perplexity" in capsys.readouterr().out


def test_search_without_optuna(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)  # as where it is not installed
    assert main(["search", "t.csv", "--output", str(tmp_path / "s.png")]) == 2
    assert_one_line(capsys, "search needs Optuna, which is not installed: pip install optuna")
