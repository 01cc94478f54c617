"""``ULMFiTClassifier``: the three stages behind scikit-learn's ``fit`` and ``predict``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import InputTags, RegressorTags, Tags
from sklearn.utils.validation import check_is_fitted

from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.estimator.configured import CONFIGURATIONS, NAME, parameters_of
from ulmfit_fast.estimator.directions import BOTH, Pretrained, beginnings
from ulmfit_fast.estimator.predicts import Predicts
from ulmfit_fast.few_labels.label_words import LabelWords
from ulmfit_fast.few_labels.self_train import check_words_have_a_use, self_train
from ulmfit_fast.interop.hub_methods import HubMethods
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, labelled_dataset, pretrain_lm
from ulmfit_fast.storage.both_directions import has_both, join, members
from ulmfit_fast.storage.model_folder import read_training_args, remove_run, save_model
from ulmfit_fast.storage.output_folder import output_folder
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.label_sets import is_table
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.text.tokenizer import DIRECTIONS
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig
from ulmfit_fast.training.history import History
from ulmfit_fast.training.self_training import SelfTrainingConfig
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel


class ULMFiTClassifier(HubMethods, Predicts):
    """Text classifier by universal language model fine-tuning.

    ``fit`` fine-tunes a language model on all texts it is given, labelled and unlabelled, then trains the classifier on
    the labelled ones, by default gradually unfreezing it. Without a pretrained model the language model starts from
    nothing on the same texts.

    Args:
        pretrained: a language model: its folder (``pretrain-lm``, ``import-lm`` or ``finetune-lm``), the name of an
            installed one ("en"), of one in a hub ("hf://owner/name"), or None. Or two: (forward, backward).
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
        direction: in which texts are read, "forward" or "backward"; "both": by two models, which are fitted one after
            the other, and the mean of whose probabilities is predicted. None: as ``pretrained`` does, both where it has
            both; where it is None, too, as ``pretrain_config.direction`` says.
        self_training: the classifier goes on with its own labels of ``fit``'s ``unlabeled`` texts (``self_train``).
            None: it does not.

    Attributes:
        classes_: the labels, sorted, in the order of ``predict_proba``'s columns; with "regression" there are none.
        history_: what every epoch of every stage measured.
        model_, tokenizer_, task_: the trained parts.
        backward_: of both directions the backward classifier, a ``TrainedClassifier`` with these four; the attributes
            above are then the forward one's.
    """

    def __init__(
        self,
        pretrained: Pretrained = None,
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
        direction: str | None = None,
        self_training: SelfTrainingConfig | None = None,
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
        self.direction = direction
        self.self_training = self_training

    def fit(
        self,
        texts: Iterable[str],
        labels: Iterable[Any],
        unlabeled: Iterable[str] | None = None,
        sample_weight: Any = None,
        valid_texts: Iterable[str] | None = None,
        valid_labels: Iterable[Any] | None = None,
        label_words: LabelWords | None = None,
    ) -> ULMFiTClassifier:
        """Train on ``texts`` and their ``labels``.

        Args:
            texts, labels: one label for each text. Or a list of labels for each; or zeros and ones [len(texts), K], as
                scikit-learn writes several labels, and ``predict`` then does, too; or, with the task "regression", a
                number for each.
            unlabeled: texts that join in the language model's fine-tuning, and in self-training.
            sample_weight: what each text counts in the classifier's loss, numbers [len(texts)]; None: all alike.
            valid_texts, valid_labels: to choose the classifier's best epoch by, and to calibrate; without them the last
                epoch is kept.
            label_words: for each label one word or several that stand for it, as in ``self_train``; for self-training.
                Of both directions the forward model has them.

        Raises:
            TypeError: something among the texts that is no text.
            InputError: fewer than two labels, lengths that differ, too little text, an unusable pretrained model.
            TrainingDivergedError: the loss became NaN or infinite.
        """
        for name in CONFIGURATIONS:
            self._configuration(name)
        goes_on = self.warm_start and hasattr(self, "model_")
        config, weights = self._classifier_config()
        labels = labels if hasattr(labels, "__len__") else list(labels)
        data = labelled_dataset(
            NAME, texts, labels, config, class_weight=weights, known=self.task_ if goes_on else None,
            weights=sample_weight, valid_texts=valid_texts, valid_labels=valid_labels,
        )  # fmt: skip
        more = as_texts(NAME, unlabeled, "unlabeled") if unlabeled is not None else []
        if self.self_training is not None and not more:
            raise InputError(f"{NAME}: self_training needs texts without labels; give fit some as unlabeled")
        if label_words is not None:
            if self.self_training is None:
                raise InputError(
                    f"{NAME}: label_words are for self-training; set self_training=SelfTrainingConfig(), or use a "
                    "ULMFiTVectorizer with label_words"
                )
            check_words_have_a_use(NAME, label_words, data.labels or [], self.self_training)
        bases: Iterable[TrainedClassifier | TrainedLanguageModel] = (
            self._members() if goes_on else self._language_models([*data.texts, *more])
        )
        fitted: list[TrainedClassifier] = []
        for base in bases:
            second = bool(fitted)  # which is backward, and cannot say what comes after a text
            trained = self._train(data, more, base, config, weights, None if second else label_words)
            fitted.append(replace(trained, history=History(base.history.records + trained.history.records)))
        self._as_table = is_table(labels)
        self._take(fitted)
        return self

    def _train(
        self, data: Dataset, more: list[str], base: TrainedLanguageModel | TrainedClassifier, config: ClassifierConfig,
        class_weight: Mapping[Label, float] | None, label_words: LabelWords | None,
    ) -> TrainedClassifier:  # fmt: skip
        """Stage three, once or in rounds."""
        options: dict[str, Any] = {
            "sample_weight": data.weights, "class_weight": class_weight, "progress": self.progress,
            "valid_texts": None if data.valid is None else data.valid.texts,
            "valid_labels": None if data.valid is None else data.valid.labels,
        }  # fmt: skip
        if self.self_training is None:
            return finetune_classifier(data.texts, data.labels or [], base, config, **options)
        return self_train(
            data.texts, data.labels or [], more, base, self.self_training, config, label_words=label_words, **options
        ).models[0]

    def _classifier_config(self) -> tuple[ClassifierConfig, Mapping[Label, float] | None]:
        """The configuration, and the weights of classes that are not a matter of it."""
        config: ClassifierConfig = self._seeded(self._configuration("classifier_config"))
        config = replace(config, calibrate=self.calibrate and config.calibrate)
        if self.task is not None:
            config = replace(config, task=self.task)
        if isinstance(self.class_weight, str):
            return replace(config, class_weight=self.class_weight), None
        return config, self.class_weight

    def _language_models(self, texts: list[str]) -> Iterator[TrainedLanguageModel]:
        """Stage two, or stage one where there is nothing to go on with, of each direction that is asked for."""
        begins = [
            (None if each.folder is None else TrainedLanguageModel.load(each.folder), each.direction)
            for each in beginnings(self.pretrained, self.direction)
        ]
        for base, direction in begins:  # all of them, before hours of work
            self._check_direction(base, direction)
        for base, direction in begins:
            if base is not None:
                config = self._seeded(self._configuration("finetune_config"))
                yield finetune_lm(texts, base, config, progress=self.progress)
                continue
            config = self._seeded(self._configuration("pretrain_config"))
            if direction is not None:
                config = replace(config, direction=direction)
            yield pretrain_lm(texts, config, progress=self.progress)

    def quantize(self) -> ULMFiTClassifier:
        """A copy of the fitted classifier that predicts in int8: faster, and a quarter of the memory and of the folder.

        Nothing is calibrated. Predictions differ a little from this estimator's, which stays as it is. The copy
        predicts, streams, is saved and loaded; it cannot go on training (``fit`` with ``warm_start``).

        Raises:
            InputError: the model's encoder has hooks.
        """
        check_is_fitted(self)
        quantized = ULMFiTClassifier(**self.get_params(deep=False) | {"precision": "float32"})
        quantized._take([replace(each, model=each.model.quantize()) for each in self._members()])
        quantized._as_table = getattr(self, "_as_table", False)
        return quantized

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write a model folder (no pickle) that ``load`` and ``ulmfit-fast predict`` read."""
        check_is_fitted(self)
        arguments = {"stage": "classifier", "estimator": self._to_dict()}
        trained = self._members()
        with output_folder(folder, overwrite) as path:
            parts = [path] if len(trained) == 1 else [path / direction for direction in DIRECTIONS]
            if has_both(path):  # none any more, until all is there
                (path / "config.json").unlink()
            for part, each in zip(parts, trained, strict=True):
                save_model(part, each.model, each.tokenizer, each.task, arguments)
                remove_run(part)
                if each.history.records:
                    each.history.write(part)
            if len(parts) > 1:
                join(path)

    def to_onnx(self, folder: str | Path, *, int8: bool = False, opset: int = 18, overwrite: bool = False) -> None:
        """Write a folder from which onnxruntime predicts without torch and this package; see ``save_onnx``.

        Raises:
            InputError: the folder cannot be used, the classifier is int8 or has hooks that ONNX cannot have.
            ImportError: the extra ``onnx`` is missing.
        """
        check_is_fitted(self)
        from ulmfit_fast.interop.deployment_folder import save_onnx  # an extra

        save_onnx(folder, self._members(), int8=int8, opset=opset, overwrite=overwrite)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> ULMFiTClassifier:
        """Read a model folder, ready to predict on ``device``: "cpu", "cuda", or "auto", a GPU where there is one.

        The estimator has the configurations that the classifier was trained with, so far as the folder knows them: a
        further ``fit`` trains a model of the same kind. With ``warm_start`` set, it goes on with this one.

        Raises:
            InputError: the folder is missing, truncated or foreign; there is no such device.
        """
        parts = members(folder)
        trained = [TrainedClassifier.load(part) for part in parts]
        for each in trained:
            each.model.to("cpu" if is_quantized(each.model) else choose_device(device)).eval()
        arguments = read_training_args(parts[0])
        estimator = cls(**parameters_of(arguments, trained[0]))
        if len(parts) > 1 and estimator.pretrained is None:
            estimator.direction = BOTH
        estimator._take(trained)
        estimator._as_table = arguments.get("estimator", {}).get("as_table", False)
        return estimator

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

    def _check_direction(self, base: TrainedLanguageModel | None, asked: str | None) -> None:
        """It is the language model's, whatever the other configurations say."""
        made_in = asked or self._configuration("pretrain_config").direction
        direction = made_in if base is None else base.tokenizer.direction
        if asked not in (None, direction):
            raise InputError(f"{NAME}: the language model reads {direction}; give one that reads {asked}")
        for name in ("pretrain_config", "classifier_config"):
            if self._configuration(name).direction == "backward" and direction == "forward":
                raise InputError(
                    f"{NAME}: {name}.direction is 'backward', but the language model reads forward; give a backward "
                    "one as pretrained, or without pretrained pretrain_config=PretrainConfig(direction='backward')"
                )

    def _take(self, trained: Sequence[TrainedClassifier]) -> None:
        first, *more = trained
        self.model_, self.tokenizer_, self.history_, self.task_ = (
            first.model,
            first.tokenizer,
            first.history,
            first.task,
        )
        if hasattr(self, "backward_"):
            del self.backward_
        if more:
            (self.backward_,) = more
        if first.labels:
            self.classes_ = np.asarray(first.labels)
