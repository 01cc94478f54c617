"""fastai 1's QRNN itself, where ULMFIT_FAST_FASTAI1 names the folder of an unpacked wheel (fastai 1.0.61).

fastai 2.8 has none, and fastai 1 does not install beside today's torch: its source files are executed one by one, with
the few names that they need of the rest.
"""

from __future__ import annotations

import os
import typing
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor, nn

needs_fastai_1 = pytest.mark.skipif(
    "ULMFIT_FAST_FASTAI1" not in os.environ, reason="needs ULMFIT_FAST_FASTAI1, the folder of an unpacked fastai 1.0.61"
)


class _Module(nn.Module):
    """fastai 1's: nobody calls ``super().__init__``."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        module = super().__new__(cls)
        nn.Module.__init__(module)
        return module

    def __init__(self) -> None: ...


def source(name: str) -> str:
    """A file's text without what it imports of fastai, and without what fastai 1 compiles for CUDA."""
    path = Path(os.environ["ULMFIT_FAST_FASTAI1"], "fastai", "text", name)
    lines = path.read_text(encoding="utf-8").splitlines()
    foreign = ("from .", "from fastai", "import fastai", "import matplotlib", "import spacy", "from spacy")
    return "\n".join("" if line.startswith(foreign) else line for line in lines)


def detached(states: Any, cpu: bool = False) -> Any:
    return [detached(x) for x in states] if isinstance(states, list | tuple) else states.detach()


def models() -> SimpleNamespace:
    """``AWD_LSTM``, ``LinearDecoder``, ``SequentialRNN``, ``forget_mult_CPU`` and the rest of its models."""
    names: dict[str, Any] = vars(typing) | {
        "Module": _Module, "nn": nn, "F": F, "torch": torch, "Tensor": Tensor, "LongTensor": LongTensor,
        "warnings": warnings, "partial": partial, "Path": Path, "to_detach": detached,
        "ifnone": lambda a, b: b if a is None else a, "one_param": lambda m: next(m.parameters()),
        "cm": SimpleNamespace(RdYlGn=None), "ClassificationInterpretation": object,
    }  # fmt: skip
    code = source("models/qrnn.py").replace("torch.cuda.is_available()", "False")
    exec(code, names)
    code = source("models/awd_lstm.py").replace("            from .qrnn import QRNN\n", "")
    exec(code.split("class TextClassificationInterpretation")[0], names)
    return SimpleNamespace(**names)
