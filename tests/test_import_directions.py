"""Which room of the package may use which: imports point one way, from what users call down to the native ops."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ulmfit_fast

PACKAGE = Path(ulmfit_fast.__file__).parent

# A room may use those before its own row, and itself. Rooms of one row do not use each other.
ROWS = [
    {"ops"},
    {"core"},
    {"nn", "text", "tasks"},
    {"storage"},
    {"inference"},
    {"training"},
    {"pipeline"},
    {"multitask"},
    {"interop", "few_labels"},
    {"estimator", "demo"},
    {"cli"},
]
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
NATIVE = "_C"  # for ops alone
ON_ANY_MODEL = {"schedules", "unfreezing", "optim", "lr_range"}  # of training: they use nothing of ours but the errors
BUILT_ON_THEM = {"rates", "strategy", "schedule_plot"}  # they use those and the errors: they work on any model, too


def imported(source: str) -> list[str]:
    """The dotted names below ``ulmfit_fast`` that a module imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name.removeprefix("ulmfit_fast.") for name in found if name.startswith("ulmfit_fast.")]


def wrong_imports(module: str, source: str) -> list[str]:
    """Those imports of a module, named below the package ("nn.lstm"), that point the wrong way."""
    room, wrong = module.split(".")[0], []
    for name in imported(source):
        target = name.split(".")[0]
        if target == NATIVE:
            allowed = room == "ops"
        elif target not in ROW:  # a public name of the package, which could be from any room
            allowed = False
        elif room == "training" and module.split(".")[-1] in ON_ANY_MODEL:
            allowed = name.startswith("core.errors")
        elif room == "training" and module.split(".")[-1] in BUILT_ON_THEM:
            allowed = name.startswith("core.errors") or (
                target == room and name.split(".")[1] in ON_ANY_MODEL | BUILT_ON_THEM
            )
        else:
            allowed = target == room or ROW[target] < ROW[room]
        if not allowed:
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    if module in ("__init__", "__main__"):  # they name what every room offers, or start the command
        return
    assert module.split(".")[0] in ROW, "a new room: name it in ROWS"
    assert wrong_imports(module, path.read_text(encoding="utf-8")) == []


def test_a_wrong_import_is_found() -> None:
    assert wrong_imports("nn.lstm", "def f():\n    from ulmfit_fast.text.rules import apply_rules\n") == [
        "text.rules.apply_rules"
    ]
    assert wrong_imports("training.schedules", "from ulmfit_fast.core.device import autocast\n") == [
        "core.device.autocast"
    ]
    assert wrong_imports("core.device", "from ulmfit_fast import ULMFiTClassifier, _C\n") == ["ULMFiTClassifier", "_C"]


def test_the_two_backends_do_not_know_each_other() -> None:
    sources = PACKAGE.parent / "csrc"
    if not sources.is_dir():
        pytest.skip("installed without its C++ sources")
    for mine, other in (("cpu", "cuda"), ("cuda", "cpu")):
        for path in (sources / mine).rglob("*"):
            if path.is_file():
                assert f"{other}/" not in "".join(
                    line for line in path.read_text().splitlines() if line.startswith("#include")
                ), path
