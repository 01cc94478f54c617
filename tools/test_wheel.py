"""Installs the wheel into empty environments, each with another torch, and runs tests there: `make wheel-test`.

    python tools/test_wheel.py WHEEL FOLDER [TORCH ...]

TORCH is a release, such as 2.11.0; "newest", what pip finds within the package's range; or the path of a Python whose
environment holds the wheel, a torch and pytest already. Without any: the oldest release that the package supports, and
the newest. An environment is made under FOLDER and takes 1 to 6 GB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from setup_venv import ROOT, Environment, SetupError, choose_sources, torch_index

# The layer, every op, training from texts to a saved model. Not the ops again for each instruction set, which takes
# minutes and asks nothing of torch.
LEFT_OUT = "tests/ops/test_instruction_sets.py"
TESTS = ["tests/ops", "tests/nn/test_lstm.py", "tests/test_estimator.py::test_fit_predict_score_save_load"]
BESIDE = ["tests", "benchmarks", "pyproject.toml"]  # not ulmfit_fast: the installed one is tested
FACTS = """
import json, sys, torch, ulmfit_fast
print(json.dumps({"torch": torch.__version__, "python": sys.version.split()[0], "file": ulmfit_fast.__file__}))
"""


def lowest_torch() -> str:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lowest = next(need for need in needs if need.startswith("torch>=")).removeprefix("torch>=").split(",")[0]
    return f"{lowest}.*"


def prepared(folder: Path, wheel: Path, torch: str) -> Path:
    """The Python of a new environment with that torch and the wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    environment = Environment(folder)
    environment.make()
    index = torch_index(environment.read_settings(), False, sys.platform, os.environ.get("ULMFIT_FAST_TORCH_INDEX"))
    variables, index, lines = choose_sources(environment.read_settings(), index)
    print(*lines, sep="\n", end="\n" * bool(lines), flush=True)
    environment.variables |= variables
    extra = ["--extra-index-url", index] if index else []
    exact = [] if torch == "newest" else [f"torch=={torch}"]
    what = f"{wheel.name} with torch {torch}"
    environment.pip(what, "--only-binary", ":all:", *extra, *exact, f"ulmfit_fast[text] @ {wheel.as_uri()}", "pytest")
    return environment.python


def run_tests(python: Path) -> bool:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        for name in BESIDE:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, folder)

        def run(*command: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
            pipe = subprocess.PIPE if quiet else None
            return subprocess.run([python, *command], cwd=folder, env=variables, stdout=pipe, text=True, check=False)

        asked = run("-c", FACTS, quiet=True)
        if asked.returncode:
            return False
        facts = json.loads(asked.stdout)
        if Path(facts["file"]).is_relative_to(ROOT / "ulmfit_fast"):
            raise SetupError(f"{python} imports the source folder's ulmfit_fast, not the wheel's")
        print(f"torch {facts['torch']}, Python {facts['python']}:", flush=True)
        options = ["-q", "-p", "no:cacheprovider", "--disable-warnings", "--ignore", LEFT_OUT]
        return run("-m", "pytest", *options, *TESTS).returncode == 0


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    wheel, folder = Path(arguments[0]).resolve(), Path(arguments[1]).absolute()
    failed = []
    try:
        for torch in arguments[2:] or [lowest_torch(), "newest"]:
            made = folder / f"torch-{torch.removesuffix('.*')}"
            if not run_tests(Path(torch) if os.sep in torch else prepared(made, wheel, torch)):
                failed.append(torch)
    except SetupError as error:
        print(f"wheel-test: {error}", file=sys.stderr)
        return 1
    if failed:
        print(f"wheel-test: tests fail with {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
