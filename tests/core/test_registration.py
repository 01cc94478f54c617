"""Whoever imports torch and the package has the ops, in any order; whoever only reads text never imports torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ulmfit_fast import WeightDropLSTM

HAS_OPS = "import torch; assert torch.ops.ulmfit_fast.lstm"
NO_TORCH = "import sys; assert 'torch' not in sys.modules"
WORKER = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

if __name__ == "__main__":
    from ulmfit_fast.text import parallel

    with ProcessPoolExecutor(1, get_context("spawn"), parallel._start, (None,)) as pool:
        modules = pool.submit(eval, "list(__import__('sys').modules)").result()
    assert "ulmfit_fast.text.parallel" in modules
    assert not {"torch", "ulmfit_fast.ops"} & {*modules, *sys.modules}
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished


@pytest.mark.parametrize(
    "code",
    [
        f"import torch, ulmfit_fast; {HAS_OPS}",
        f"import ulmfit_fast; {NO_TORCH}; {HAS_OPS}",
        f"import ulmfit_fast.core.errors; {NO_TORCH}; {HAS_OPS}",
        f"import ulmfit_fast; {NO_TORCH}; import torch.nn.functional; {HAS_OPS}",
        f"import ulmfit_fast; import importlib.util as u; assert u.find_spec('torch'); {NO_TORCH}; {HAS_OPS}",
        f"from ulmfit_fast import WeightDropLSTM; {HAS_OPS}",
        "import ulmfit_fast, threading as t; a = [t.Thread(target=__import__, args=('torch',)) for _ in range(4)]; "
        f"[x.start() for x in a]; [x.join() for x in a]; {HAS_OPS}",
    ],
)
def test_ops_are_there_in_any_order_of_imports(code: str) -> None:
    """Nothing of how it came about is left behind."""
    left = "[f for f in (*sys.meta_path, torch.__loader__, torch.__spec__.loader) if 'ulmfit_fast' in str(type(f))]"
    run("-c", f"{code}; import sys; assert not {left}")


@pytest.mark.parametrize("imports", ["import torch, ulmfit_fast", "import ulmfit_fast, torch"])
def test_saved_programs_load(imports: str, tmp_path: Path) -> None:
    layer, x = WeightDropLSTM(5, 7).eval(), torch.randn(6, 3, 5)
    torch.save((x, layer(x)[0]), tmp_path / "expected.pt")
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "exported.pt2")
    torch.jit.save(torch.jit.trace(layer, (x,)), tmp_path / "traced.pt")
    for load in ("torch.export.load('exported.pt2').module()", "torch.jit.load('traced.pt')"):
        code = (
            f"import os; os.chdir({str(tmp_path)!r}); {imports}; x, y = torch.load('expected.pt'); program = {load}; "
        )
        run("-W", "ignore", "-c", code + "assert torch.equal(program(x)[0], y)")


@pytest.mark.parametrize("arguments", [["--version"], ["tokenize", "--help"]])
def test_the_command_starts_without_torch(arguments: list[str]) -> None:
    finished = run("-X", "importtime", "-m", "ulmfit_fast", *arguments)
    imported = {line.split("|")[-1].strip() for line in finished.stderr.splitlines()}
    assert "ulmfit_fast.cli.main" in imported
    assert not {"torch", "ulmfit_fast.ops"} & imported


def test_processes_that_tokenize_start_without_torch(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(WORKER)
    run(str(tmp_path / "program.py"))


def test_a_native_module_that_does_not_load_leaves_torch_alone() -> None:
    """A warning that says why; whatever needs the ops then raises it."""
    code = "import sys, ulmfit_fast; sys.modules['ulmfit_fast._C'] = None; import torch; torch.ones(2)"
    assert "native module does not load beside torch" in run("-c", code).stderr
    code += "\ntry:\n    ulmfit_fast.WeightDropLSTM\nexcept ImportError as error:\n    print(error)"
    assert "native module does not load beside torch" in run("-c", code).stdout


def test_torch_that_is_missing_is_pythons_own_error() -> None:
    code = (
        "import sys, ulmfit_fast; sys.path[:] = []\ntry:\n    import torch\nexcept ModuleNotFoundError as e: print(e)"
    )
    assert run("-c", code).stdout == "No module named 'torch'\n"
