"""ONNX files against the models, as onnxruntime computes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.interop.test_torch_export import make_classifier, make_documents, make_encoder
from ulmfit_fast import InputError, LanguageModel, WeightDropLSTM, ops
from ulmfit_fast.interop.onnx import export_onnx, translation_table
from ulmfit_fast.text.batching import pack_documents

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def session(model: Any, folder: Path) -> Callable[..., list[Tensor]]:
    export_onnx(model, folder / "model.onnx")
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    loaded = ort.InferenceSession(folder / "model.onnx")
    names = [given.name for given in loaded.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(np.array(x)) for x in loaded.run(None, feed)]

    run.shapes = [given.shape for given in loaded.get_inputs()]  # type: ignore[attr-defined]
    run.names = names, [result.name for result in loaded.get_outputs()]  # type: ignore[attr-defined]
    return run


def assert_near(actual: list[Tensor], expected: list[Tensor]) -> None:
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_layer(tmp_path: Path) -> None:
    model = WeightDropLSTM(6, 9, 2, batch_first=True, bidirectional=True, weight_dropout=0.5).eval()
    run = session(model, tmp_path)
    for batch, steps in ((1, 1), (3, 3), (5, 40), (1, 2000)):
        x = torch.randn(batch, steps, 6)
        with torch.no_grad():
            output, state = model(x)
        assert_near(run(x), [output, *state])


class _OnesOwn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = WeightDropLSTM(6, 9, bias=False)
        self.second = nn.Linear(9, 4)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, state = self.first(x, (h, c))
        return self.second(output), state


def test_a_model_of_ones_own(tmp_path: Path) -> None:
    """By torch's exporter and the table; with static sizes, too, one row of one step among them."""
    model = _OnesOwn().eval()
    for steps, batch in ((1, 1), (5, 3)):
        inputs = torch.randn(steps, batch, 6), torch.randn(1, batch, 9), torch.randn(1, batch, 9)
        with torch.no_grad():
            torch.onnx.export(
                model, inputs, tmp_path / "model.onnx", dynamo=True, verbose=False, external_data=False,
                custom_translation_table=translation_table(),
            )  # fmt: skip
            expected, state = model(*inputs)
        loaded = ort.InferenceSession(tmp_path / "model.onnx")
        names = [given.name for given in loaded.get_inputs()]
        results = loaded.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        assert_near([torch.from_numpy(x) for x in results], [expected, *state])


@pytest.mark.parametrize("options", [{}, {"pooling": "attention", "attention_heads": 2}])
def test_classifier(options: dict[str, Any], tmp_path: Path) -> None:
    """A padded row is its document alone: the pooled vector must hold none of the padding."""
    model = make_classifier(pool_window=700, **options)
    run = session(model, tmp_path)
    assert run.names == (["tokens", "lengths"], ["logits"])  # type: ignore[attr-defined]
    assert run.shapes == [["batch", "tokens"], ["batch"]]  # type: ignore[attr-defined]
    for batch, steps in ((1, 1), (1, 7), (4, 1), (9, 60), (3, 2000)):
        tokens, lengths = make_documents(batch, steps)
        with torch.no_grad():
            expected = model(pack_documents([row[:n] for row, n in zip(tokens, lengths, strict=True)]))
        assert_near(run(tokens, lengths), [expected])


def test_language_model(tmp_path: Path) -> None:
    model = LanguageModel(make_encoder()).eval()
    nn.init.normal_(model.decoder_bias)
    run = session(model, tmp_path)
    assert run.names[0] == ["tokens", "h_0", "c_0", "h_1", "c_1"]  # type: ignore[attr-defined]
    for batch, steps in ((1, 1), (3, 20), (2, 2000)):
        tokens = torch.randint(100, (steps, batch))
        with torch.no_grad():
            output = model(tokens)
        state = [x for layer in model.encoder.initial_state(batch) for x in layer]
        parts = tokens.split(max(1, steps // 2))
        logits = []
        for part in parts:  # the state carries a text on
            some, *state = run(part, *state)
            logits.append(some)
        assert_near([torch.cat(logits), *state], [model.logits(output), *(x for layer in output.state for x in layer)])


class _Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = WeightDropLSTM(6, 9)

    def forward(self, rows: Tensor, batch_sizes: Tensor) -> Tensor:
        return ops.lstm(rows, batch_sizes, rows.new_zeros(3, 9), rows.new_zeros(3, 9), *self.lstm.parameters())[0]


def test_what_onnx_cannot_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for model, message in (
        (make_classifier().train(), "the model is in training mode"),
        (make_classifier().double(), "weights must be float32, .* is torch.float64; call float"),
        (WeightDropLSTM(6, 9, proj_size=3).eval(), "ONNX's LSTM has no projection"),
        (make_encoder().eval(), "must be a TextClassifier, a LanguageModel or a WeightDropLSTM, got AWDLSTM"),
    ):
        with pytest.raises(InputError, match=f"export_onnx: .*{message}"):
            export_onnx(model, path)
    packed = _Packed().eval().requires_grad_(False)
    with pytest.raises(Exception, match="a PackedSequence cannot be translated"):
        torch.onnx.export(
            packed, (torch.randn(6, 6), torch.tensor([3, 2, 1])), dynamo=True, verbose=False,
            custom_translation_table=translation_table(),
        )  # fmt: skip
    assert not path.exists()
