"""Commands under torchrun: processes are lost, signalled, refused (what they compute: training/test_distributed.py)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.cli.command_line import SIZES, SMALL, write_task
from tests.cli.test_signals import environment, wait_for_checkpoint
from ulmfit_fast import TrainedLanguageModel
from ulmfit_fast.storage.run_file import load_state

_ENOUGH_S = 600
KILLS = int(os.environ.get("ULMFIT_FAST_KILLS", "1"))  # of processes of one run of torchrun, at random moments
FORKED_KILLS = int(os.environ.get("ULMFIT_FAST_KILLS", "10"))  # where processes are started at little cost


def start(arguments: list[str], restarts: int = 0) -> subprocess.Popen[str]:
    """Two processes of a command."""
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", str(restarts), "-m", "ulmfit_fast",
    ]  # fmt: skip
    return subprocess.Popen([*launcher, *arguments], env=environment(), stderr=subprocess.PIPE, text=True)


def pretraining(folder: Path, epochs: int) -> list[str]:
    data = str(write_task(folder / "train.csv"))
    return [
        "pretrain-lm", data, "--output", str(folder / "out"), *SIZES, *SMALL, "--epochs", str(epochs),
        "--checkpoint-minutes", "0.001",
    ]  # fmt: skip


def errors_of(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("ulmfit-fast: error: ")]


def workers(process: subprocess.Popen[str]) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def test_lost_processes_are_started_again_and_the_run_ends_well(tmp_path: Path) -> None:
    epochs, seed = 4 * KILLS + 2, int(os.environ.get("ULMFIT_FAST_SEED", "0"))
    process = start(pretraining(tmp_path, epochs), restarts=KILLS)
    moments, changed = random.Random(seed), 0
    for _ in range(KILLS):
        changed = wait_for_checkpoint(tmp_path, changed)
        time.sleep(moments.uniform(0, 1.5))
        found = workers(process)
        if len(found) == 2:
            os.kill(moments.choice(found), signal.SIGKILL)
    _, err = process.communicate(timeout=_ENOUGH_S * KILLS)
    assert process.returncode == 0, err
    assert_ended_well(tmp_path / "out", epochs)


def forked(folder: Path, epochs: int, kills: int) -> list[dict[str, Any]]:
    """What ``tests.cli.forked_ranks`` says of each attempt."""
    arguments = [str(folder / "out"), str(kills), os.environ.get("ULMFIT_FAST_SEED", "0"), *pretraining(folder, epochs)]
    command = [sys.executable, "-m", "tests.cli.forked_ranks", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=_ENOUGH_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    attempts: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert attempts[-1]["statuses"] == {"0": 0, "1": 0}, (attempts, done.stderr[-3000:])
    assert_ended_well(folder / "out", epochs)
    return attempts


def test_ten_lost_processes_damage_nothing(tmp_path: Path) -> None:
    """kill -9 at ten random moments, by a starter that is cheaper than torchrun. The model is that of a run without."""
    epochs = 4 * FORKED_KILLS
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    attempts = forked(tmp_path / "killed", epochs, FORKED_KILLS)
    assert [attempt.get("damage") for attempt in attempts] == [None] * len(attempts)
    assert len(attempts) == FORKED_KILLS + 1, attempts
    for attempt in attempts[:-1]:
        assert attempt["statuses"][str(attempt["victim"])] == -9
    forked(tmp_path / "whole", epochs, 0)
    models = [(tmp_path / name / "out" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert models[0] == models[1]


def assert_ended_well(output: Path, epochs: int) -> None:
    records = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, epochs + 1))
    TrainedLanguageModel.load(output)
    assert load_state(output) is not None  # with its checksums
    assert sorted(path.name for path in output.iterdir() if path.name.startswith(".")) == []


def test_sigterm_stops_all_with_one_checkpoint_and_one_message(tmp_path: Path) -> None:
    process = start(pretraining(tmp_path, 1_000_000))
    wait_for_checkpoint(tmp_path)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=_ENOUGH_S)
    (line,) = errors_of(err)
    assert "go on with --resume (resume=True), from the checkpoint in" in line
    assert load_state(tmp_path / "out") is not None
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")] == []


def test_one_process_says_what_is_wrong(tmp_path: Path) -> None:
    process = start(
        ["finetune-lm", str(tmp_path / "none.csv"), "--model", "nowhere", "--output", str(tmp_path / "out")]
    )
    _, err = process.communicate(timeout=_ENOUGH_S)
    (line,) = errors_of(err)
    assert "nowhere" in line
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_commands_for_one_process_are_refused(tmp_path: Path) -> None:
    process = start(["predict", str(tmp_path / "new.csv"), "--model", str(tmp_path)])
    _, err = process.communicate(timeout=_ENOUGH_S)
    (line,) = errors_of(err)
    assert line.endswith("torchrun starts pretrain-lm, finetune-lm and train; start others without it")
