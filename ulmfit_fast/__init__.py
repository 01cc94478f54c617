"""ULMFiT text classification on native kernels.

The layer (``WeightDropLSTM``, ``ops``), the models and the fine-tuning tools need torch alone; what reads text needs
``pip install ulmfit_fast[text]`` and is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

from ulmfit_fast import ops
from ulmfit_fast.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.bpt3c import BPT3C
from ulmfit_fast.classifier import DocumentStream, TextClassifier
from ulmfit_fast.errors import InputError, TrainingDivergedError, TrainingInterrupted
from ulmfit_fast.language_model import LanguageModel
from ulmfit_fast.lstm import WeightDropLSTM
from ulmfit_fast.schedules import SlantedTriangularLR, slanted_triangular
from ulmfit_fast.unfreezing import GradualUnfreezing, discriminative_param_groups, layer_groups

__version__ = "0.1.0"

# Names that need the text extra, and where they live.
_TEXT = {
    "ClassifierConfig": "config",
    "FinetuneLMConfig": "config",
    "PretrainConfig": "config",
    "Tokenizer": "text.tokenizer",
    "ULMFiTClassifier": "estimator",
    "finetune_classifier": "pipeline",
    "finetune_lm": "pipeline",
    "pretrain_lm": "pipeline",
}

__all__ = [
    "AWDLSTM",
    "BPT3C",
    "AWDLSTMConfig",
    "ClassifierConfig",
    "DocumentStream",
    "FinetuneLMConfig",
    "GradualUnfreezing",
    "InputError",
    "LanguageModel",
    "PretrainConfig",
    "SlantedTriangularLR",
    "TextClassifier",
    "Tokenizer",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "ULMFiTClassifier",
    "WeightDropLSTM",
    "discriminative_param_groups",
    "finetune_classifier",
    "finetune_lm",
    "layer_groups",
    "ops",
    "pretrain_lm",
    "slanted_triangular",
]


def __getattr__(name: str) -> Any:
    if name not in _TEXT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_TEXT[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ulmfit_fast"):
            raise
        raise ImportError(
            f"ulmfit_fast.{name} needs {error.name}, which is not installed; pip install 'ulmfit_fast[text]'"
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
