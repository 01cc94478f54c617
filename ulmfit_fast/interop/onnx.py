"""Models as ONNX files. Needs the extra ``onnx``.

``export_onnx`` writes a model of this package. For one of your own that has ``WeightDropLSTM`` in it:
``torch.onnx.export(model, ..., dynamo=True, custom_translation_table=translation_table())``.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from ulmfit_fast.core.atomic_write import write_atomically
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.interop.deployed import DeployedClassifier
from ulmfit_fast.interop.onnx_int8 import in_int8
from ulmfit_fast.interop.torch_export import (
    LanguageModelStep,
    check_exportable,
    classifier_example,
    language_model_example,
)
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.lstm import WeightDropLSTM
from ulmfit_fast.ops.shared import native

# What torch.full becomes: a dense input's number of rows, the same at every step.
_FILLED = ("Expand", "ConstantOfShape")


LOWEST_OPSET = 18


def export_onnx(
    model: TextClassifier | DeployedClassifier | LanguageModel | WeightDropLSTM, path: str | Path, *,
    opset: int = LOWEST_OPSET, int8: bool = False,
) -> None:  # fmt: skip
    """Write ``model``, in eval mode, to one ONNX file. Batch and length are dynamic; equal within rounding.

    ``save_onnx`` and ``ULMFiTClassifier.to_onnx`` write all that a program needs to predict from texts.

    ================== ========================================== ==============================================
    model              inputs                                     outputs
    ================== ========================================== ==============================================
    DeployedClassifier as TextClassifier                          probabilities [B, K], of regression number [B, 1]
    TextClassifier     tokens int64 [B, T], padded at the end     logits [B, K], without a temperature
                       with any id; lengths int64 [B], in [1, T]
    LanguageModel      tokens int64 [T, B]; h_0, c_0, h_1, ...:   logits [T, B, V]; next_h_0, next_c_0, ...
                       each layer's state [B, size], zeros first
    WeightDropLSTM     input, as the layer takes dense ones       output, h_n, c_n (from a state of zeros)
    ================== ========================================== ==============================================

    Args:
        model: what to write.
        path: of the file.
        opset: version of ONNX's operators, 18 or later.
        int8: of a classifier: weights in int8, a quarter of the size, for onnxruntime alone (``onnx_int8.in_int8``).

    Raises:
        InputError: another kind of model, training mode, weights that are not float32, a projection (ONNX's LSTM has
            none), an opset that is too old or not known; int8 of anything but a classifier.
        ImportError: onnx or onnxscript is missing.
    """
    write_atomically(Path(path), onnx_bytes(model, opset, int8))


def onnx_bytes(
    model: TextClassifier | DeployedClassifier | LanguageModel | WeightDropLSTM, opset: int = LOWEST_OPSET,
    int8: bool = False,
) -> bytes:  # fmt: skip
    """What ``export_onnx`` writes."""
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < LOWEST_OPSET:
        raise InputError(f"export_onnx: opset must be a whole number from {LOWEST_OPSET} on, got {opset!r}")
    if int8 and not isinstance(model, TextClassifier | DeployedClassifier):
        raise InputError(f"export_onnx: int8 is for classifiers, got {type(model).__name__}; leave int8 out")
    if isinstance(model, WeightDropLSTM) and model.proj_size:
        raise InputError("export_onnx: ONNX's LSTM has no projection; proj_size must be 0")
    check_exportable("export_onnx", model)
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            raise InputError(f"export_onnx: weights must be float32, {name} is {parameter.dtype}; call float() first")
    exported: nn.Module = model
    if isinstance(model, TextClassifier):
        example, shapes = classifier_example(model)
        inputs, outputs = ["tokens", "lengths"], ["logits"]
    elif isinstance(model, DeployedClassifier):
        example, shapes = classifier_example(model)
        inputs, outputs = ["tokens", "lengths"], [model.output_name]
    elif isinstance(model, LanguageModel):
        exported = LanguageModelStep(model)
        example, shapes = language_model_example(model)  # type: ignore[assignment]
        states = [f"{part}_{layer}" for layer in range(len(example[1])) for part in ("h", "c")]
        inputs, outputs = ["tokens", *states], ["logits", *(f"next_{name}" for name in states)]
    elif isinstance(model, WeightDropLSTM):
        example, shapes = _layer_example(model)  # type: ignore[assignment]
        inputs, outputs = ["input"], ["output", "h_n", "c_n"]
    else:
        raise InputError(
            f"export_onnx: model must be a TextClassifier, a LanguageModel or a WeightDropLSTM, got "
            f"{type(model).__name__}; for a model of your own see ulmfit_fast.interop.onnx.translation_table"
        )
    table = translation_table()
    with torch.no_grad(), _no_notices():
        program = torch.onnx.export(
            exported, example, dynamo=True, dynamic_shapes=shapes, custom_translation_table=table, input_names=inputs,
            output_names=outputs, opset_version=opset, verbose=False,
        )  # fmt: skip
    assert program is not None
    if int8:
        _fold_weights(program.model)
    proto = program.model_proto
    if (made := next(each.version for each in proto.opset_import if each.domain == "")) != opset:
        raise InputError(f"export_onnx: opset {opset} cannot be made by this torch and onnxscript, which give {made}")
    return (in_int8(proto) if int8 else proto).SerializeToString()


@contextlib.contextmanager
def _no_notices() -> Iterator[None]:
    """Without what torch says of itself as it exports: that torchvision is not there, what it will deprecate."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _fold_weights(model: Any) -> None:
    """Put each LSTM's weights into ONNX's order of gates now, not when the file is loaded."""
    from onnxscript import optimizer

    unlimited = 1 << 40  # bytes
    optimizer.fold_constants(model, input_size_limit=unlimited, output_size_limit=unlimited)
    optimizer.remove_unused_nodes(model)


def translation_table() -> dict[Callable, Callable]:
    """What ``torch.onnx.export(dynamo=True)`` needs to know of our ops: its ``custom_translation_table``.

    For models in eval mode whose ``WeightDropLSTM`` get dense input, float32, of any size, any number of layers, in one
    direction or both, without a projection. Anything else is refused as the model is translated.

    Raises:
        ImportError: onnxscript is missing.
    """
    try:
        from onnxscript import opset18
    except ImportError as error:
        raise ImportError(
            f"ulmfit_fast.interop.onnx needs {error.name}, which is not installed; in ulmfit_fast's source folder: "
            "pip install --no-build-isolation '.[onnx]'"
        ) from error
    op: Any = opset18

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def one_direction(tensor: Any) -> Any:
        return op.Unsqueeze(tensor, ints(0))

    def in_onnx_order(weight: Any) -> Any:
        """A gate a row, [4, ...]; torch's are i, f, g, o, ONNX's i, o, f, g."""
        return op.Gather(op.Reshape(weight, ints(4, -1)), ints(0, 3, 1, 2), axis=0)

    def lstm(
        input: Any, batch_sizes: Any, h0: Any, c0: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any = None,
        bias_hh: Any = None, weight_hr: Any = None, seed: Any = None, weight_dropout: float = 0.0,
        reverse: bool = False, bptt: int = 0, keep: int = 0,
    ) -> tuple[Any, ...]:  # fmt: skip
        producer = batch_sizes.producer()
        _require(weight_hr is None, "ONNX's LSTM has no projection; proj_size must be 0")
        _require(weight_dropout == 0, "in training mode weights are dropped, which ONNX cannot; call eval() first")
        _require(weight_ih.dtype.name == "FLOAT", f"weights must be float32, got {weight_ih.dtype}; call float() first")
        _require(
            producer is not None and producer.op_type in _FILLED,
            "a PackedSequence cannot be translated: give the layer dense input, padded at the end, and leave out "
            "what it computes on padding (as TextClassifier does)",
        )
        hidden, features = c0.shape[1], input.shape[1]
        dense = op.Reshape(input, op.Concat(ints(-1), op.Shape(h0, start=0, end=1), ints(features), axis=0))
        bias = None
        if bias_ih is not None:
            bias = op.Reshape(op.Concat(in_onnx_order(bias_ih), in_onnx_order(bias_hh), axis=0), ints(1, -1))
        weights = [
            op.Reshape(in_onnx_order(weight), ints(1, 4 * hidden, columns))
            for weight, columns in ((weight_ih, features), (weight_hh, hidden))
        ]
        output, h_n, c_n = op.LSTM(
            dense, *weights, bias, None, one_direction(h0), one_direction(c0), hidden_size=hidden,
            direction="reverse" if reverse else "forward",
        )  # fmt: skip
        nothing = op.Constant(value_floats=[0.0])  # gates and cells, for a backward that there is not
        rows = op.Reshape(output, ints(-1, hidden))
        return rows, op.Squeeze(h_n, ints(0)), op.Squeeze(c_n, ints(0)), nothing, nothing

    def embedding(tokens: Any, weight: Any, mask: Any = None) -> Any:
        _require(mask is None, "in training mode rows of the embedding are dropped; call eval() first")
        return op.Gather(weight, tokens, axis=0)

    return {native.lstm.default: lstm, native.embedding.default: embedding}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"ulmfit_fast.interop.onnx: {message}")


def _layer_example(model: WeightDropLSTM) -> tuple[tuple[Tensor], tuple[dict[int, Dim]]]:
    steps, batch = (1, 0) if model.batch_first else (0, 1)
    example = next(model.parameters()).new_zeros(3, 3, model.input_size)
    return (example,), ({steps: Dim("tokens"), batch: Dim("batch")},)
