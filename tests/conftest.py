"""What all tests share: fixed seeds, uninitialised memory filled with NaN, the place of real data."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.command_line import SIZES, SMALL, write_task
from ulmfit_fast import _C

if "ULMFIT_FAST_CUDA_ON_HOST" in os.environ:  # a library whose kernels take the place of the CPU's
    import ulmfit_fast.ops  # noqa: F401  # which registers the ops

    torch.ops.load_library(os.environ["ULMFIT_FAST_CUDA_ON_HOST"])
# A shell starts its background jobs deaf to SIGINT, and Python leaves it so; some tests interrupt themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's children ignore it
if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms need of cuBLAS


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """A kernel that reads what nobody wrote then computes NaN, and no test depends on another's random numbers."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    _C.fill_new_memory(True)
    yield
    _C.fill_new_memory(False)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = Path(os.environ.get("ULMFIT_FAST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set ULMFIT_FAST_DATA to the folder that holds imdb/, wikitext-2/, ...")
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with lm/, clf/ and train.csv, made through the command line."""
    from ulmfit_fast.cli.main import main

    folder = tmp_path_factory.mktemp("models")
    data = str(write_task(folder / "train.csv", 120))
    assert main(["pretrain-lm", data, "--output", str(folder / "lm"), *SIZES, *SMALL]) == 0
    assert main(["finetune-lm", data, "--model", str(folder / "lm"), "--output", str(folder / "lm2"), *SMALL]) == 0
    tuning = ["--epochs", "8", "--lr", "0.03", "--drop-mult", "0.1", "--unfreezing", "all"]
    # Else every probability may be 1 to six digits, and tests that compare them would see no difference.
    soft = ["--discriminative-factor", "1", "--label-smoothing", "0.2", "--no-calibrate"]
    arguments = ["train", data, "--model", str(folder / "lm2"), "--valid", data, "--output", str(folder / "clf")]
    assert main([*arguments, *SMALL, *tuning, *soft]) == 0
    return folder
