"""``ULMFiTClassifier``: the three stages behind scikit-learn's ``fit`` and ``predict``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import r2_score
from sklearn.utils import InputTags, RegressorTags, Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.inference.stream import TextStream
from ulmfit_fast.interop.hub_methods import HubMethods
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, labelled_dataset, pretrain_lm
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import output_folder, read_training_args, remove_run, save_model
from ulmfit_fast.tasks.label_sets import is_table
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import TASKS
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.training.config import OF_A_NEW_MODEL, ClassifierConfig, FinetuneLMConfig, PretrainConfig
from ulmfit_fast.training.history import History
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

_NAME = "ULMFiTClassifier"  # in messages
_CONFIGURATIONS: dict[str, type[PretrainConfig | FinetuneLMConfig | ClassifierConfig]] = {
    "pretrain_config": PretrainConfig, "finetune_config": FinetuneLMConfig, "classifier_config": ClassifierConfig,
}  # fmt: skip


def _has_probabilities(estimator: ULMFiTClassifier) -> bool:
    """Whether there are any, for a method that exists only then. Raises AttributeError where not."""
    if estimator._predicts_numbers():
        raise AttributeError(f"{_NAME}: this task predicts numbers, which have no probabilities")
    return True


class ULMFiTClassifier(HubMethods, ClassifierMixin, BaseEstimator):
    """Text classifier by universal language model fine-tuning.

    ``fit`` fine-tunes a language model on all texts it is given, labelled and unlabelled, then trains the classifier on
    the labelled ones, by default gradually unfreezing it. Without a pretrained model the language model starts from
    nothing on the same texts.

    Args:
        pretrained: a language model: its folder (``pretrain-lm``, ``import-lm`` or ``finetune-lm``), the name of an
            installed one ("en"), of one in a hub ("hf://owner/name"), or None.
        pretrain_config: configuration of the language model that is made where ``pretrained`` is None. None means
            ``PretrainConfig()``.
        finetune_config: of its fine-tuning where ``pretrained`` is given. None means ``FinetuneLMConfig()``.
        classifier_config: configuration of the classifier, whose encoder is the language model's. None means
            ``ClassifierConfig()``.
        batch_size: texts at a time in prediction. It does not change the result.
        precision: of prediction, "float32" or "bfloat16" (autocast). Each configuration has that of its training.
        class_weight: what a text counts in the loss. None: all texts count alike. "balanced": inversely to the number
            of texts of their class. Or a mapping from labels to weights.
        warm_start: True: a second ``fit`` goes on with the classifier that is there, new labels included, and leaves
            the language model as it is. False: it starts again.
        seed: overrides the configurations' seeds, if not None.
        progress: show progress bars on a terminal.
        task: what is predicted. "single_label": one of several. "binary": one of two, by one output. "multi_label":
            several at once. "ordinal": one of several numbers that have an order. "regression": a number. None: as
            ``classifier_config.task`` says, by default several at once where a text has a list of labels, else one of
            several.
        calibrate: make probabilities honest by the validation texts, where ``fit`` is given some. False: never.

    Attributes:
        classes_: the labels, sorted, in the order of ``predict_proba``'s columns; with "regression" there are none.
        history_: what every epoch of every stage measured.
        model_, tokenizer_, task_: the trained parts.
    """

    def __init__(
        self,
        pretrained: str | Path | None = None,
        *,
        pretrain_config: PretrainConfig | None = None,
        finetune_config: FinetuneLMConfig | None = None,
        classifier_config: ClassifierConfig | None = None,
        batch_size: int = 64,
        precision: str = "float32",
        class_weight: str | Mapping[Label, float] | None = None,
        warm_start: bool = False,
        seed: int | None = None,
        progress: bool = True,
        task: str | None = None,
        calibrate: bool = True,
    ) -> None:
        self.pretrained = pretrained
        self.pretrain_config = pretrain_config
        self.finetune_config = finetune_config
        self.classifier_config = classifier_config
        self.batch_size = batch_size
        self.precision = precision
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.seed = seed
        self.progress = progress
        self.task = task
        self.calibrate = calibrate

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments; with ``deep`` also the configurations' fields, as ``classifier_config__lr``."""
        parameters: dict[str, Any] = super().get_params(deep=False)
        for name, kind in _CONFIGURATIONS.items() if deep else ():
            config = kind() if parameters[name] is None else parameters[name]
            if not isinstance(config, kind):
                continue  # fit says so
            unused = OF_A_NEW_MODEL if name == "classifier_config" else ()  # its encoder is the language model's
            parameters |= {f"{name}__{f.name}": getattr(config, f.name) for f in fields(config) if f.name not in unused}
        return parameters

    def set_params(self, **parameters: Any) -> ULMFiTClassifier:
        """Set arguments by name, single fields of configurations by ``classifier_config__lr``, as GridSearchCV does."""
        changes: dict[str, dict[str, Any]] = {}
        unknown = sorted(parameters.keys() - self.get_params().keys())
        if unknown:
            raise ValueError(f"{_NAME} has no parameter {unknown[0]!r}; get_params() lists them")
        for parameter, value in parameters.items():
            name, _, field = parameter.partition("__")
            if field:
                changes.setdefault(name, {})[field] = value
            else:
                setattr(self, name, value)
        for name, values in changes.items():  # of a configuration that the same call may have set
            setattr(self, name, replace(self._configuration(name), **values))
        return self

    def fit(
        self,
        texts: Iterable[str],
        labels: Iterable[Any],
        unlabeled: Iterable[str] | None = None,
        sample_weight: Any = None,
        valid_texts: Iterable[str] | None = None,
        valid_labels: Iterable[Any] | None = None,
    ) -> ULMFiTClassifier:
        """Train on ``texts`` and their ``labels``.

        Args:
            texts, labels: one label for each text. Or a list of labels for each; or zeros and ones [len(texts), K], as
                scikit-learn writes several labels, and ``predict`` then does, too; or, with the task "regression", a
                number for each.
            unlabeled: texts that join in the language model's fine-tuning.
            sample_weight: what each text counts in the classifier's loss, numbers [len(texts)]; None: all alike.
            valid_texts, valid_labels: to choose the classifier's best epoch by, and to calibrate; without them the last
                epoch is kept.

        Raises:
            TypeError: something among the texts that is no text.
            InputError: fewer than two labels, lengths that differ, too little text, an unusable pretrained model.
            TrainingDivergedError: the loss became NaN or infinite.
        """
        for name in _CONFIGURATIONS:
            self._configuration(name)
        goes_on = self.warm_start and hasattr(self, "model_")
        config, weights = self._classifier_config()
        labels = labels if hasattr(labels, "__len__") else list(labels)
        data = labelled_dataset(
            _NAME, texts, labels, config, class_weight=weights, known=self.task_ if goes_on else None,
            weights=sample_weight, valid_texts=valid_texts, valid_labels=valid_labels,
        )  # fmt: skip
        more = as_texts(_NAME, unlabeled, "unlabeled") if unlabeled is not None else []
        base = self._trained() if goes_on else self._language_model([*data.texts, *more])
        trained = finetune_classifier(
            data.texts, data.labels or [], base, config,
            sample_weight=data.weights, class_weight=weights,
            valid_texts=None if data.valid is None else data.valid.texts,
            valid_labels=None if data.valid is None else data.valid.labels,
            progress=self.progress,
        )  # fmt: skip
        self._as_table = is_table(labels)
        self._take(replace(trained, history=History(base.history.records + trained.history.records)))
        return self

    def _classifier_config(self) -> tuple[ClassifierConfig, Mapping[Label, float] | None]:
        """The configuration, and the weights of classes that are not a matter of it."""
        config: ClassifierConfig = self._seeded(self._configuration("classifier_config"))
        config = replace(config, calibrate=self.calibrate and config.calibrate)
        if self.task is not None:
            config = replace(config, task=self.task)
        if isinstance(self.class_weight, str):
            return replace(config, class_weight=self.class_weight), None
        return config, self.class_weight

    def _language_model(self, texts: list[str]) -> TrainedLanguageModel:
        """Stage two, or stage one where there is nothing to go on with."""
        base = None if self.pretrained is None else TrainedLanguageModel.load(find_pretrained(self.pretrained))
        self._check_direction(base)
        if base is None:
            return pretrain_lm(texts, self._seeded(self._configuration("pretrain_config")), progress=self.progress)
        return finetune_lm(texts, base, self._seeded(self._configuration("finetune_config")), progress=self.progress)

    def _trained(self) -> TrainedClassifier:
        return TrainedClassifier(self.model_, self.tokenizer_, self.task_, self.history_)

    def predict(self, texts: Sequence[str], abstain: float | None = None, reject_label: Any = None) -> np.ndarray:
        """What is predicted of each text. An empty text gets a prediction, too.

        Args:
            texts: to predict.
            abstain: where the probability of the label is below this, the prediction is ``reject_label``.
            reject_label: stands for no label.

        Returns:
            A label each, the most probable one; of several labels a list each, in an array of objects, or zeros and
            ones where ``fit`` was given such; with "regression" a number each.

        Raises:
            InputError: ``abstain`` with a task that has no confidence: several labels, a number.
        """
        check_is_fitted(self)
        if abstain is not None and self.task_.confidence(self.task_.examples()) is None:
            raise InputError(f"{_NAME}: abstain: the task {self.task_.type} has no confidence; leave it out")
        activated = self._activated(texts)
        predictions = self.task_.decode(activated)
        if abstain is not None:
            confidence = self.task_.confidence(activated)
            assert confidence is not None
            predictions = predictions.astype(object)
            predictions[confidence < abstain] = reject_label
        if getattr(self, "_as_table", False):
            return self.task_.encode(predictions.tolist(), "predictions").numpy().astype(np.int64)
        return predictions

    def score(self, texts: Sequence[str], labels: Iterable[Any], sample_weight: Any = None) -> float:
        """The share of texts whose prediction is right, for several labels all of them; of numbers R2."""
        check_is_fitted(self)
        if self.task_.labels and self.task_.label_delimiter is None:
            return float(super().score(texts, labels, sample_weight))
        expected, predicted = self.task_.read(labels), self.task_.decode(self._activated(texts))
        if not self.task_.labels:
            return float(r2_score(expected, predicted, sample_weight=sample_weight))
        right = [set(one) == set(other) for one, other in zip(expected, predicted, strict=True)]
        return float(np.average(right, weights=sample_weight))

    @available_if(_has_probabilities)
    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of each class for each text, [len(texts), len(classes_)]; of several labels one each."""
        return self._activated(texts)

    def _activated(self, texts: Sequence[str]) -> np.ndarray:
        check_is_fitted(self)
        return predict_probabilities(
            self.model_,
            self.tokenizer_,
            self.task_,
            as_texts(_NAME, texts),
            self.batch_size,
            self.progress,
            precision=self.precision,
        )  # fmt: skip

    def quantize(self) -> ULMFiTClassifier:
        """A copy of the fitted classifier that predicts in int8: faster, and a quarter of the memory and of the folder.

        Nothing is calibrated. Predictions differ a little from this estimator's, which stays as it is. The copy
        predicts, streams, is saved and loaded; it cannot go on training (``fit`` with ``warm_start``).

        Raises:
            InputError: the model's encoder has hooks.
        """
        check_is_fitted(self)
        quantized = ULMFiTClassifier(**self.get_params(deep=False) | {"precision": "float32"})
        quantized._take(replace(self._trained(), model=self.model_.quantize()))
        quantized._as_table = getattr(self, "_as_table", False)
        return quantized

    def stream(self) -> TextStream:
        """Reads one text as it comes and knows the prediction so far; see ``TextStream``."""
        check_is_fitted(self)
        return TextStream(self.model_, self.tokenizer_, self.task_)

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a model folder (no pickle) that ``load`` and ``ulmfit-fast predict`` read."""
        check_is_fitted(self)
        arguments = {"stage": "classifier", "estimator": self._to_dict()}
        with output_folder(folder, overwrite):
            save_model(folder, self.model_, self.tokenizer_, self.task_, arguments)
            remove_run(folder)
            if self.history_.records:
                self.history_.write(Path(folder))

    def to_onnx(self, folder: str | Path, *, int8: bool = False, opset: int = 18, overwrite: bool = False) -> None:
        """Write a folder from which onnxruntime predicts without torch and this package; see ``save_onnx``.

        Raises:
            InputError: the folder cannot be used, the classifier is int8 or has hooks that ONNX cannot have.
            ImportError: the extra ``onnx`` is missing.
        """
        check_is_fitted(self)
        from ulmfit_fast.interop.deployment_folder import save_onnx  # an extra

        save_onnx(folder, self._trained(), int8=int8, opset=opset, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> ULMFiTClassifier:
        """Read a model folder, ready to predict on ``device``: "cpu", "cuda", or "auto", a GPU where there is one.

        The estimator has the configurations that the classifier was trained with, so far as the folder knows them: a
        further ``fit`` trains a model of the same kind. With ``warm_start`` set, it goes on with this one.

        Raises:
            InputError: the folder is missing, truncated or foreign; there is no such device.
        """
        trained = TrainedClassifier.load(folder)
        trained.model.to("cpu" if is_quantized(trained.model) else choose_device(device)).eval()
        estimator = cls(**_parameters_of(read_training_args(folder), trained))
        estimator._take(trained)
        estimator._as_table = read_training_args(folder).get("estimator", {}).get("as_table", False)
        return estimator

    def _to_dict(self) -> dict[str, Any]:
        """The constructor's arguments as JSON can hold them."""
        configurations = {name: asdict(self._configuration(name)) for name in _CONFIGURATIONS}
        weights = self.class_weight
        return configurations | {
            "pretrained": None if self.pretrained is None else str(self.pretrained),
            "batch_size": self.batch_size, "precision": self.precision, "seed": self.seed,
            "task": self.task, "calibrate": self.calibrate, "as_table": getattr(self, "_as_table", False),
            "class_weight": list(weights.items()) if isinstance(weights, Mapping) else weights,
        }  # fmt: skip

    def _predicts_numbers(self) -> bool:
        if hasattr(self, "task_"):
            return self.task_.predicts_numbers
        asked = getattr(self.classifier_config, "task", None) if self.task is None else self.task
        return asked in TASKS and TASKS[asked].predicts_numbers

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = InputTags(one_d_array=True, two_d_array=False, string=True)
        if self._predicts_numbers():
            tags.estimator_type, tags.classifier_tags, tags.regressor_tags = "regressor", None, RegressorTags()
        else:
            tags.classifier_tags.multi_label = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def _configuration(self, name: str) -> Any:
        """The given configuration or the default one. Raises TypeError where it is of another kind."""
        config, kind = getattr(self, name), _CONFIGURATIONS[name]
        if config is not None and not isinstance(config, kind):
            raise TypeError(f"{_NAME}: {name} must be a {kind.__name__}, got {type(config).__name__}")
        return kind() if config is None else config

    def _check_direction(self, base: TrainedLanguageModel | None) -> None:
        """It is the language model's, whatever the other configurations say."""
        direction = self._configuration("pretrain_config").direction if base is None else base.tokenizer.direction
        for name in ("pretrain_config", "classifier_config"):
            if self._configuration(name).direction == "backward" and direction == "forward":
                raise InputError(
                    f"{_NAME}: {name}.direction is 'backward', but the language model reads forward; give a backward "
                    "one as pretrained, or without pretrained pretrain_config=PretrainConfig(direction='backward')"
                )

    def _seeded(self, config: Any) -> Any:
        return config if self.seed is None else replace(config, seed=self.seed)

    def _take(self, trained: TrainedClassifier) -> None:
        self.model_, self.tokenizer_, self.history_ = trained.model, trained.tokenizer, trained.history
        self.task_ = trained.task
        if trained.labels:
            self.classes_ = np.asarray(trained.labels)


def _parameters_of(training_args: dict[str, Any], trained: TrainedClassifier) -> dict[str, Any]:
    """Constructor arguments that would make such a classifier, from what its folder says and from its sizes."""
    saved = training_args.get("estimator", {})
    encoder = trained.model.bpt3c.encoder.config
    sizes = {
        "embedding_size": encoder.embedding_size, "hidden_size": encoder.hidden_size, "num_layers": encoder.num_layers,
        "direction": trained.tokenizer.direction,
    }  # fmt: skip
    parameters: dict[str, Any] = {
        name: saved[name]
        for name in ("pretrained", "batch_size", "precision", "seed", "task", "calibrate")
        if name in saved
    }
    weights = saved.get("class_weight")
    parameters["class_weight"] = dict(map(tuple, weights)) if isinstance(weights, list) else weights
    written_by_train = {} if saved else training_args
    for name, kind in _CONFIGURATIONS.items():
        values = saved.get(name, written_by_train if name == "classifier_config" else {})
        known = {field.name for field in fields(kind)}
        of_model = {key: value for key, value in sizes.items() if key in known and not saved}
        parameters[name] = kind(**{key: value for key, value in values.items() if key in known} | of_model)
    return parameters
