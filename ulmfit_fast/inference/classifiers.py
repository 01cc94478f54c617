"""Classifiers read from folders, ready to predict: one, or several whose mean counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.inference.prediction import MAX_TOKENS, activated_of
from ulmfit_fast.inference.stream import TextStream
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.storage.both_directions import members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import UnknownTokens


@dataclass(frozen=True)
class Classifiers:
    """Models with their tokenizers and tasks, which are of one type and have the same labels."""

    members: list[tuple[TextClassifier, Tokenizer, Task]]
    precision: str = "float32"  # of the computation: "int8" is the models' own

    @classmethod
    def load(cls, folders: Sequence[Path], device: str = "auto", precision: str = "float32") -> Classifiers:
        """Those of folders, each of one model or of one for each direction.

        Args:
            folders: at least one; or names of installed models.
            device: one of ``core.device.DEVICES``.
            precision: "float32", "bfloat16", or "int8", which quantizes the models.

        Raises:
            InputError: a folder that cannot be read, models that do not go together, a device or precision that they
                do not have.
        """
        found: list[tuple[TextClassifier, Tokenizer, Task]] = []
        for folder in (member for given in folders for member in members(find_pretrained(given))):
            model, tokenizer, task = load_classifier(folder)
            first = found[0][2] if found else task
            if task.type != first.type:
                raise InputError(
                    f"{folder}: has another task than {folders[0]} ({task.type} and {first.type}); only classifiers of "
                    "one task go together"
                )
            if [(type(label), label) for label in task.labels] != [(type(label), label) for label in first.labels]:
                raise InputError(
                    f"{folder}: has other labels than {folders[0]} ({task.labels!r} and {first.labels!r}); only "
                    "classifiers of the same labels go together"
                )
            if precision == "int8":
                model = model.quantize()
            found.append((model.to(_device_of(model, folder, device, precision)), tokenizer, task))
        return cls(found, "float32" if precision == "int8" else precision)

    @property
    def task(self) -> Task:
        return self.members[0][2]

    @property
    def computes_in(self) -> str:
        """ "int8" where the models are quantized, else the precision."""
        return "int8" if is_quantized(self.members[0][0]) else self.precision

    def activated(
        self,
        texts: Sequence[str],
        batch_size: int = 64,
        max_tokens: int = MAX_TOKENS,
        unknown: Sequence[UnknownTokens] | None = None,
    ) -> np.ndarray:
        """What ``predict`` computes of these texts, to the bit: float32 [len(texts), ...]. Shows nothing.

        Args:
            texts: at least one.
            batch_size, max_tokens: of a batch; they do not change the result.
            unknown: of each member, counts the tokens; None: nobody does.

        Raises:
            InputError: a model computes NaN.
        """
        found = []
        with progress_bar("predict", 0, "tok", enabled=False) as bar:
            for place, (model, tokenizer, task) in enumerate(self.members):
                encoded = tokenizer.encode(texts)
                ids = list(encoded if unknown is None else unknown[place].watch(encoded))
                found.append(activated_of(model, task, ids, batch_size, max_tokens, self.precision, bar))
        return found[0] if len(found) == 1 else np.mean(found, axis=0)

    def stream(self) -> TextStream:
        """Reads one text as it comes.

        Raises:
            ValueError: several models, one that reads from a text's end, or one that cannot read piece by piece.
        """
        if len(self.members) > 1:
            raise InputError("the mean of several models is not computed piece by piece; predict on the whole text")
        return TextStream(*self.members[0])


def _device_of(model: TextClassifier, folder: Path, device: str, precision: str) -> torch.device:
    if not is_quantized(model):
        return choose_device(device)
    if precision == "bfloat16":
        raise InputError(f"{folder}: holds an int8 model; --precision bfloat16 needs the float32 model it was made of")
    if device == "cuda":
        raise InputError("--device cuda: int8 computes on the CPU alone; leave out --device or --precision")
    return choose_device("cpu")
