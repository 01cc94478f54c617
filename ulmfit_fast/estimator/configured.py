"""The arguments of ``ULMFiTClassifier`` as scikit-learn and model folders want them: by name, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Self

from sklearn.base import BaseEstimator

from ulmfit_fast.tasks.task import TASKS
from ulmfit_fast.training.config import OF_A_NEW_MODEL, ClassifierConfig, FinetuneLMConfig, PretrainConfig
from ulmfit_fast.training.self_training import SelfTrainingConfig
from ulmfit_fast.training.trained import TrainedClassifier

NAME = "ULMFiTClassifier"  # in messages
CONFIGURATIONS: dict[str, type[PretrainConfig | FinetuneLMConfig | ClassifierConfig]] = {
    "pretrain_config": PretrainConfig, "finetune_config": FinetuneLMConfig, "classifier_config": ClassifierConfig,
}  # fmt: skip


class Configured(BaseEstimator):
    """An estimator whose arguments hold three configurations; their fields are parameters, too."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments; with ``deep`` also the configurations' fields, as ``classifier_config__lr``."""
        parameters: dict[str, Any] = super().get_params(deep=False)
        for name, kind in CONFIGURATIONS.items() if deep else ():
            config = kind() if parameters[name] is None else parameters[name]
            if not isinstance(config, kind):
                continue  # fit says so
            unused = OF_A_NEW_MODEL if name == "classifier_config" else ()  # its encoder is the language model's
            parameters |= {f"{name}__{f.name}": getattr(config, f.name) for f in fields(config) if f.name not in unused}
        return parameters

    def set_params(self, **parameters: Any) -> Self:
        """Set arguments by name, single fields of configurations by ``classifier_config__lr``, as GridSearchCV does."""
        changes: dict[str, dict[str, Any]] = {}
        unknown = sorted(parameters.keys() - self.get_params().keys())
        if unknown:
            raise ValueError(f"{NAME} has no parameter {unknown[0]!r}; get_params() lists them")
        for parameter, value in parameters.items():
            name, _, field = parameter.partition("__")
            if field:
                changes.setdefault(name, {})[field] = value
            else:
                setattr(self, name, value)
        for name, values in changes.items():  # of a configuration that the same call may have set
            setattr(self, name, replace(self._configuration(name), **values))
        return self

    def _to_dict(self) -> dict[str, Any]:
        """The constructor's arguments as JSON can hold them."""
        configurations = {name: asdict(self._configuration(name)) for name in CONFIGURATIONS}
        weights = self.class_weight
        return configurations | {
            "pretrained": self._pretrained_as_text(), "direction": self.direction,
            "batch_size": self.batch_size, "precision": self.precision, "seed": self.seed,
            "task": self.task, "calibrate": self.calibrate, "as_table": getattr(self, "_as_table", False),
            "self_training": None if self.self_training is None else asdict(self.self_training),
            "class_weight": list(weights.items()) if isinstance(weights, Mapping) else weights,
        }  # fmt: skip

    def _pretrained_as_text(self) -> str | list[str] | None:
        given = self.pretrained
        return None if given is None else str(given) if isinstance(given, str | Path) else [str(each) for each in given]

    def _predicts_numbers(self) -> bool:
        if hasattr(self, "task_"):
            return self.task_.predicts_numbers
        asked = getattr(self.classifier_config, "task", None) if self.task is None else self.task
        return asked in TASKS and TASKS[asked].predicts_numbers

    def _configuration(self, name: str) -> Any:
        """The given configuration or the default one. Raises TypeError where it is of another kind."""
        config, kind = getattr(self, name), CONFIGURATIONS[name]
        if config is not None and not isinstance(config, kind):
            raise TypeError(f"{NAME}: {name} must be a {kind.__name__}, got {type(config).__name__}")
        return kind() if config is None else config

    def _seeded(self, config: Any) -> Any:
        return config if self.seed is None else replace(config, seed=self.seed)


def parameters_of(training_args: dict[str, Any], trained: TrainedClassifier) -> dict[str, Any]:
    """Constructor arguments that would make such a classifier, from what its folder says and from its sizes."""
    saved = training_args.get("estimator", {})
    encoder = trained.model.bpt3c.encoder.config
    sizes = {
        "embedding_size": encoder.embedding_size, "hidden_size": encoder.hidden_size, "num_layers": encoder.num_layers,
        "direction": trained.tokenizer.direction,
    }  # fmt: skip
    parameters: dict[str, Any] = {
        name: saved[name]
        for name in ("pretrained", "direction", "batch_size", "precision", "seed", "task", "calibrate")
        if name in saved
    }
    if isinstance(saved.get("pretrained"), list):
        parameters["pretrained"] = tuple(saved["pretrained"])
    if saved.get("self_training"):
        known = {field.name for field in fields(SelfTrainingConfig)}
        values = {name: value for name, value in saved["self_training"].items() if name in known}
        parameters["self_training"] = SelfTrainingConfig(**values)
    weights = saved.get("class_weight")
    parameters["class_weight"] = dict(map(tuple, weights)) if isinstance(weights, list) else weights
    written_by_train = {} if saved else training_args
    for name, kind in CONFIGURATIONS.items():
        values = saved.get(name, written_by_train if name == "classifier_config" else {})
        known = {field.name for field in fields(kind)}
        of_model = {key: value for key, value in sizes.items() if key in known and not saved}
        parameters[name] = kind(**{key: value for key, value in values.items() if key in known} | of_model)
    return parameters
