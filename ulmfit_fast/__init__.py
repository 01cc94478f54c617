"""ULMFiT text classification on native kernels.

The layer (``WeightDropLSTM``, ``ops``), the models and the fine-tuning tools need torch alone; what reads text needs
the extra ``text`` (``pip install --no-build-isolation '.[text]'`` in the source folder), imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ulmfit_fast.core.registration import register_ops_with_torch

if TYPE_CHECKING:
    from ulmfit_fast import ops
    from ulmfit_fast.core.errors import InputError, InputWarning, TrainingDivergedError, TrainingInterrupted
    from ulmfit_fast.estimator import ULMFiTClassifier
    from ulmfit_fast.inference.stream import TextStream
    from ulmfit_fast.interop.fastai import import_language_model
    from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
    from ulmfit_fast.nn.bpt3c import BPT3C, BPT3CConfig
    from ulmfit_fast.nn.classifier import DocumentStream, TextClassifier
    from ulmfit_fast.nn.language_model import LanguageModel
    from ulmfit_fast.nn.lstm import WeightDropLSTM
    from ulmfit_fast.nn.replace import replace_lstm, to_nn_lstm
    from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, finetune_pretrained, pretrain_lm
    from ulmfit_fast.text.tokenizer import Tokenizer
    from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig
    from ulmfit_fast.training.optim import NTASGD, AveragedWeights
    from ulmfit_fast.training.schedules import SlantedTriangularLR, slanted_triangular
    from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel
    from ulmfit_fast.training.unfreezing import ChainThaw, GradualUnfreezing, discriminative_param_groups, layer_groups

__version__ = "0.1.0"

# Where the public names live; imported on first use, so that what only reads text starts without torch.
_MODULES = {
    "AWDLSTM": "nn.awd_lstm",
    "AWDLSTMConfig": "nn.awd_lstm",
    "AveragedWeights": "training.optim",
    "BPT3C": "nn.bpt3c",
    "BPT3CConfig": "nn.bpt3c",
    "ChainThaw": "training.unfreezing",
    "ClassifierConfig": "training.config",
    "DocumentStream": "nn.classifier",
    "FinetuneLMConfig": "training.config",
    "GradualUnfreezing": "training.unfreezing",
    "InputError": "core.errors",
    "InputWarning": "core.errors",
    "LanguageModel": "nn.language_model",
    "NTASGD": "training.optim",
    "PretrainConfig": "training.config",
    "SlantedTriangularLR": "training.schedules",
    "TextClassifier": "nn.classifier",
    "TextStream": "inference.stream",
    "Tokenizer": "text.tokenizer",
    "TrainedClassifier": "training.trained",
    "TrainedLanguageModel": "training.trained",
    "TrainingDivergedError": "core.errors",
    "TrainingInterrupted": "core.errors",
    "ULMFiTClassifier": "estimator",
    "WeightDropLSTM": "nn.lstm",
    "discriminative_param_groups": "training.unfreezing",
    "finetune_classifier": "pipeline",
    "finetune_lm": "pipeline",
    "finetune_pretrained": "pipeline",
    "import_language_model": "interop.fastai",
    "layer_groups": "training.unfreezing",
    "ops": "ops",
    "pretrain_lm": "pipeline",
    "replace_lstm": "nn.replace",
    "slanted_triangular": "training.schedules",
    "to_nn_lstm": "nn.replace",
}

__all__ = [
    "AWDLSTM",
    "BPT3C",
    "NTASGD",
    "AWDLSTMConfig",
    "AveragedWeights",
    "BPT3CConfig",
    "ChainThaw",
    "ClassifierConfig",
    "DocumentStream",
    "FinetuneLMConfig",
    "GradualUnfreezing",
    "InputError",
    "InputWarning",
    "LanguageModel",
    "PretrainConfig",
    "SlantedTriangularLR",
    "TextClassifier",
    "TextStream",
    "Tokenizer",
    "TrainedClassifier",
    "TrainedLanguageModel",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "ULMFiTClassifier",
    "WeightDropLSTM",
    "discriminative_param_groups",
    "finetune_classifier",
    "finetune_lm",
    "finetune_pretrained",
    "import_language_model",
    "layer_groups",
    "ops",
    "pretrain_lm",
    "replace_lstm",
    "slanted_triangular",
    "to_nn_lstm",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ulmfit_fast"):
            raise
        raise ImportError(
            f"ulmfit_fast.{name} needs {error.name}, which is not installed; in ulmfit_fast's source folder: "
            "pip install --no-build-isolation '.[text]'"
        ) from error
    value = module if name == "ops" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


register_ops_with_torch()
