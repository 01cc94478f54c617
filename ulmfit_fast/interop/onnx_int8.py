"""ONNX graphs with int8 weights: a quarter of the size, computed in int8 by onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.ops import quantize_rows

_CONTRIB = "com.microsoft"  # onnxruntime's own operators
_ZERO = 128  # of unsigned bytes


def in_int8(model: Any) -> Any:
    """The same graph, LSTM weights and embedding in int8, each row with one scale, as ``nn.quantized`` has them.

    ``LSTM`` becomes onnxruntime's ``DynamicQuantizeLSTM``, which rounds activations as they come, a batch with one
    scale: other texts of the batch, and padding, change a result a little. Weights are stored as unsigned bytes with
    the zero at 128: with signed ones a processor without VNNI would saturate sums. The embedding's rows are looked up
    in int8. The rest stays float32.

    Args:
        model: an ``onnx.ModelProto``; the weights of its LSTMs are constants.

    Raises:
        InputError: no LSTM with constant weights.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    floats = {x.name: x for x in graph.initializer if x.data_type == onnx.TensorProto.FLOAT}
    added: list[Any] = []
    nodes: list[Any] = []

    def add(name: str, array: np.ndarray) -> str:
        if all(x.name != name for x in added):
            added.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def lstm(node: Any) -> list[Any]:
        quantized: list[str] = []
        names = list(node.input) + [""] * (8 - len(node.input))
        for place in (1, 2):
            name = names[place]
            values, scale = _rows(numpy_helper.to_array(floats[name])[0])
            names[place] = add(f"{name}_int8", (values.T[None].astype(np.int16) + _ZERO).astype(np.uint8))
            quantized += [
                add(f"{name}_scale", scale[None]),
                add(f"{name}_zero", np.full((1, len(scale)), _ZERO, np.uint8)),
            ]
        kept = {x.name: helper.get_attribute_value(x) for x in node.attribute if x.name in ("hidden_size", "direction")}
        return [
            helper.make_node("DynamicQuantizeLSTM", [*names, *quantized], list(node.output), domain=_CONTRIB, **kept)
        ]

    def embedding(node: Any) -> list[Any]:
        name, ids = node.input
        values, scale = _rows(numpy_helper.to_array(floats[name]))
        looked_up, made = (f"{node.output[0]}_{part}" for part in ("int8", "float")), node.output[0]
        whole, as_float = looked_up
        return [
            helper.make_node("Gather", [add(f"{name}_int8", values), ids], [whole]),
            helper.make_node("Cast", [whole], [as_float], to=onnx.TensorProto.FLOAT),
            helper.make_node("Gather", [add(f"{name}_scale", scale[:, None]), ids], [f"{made}_scale"]),
            helper.make_node("Mul", [as_float, f"{made}_scale"], [made]),
        ]

    made = 0
    for node in graph.node:
        if node.op_type == "LSTM" and node.input[1] in floats and node.input[2] in floats:
            nodes += lstm(node)
            made += 1
        elif node.op_type == "Gather" and node.input[0] in floats and len(floats[node.input[0]].dims) == 2:
            nodes += embedding(node)
        else:
            nodes.append(node)
    if made != sum(node.op_type == "LSTM" for node in graph.node) or made == 0:
        raise InputError("export_onnx: int8 is for models whose LSTMs have constant weights; leave int8 out")
    used = {name for node in nodes for name in node.input} | {x.name for x in graph.output}
    kept = [x for x in graph.initializer if x.name in used]
    result = helper.make_model(
        helper.make_graph(nodes, graph.name, list(graph.input), list(graph.output), [*kept, *added]),
        opset_imports=[*model.opset_import, helper.make_opsetid(_CONTRIB, 1)],
    )
    result.ir_version = model.ir_version
    return result


def _rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values [R, C] and float32 scales [R]."""
    rows = quantize_rows(torch.from_numpy(weight.copy()))
    return rows.values.numpy(), rows.scale.numpy()
