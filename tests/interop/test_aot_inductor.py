"""A package of AOTInductor, loaded where this package's models do not exist, only its ops."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interop.test_torch_export import make_classifier, make_documents
from ulmfit_fast import InputError
from ulmfit_fast.interop.aot_inductor import package_classifier

ROOT = Path(__file__).parents[2]
_LOAD = """
import sys, torch
if sys.argv[2] == "with": import ulmfit_fast.ops
run = torch._inductor.aoti_load_package(sys.argv[1] + "/model.pt2")
for tokens, lengths, expected in torch.load(sys.argv[1] + "/calls.pt"):
    torch.testing.assert_close(run(tokens, lengths), expected, atol=1e-5, rtol=1e-5)
print("equal")
"""


@pytest.mark.parametrize("options", [{}, {"pooling": "attention", "attention_heads": 2}])
def test_a_package_of_any_batch_and_length_needs_the_ops(options: dict[str, Any], tmp_path: Path) -> None:
    model = make_classifier(pool_window=50, **options)
    quicker = {"aot_inductor.compile_wrapper_opt_level": "O0", "aot_inductor.precompile_headers": False}
    with torch._inductor.config.patch(quicker):
        package_classifier(model, tmp_path / "model.pt2")
    documents = [make_documents(batch, steps) for batch, steps in ((1, 1), (4, 9), (2, 400))]
    with torch.no_grad():
        torch.save([(*each, model(*each)) for each in documents], tmp_path / "calls.pt")

    def load(how: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _LOAD, str(tmp_path), how], env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=tmp_path, capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    loaded = load("with")
    assert loaded.stdout == "equal\n", loaded.stderr
    assert "ulmfit_fast::" in load("without").stderr


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"path must end in .pt2, .*got .*model.so"):
        package_classifier(make_classifier(), tmp_path / "model.so")
    with pytest.raises(InputError, match="the model is in training mode"):
        package_classifier(make_classifier().train(), tmp_path / "model.pt2")

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fails)
    with pytest.raises(InputError, match=r"could not compile the model \(No working C\+\+ compiler found\)"):
        package_classifier(make_classifier(), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
