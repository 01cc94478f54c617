"""What torch.compile may capture in a CUDA graph: nothing whose launches follow numbers that the CPU reads.

The graphs are those that torch.compile makes; whether inductor captures a node it is asked itself. Replays are tested
where there is a GPU (test_cuda.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.utils import is_cudagraph_unsafe_fx_node

from tests.ops.cases import Case, batch_sizes_of
from tests.ops.every_op import OPS, overload, tensors_of
from tests.ops.test_lstm_pool import pool_arguments
from ulmfit_fast import ops

SCHEDULED = [op for op in OPS if "batch_sizes" in tensors_of(op)]


def graphs_of(function: Callable[..., Any], *inputs: Tensor) -> list[fx.GraphModule]:
    """Forward's and backward's."""
    found: list[fx.GraphModule] = []

    def keep(graph: fx.GraphModule, _: Any) -> Any:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(function, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep), fullgraph=True)
    result = compiled(*inputs)
    if result.requires_grad:
        result.sum().backward()
    return found


def nodes_of(graphs: list[fx.GraphModule]) -> dict[str, bool]:
    """The project's ops in the graphs: whether inductor leaves them out of CUDA graphs."""
    nodes = [node for graph in graphs for node in graph.graph.nodes if str(node.target).startswith("ulmfit_fast.")]
    return {str(node.target).split(".")[1]: is_cudagraph_unsafe_fx_node(node) for node in nodes}


def test_lstm() -> None:
    a = Case("graph", (4, 2, 1), p=0.4).arguments(torch.float32)
    nodes = nodes_of(graphs_of(lambda x: ops.lstm(**(a | {"input": x}))[0], a["input"]))
    assert nodes == {"lstm": True, "lstm_backward": True}


def test_pooling_and_locked_dropout() -> None:
    a = pool_arguments(Case("graph", (4, 2, 1)), torch.float32) | {"bptt": 0}
    mask = torch.ones(3, a["input"].shape[1])

    def pooled(x: Tensor) -> Tensor:
        return ops.lstm_pool(**(a | {"input": ops.locked_dropout(x, mask, a["batch_sizes"])})).h_n

    nodes = nodes_of(graphs_of(pooled, a["input"]))
    assert nodes == {"locked_dropout": True, "lstm_pool": True, "lstm_pool_backward": True}


def test_what_reads_nothing_on_the_cpu_may_be_captured() -> None:
    weight, tokens = torch.randn(9, 4, requires_grad=True), torch.tensor([1, 3])
    graphs = graphs_of(lambda w: ops.linear(ops.embedding(tokens, w, None), w, None), weight)
    nodes = nodes_of(graphs)
    assert set(nodes) >= {"embedding", "linear"}
    assert not any(nodes.values())


@pytest.mark.parametrize("op", SCHEDULED)
def test_every_op_with_a_schedule_is_marked(op: str) -> None:
    assert torch.Tag.cudagraph_unsafe in overload(op).tags


def test_others_are_not() -> None:
    for op in set(OPS) - set(SCHEDULED):
        assert torch.Tag.cudagraph_unsafe not in overload(op).tags, op


def test_the_steps_of_rows() -> None:
    """`add_steps` in a compiled graph is made of torch's operators, so that saved programs know them."""
    from ulmfit_fast.ops.lstm_pool import add_steps

    sizes, count = batch_sizes_of((5, 3, 3)), torch.tensor([2, 0, 1, 7])
    compiled = torch.compile(add_steps, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(count, sizes), add_steps(count, sizes))
    assert add_steps(count, sizes).tolist() == [7, 3, 4, 7]
