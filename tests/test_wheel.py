"""What `make wheel` lets pass. The wheel itself is tried by `make wheel-test`, which installs torch twice."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
if not TOOLS.exists():
    pytest.skip("the sources' tools/ are not here", allow_module_level=True)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wheel = load("wheel")
GOOD = "ulmfit_fast-0.1.0-cp311-abi3-manylinux_2_28_x86_64.whl"


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (GOOD, ["ulmfit_fast/_C.abi3.so", "ulmfit_fast/nn/lstm.py"], None),
        ("ulmfit_fast-0.1.0-cp313-cp313-manylinux_2_28_x86_64.whl", [], "no wheel for Python 3.11 and later"),
        ("ulmfit_fast-0.1.0-cp311-abi3-linux_x86_64.whl", [], "on other machines"),
        (GOOD, ["ulmfit_fast/nn/lstm.py"], r"holds \[\], expected ulmfit_fast/_C\.abi3\.so alone"),
        (GOOD, ["ulmfit_fast/_C.abi3.so", "ulmfit_fast.libs/libgomp-24e2ab19.so.1.0.0"], "libgomp"),
        (GOOD, ["ulmfit_fast/_C.abi3.so", "ulmfit_fast/_C.cpython-311-x86_64-linux-gnu.so"], "cpython-311"),
    ],
    ids=["good", "one Python", "one machine", "no module", "a library", "an old module"],
)
def test_check(name: str, files: list[str], message: str | None, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for file in files:
            archive.writestr(file, "")
    if message is None:
        wheel.check(tmp_path / name)
    else:
        with pytest.raises(wheel.WheelError, match=message):
            wheel.check(tmp_path / name)


def test_which_torch_is_the_oldest() -> None:
    """As pip and the native module mean it."""
    oldest = load("test_wheel").lowest_torch()
    assert oldest == "2.11.*"
    assert f"set(LOWEST_TORCH {oldest.removesuffix('.*')})" in (TOOLS.parent / "CMakeLists.txt").read_text()


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert wheel.main(["build"]) == 2
    assert "build FOLDER" in capsys.readouterr().err
    assert wheel.main(["repair", "/nowhere/a.whl", "/nowhere"]) == 1
    assert "wheel: this failed: auditwheel repair" in capsys.readouterr().err
