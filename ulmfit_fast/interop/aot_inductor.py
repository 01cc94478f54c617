"""Classifiers compiled ahead of time (AOTInductor): a package of machine code and weights for this kind of machine."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.interop.deployed import DeployedClassifier
from ulmfit_fast.interop.torch_export import export_classifier
from ulmfit_fast.nn.classifier import TextClassifier


def package_classifier(model: TextClassifier | DeployedClassifier, path: str | Path) -> None:
    """Compile ``model``, in eval mode, into one file, ``.pt2``. Needs a C++ compiler, here and not where it is loaded.

    To load it::

        import torch
        import ulmfit_fast.ops  # registers our ops, which the package calls by name
        run = torch._inductor.aoti_load_package("model.pt2")
        result = run(tokens, lengths)  # as ``export_classifier``'s program; B and T are dynamic

    Without the import the first call fails, as torch then knows no ``ulmfit_fast::lstm``. The package is for the torch
    that made it (the same minor version) and for processors with the instructions of this one.

    Raises:
        InputError: training mode, a path that does not end in ``.pt2``, no C++ compiler, or one that fails.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise InputError(f"package_classifier: path must end in .pt2, which torch asks for, got {path}")
    write_atomically(path, package_bytes(model))


def package_bytes(model: TextClassifier | DeployedClassifier) -> bytes:
    """What ``package_classifier`` writes."""
    program = export_classifier(model)
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "model.pt2")
        try:
            with torch.no_grad():
                torch._inductor.aoti_compile_and_package(program, package_path=made)
        except Exception as error:  # torch's own, which name the compiler's exit status or that there is none
            raise InputError(
                f"package_classifier: torch could not compile the model ({shortened(error, 300)}); it needs a C++ "
                "compiler, the variable CXX names one"
            ) from error
        return Path(made).read_bytes()
