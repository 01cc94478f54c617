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
    from ulmfit_fast.estimator import ULMFiTClassifier, ULMFiTVectorizer
    from ulmfit_fast.few_labels.self_train import self_train
    from ulmfit_fast.few_labels.train_linear import LinearConfig, train_linear
    from ulmfit_fast.inference.stream import TextStream
    from ulmfit_fast.interop.fastai import import_language_model
    from ulmfit_fast.interop.fastai_classifier import import_classifier
    from ulmfit_fast.interop.fastai_export import save_fastai
    from ulmfit_fast.multitask import LabelledTexts, finetune_multitask
    from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
    from ulmfit_fast.nn.bpt3c import BPT3C, BPT3CConfig
    from ulmfit_fast.nn.classifier import DocumentStream, TextClassifier
    from ulmfit_fast.nn.language_model import LanguageModel
    from ulmfit_fast.nn.lstm import WeightDropLSTM
    from ulmfit_fast.nn.qrnn import QRNN, QRNNConfig
    from ulmfit_fast.nn.qrnn_layer import QRNNLayer
    from ulmfit_fast.nn.replace import replace_lstm, to_nn_lstm
    from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, finetune_pretrained, pretrain_lm
    from ulmfit_fast.text.tokenizer import Tokenizer
    from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig
    from ulmfit_fast.training.lr_finder import find_lr
    from ulmfit_fast.training.lr_range import LRFinding, lr_range_test
    from ulmfit_fast.training.optim import L2SP, NTASGD, AveragedWeights
    from ulmfit_fast.training.rates import discriminative_param_groups
    from ulmfit_fast.training.schedule_plot import plot_schedule
    from ulmfit_fast.training.schedules import (
        OneCycle,
        Schedule,
        ScheduledLR,
        SlantedTriangularLR,
        cosine_annealing,
        inverse_square_root,
        linear_decay,
        one_cycle,
        one_cycle_momentum,
        reverse_annealing,
        slanted_triangular,
    )
    from ulmfit_fast.training.search import SearchResult, parse_space, search
    from ulmfit_fast.training.self_training import SelfTrainingConfig
    from ulmfit_fast.training.strategy import ULMFiTStrategy
    from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel
    from ulmfit_fast.training.unfreezing import (
        ChainThaw,
        GradualUnfreezing,
        ScheduledUnfreezing,
        StepwiseUnfreezing,
        depth_blocks,
        depth_layers,
        layer_groups,
    )

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
    "L2SP": "training.optim",
    "LRFinding": "training.lr_range",
    "LabelledTexts": "multitask",
    "LanguageModel": "nn.language_model",
    "LinearConfig": "few_labels.train_linear",
    "NTASGD": "training.optim",
    "OneCycle": "training.schedules",
    "PretrainConfig": "training.config",
    "QRNN": "nn.qrnn",
    "QRNNConfig": "nn.qrnn",
    "QRNNLayer": "nn.qrnn_layer",
    "Schedule": "training.schedules",
    "ScheduledLR": "training.schedules",
    "ScheduledUnfreezing": "training.unfreezing",
    "SearchResult": "training.search",
    "SelfTrainingConfig": "training.self_training",
    "SlantedTriangularLR": "training.schedules",
    "StepwiseUnfreezing": "training.unfreezing",
    "TextClassifier": "nn.classifier",
    "TextStream": "inference.stream",
    "Tokenizer": "text.tokenizer",
    "TrainedClassifier": "training.trained",
    "TrainedLanguageModel": "training.trained",
    "TrainingDivergedError": "core.errors",
    "TrainingInterrupted": "core.errors",
    "ULMFiTClassifier": "estimator",
    "ULMFiTVectorizer": "estimator",
    "ULMFiTStrategy": "training.strategy",
    "WeightDropLSTM": "nn.lstm",
    "cosine_annealing": "training.schedules",
    "depth_blocks": "training.unfreezing",
    "depth_layers": "training.unfreezing",
    "discriminative_param_groups": "training.rates",
    "find_lr": "training.lr_finder",
    "finetune_classifier": "pipeline",
    "finetune_lm": "pipeline",
    "finetune_multitask": "multitask",
    "finetune_pretrained": "pipeline",
    "import_classifier": "interop.fastai_classifier",
    "import_language_model": "interop.fastai",
    "inverse_square_root": "training.schedules",
    "layer_groups": "training.unfreezing",
    "linear_decay": "training.schedules",
    "lr_range_test": "training.lr_range",
    "one_cycle": "training.schedules",
    "one_cycle_momentum": "training.schedules",
    "ops": "ops",
    "parse_space": "training.search",
    "plot_schedule": "training.schedule_plot",
    "pretrain_lm": "pipeline",
    "replace_lstm": "nn.replace",
    "reverse_annealing": "training.schedules",
    "save_fastai": "interop.fastai_export",
    "search": "training.search",
    "self_train": "few_labels.self_train",
    "slanted_triangular": "training.schedules",
    "to_nn_lstm": "nn.replace",
    "train_linear": "few_labels.train_linear",
}

__all__ = [
    "AWDLSTM",
    "BPT3C",
    "L2SP",
    "NTASGD",
    "QRNN",
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
    "LRFinding",
    "LabelledTexts",
    "LanguageModel",
    "LinearConfig",
    "OneCycle",
    "PretrainConfig",
    "QRNNConfig",
    "QRNNLayer",
    "Schedule",
    "ScheduledLR",
    "ScheduledUnfreezing",
    "SearchResult",
    "SelfTrainingConfig",
    "SlantedTriangularLR",
    "StepwiseUnfreezing",
    "TextClassifier",
    "TextStream",
    "Tokenizer",
    "TrainedClassifier",
    "TrainedLanguageModel",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "ULMFiTClassifier",
    "ULMFiTStrategy",
    "ULMFiTVectorizer",
    "WeightDropLSTM",
    "cosine_annealing",
    "depth_blocks",
    "depth_layers",
    "discriminative_param_groups",
    "find_lr",
    "finetune_classifier",
    "finetune_lm",
    "finetune_multitask",
    "finetune_pretrained",
    "import_classifier",
    "import_language_model",
    "inverse_square_root",
    "layer_groups",
    "linear_decay",
    "lr_range_test",
    "one_cycle",
    "one_cycle_momentum",
    "ops",
    "parse_space",
    "plot_schedule",
    "pretrain_lm",
    "replace_lstm",
    "reverse_annealing",
    "save_fastai",
    "search",
    "self_train",
    "slanted_triangular",
    "to_nn_lstm",
    "train_linear",
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
