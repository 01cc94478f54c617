"""Exported models against the models themselves, for batches and lengths other than the example's."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils import prune

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, LanguageModel, TextClassifier
from ulmfit_fast.interop.torch_export import export_classifier, export_language_model
from ulmfit_fast.text.batching import pack_documents

SHAPES = [(1, 1), (1, 9), (4, 1), (2, 2), (5, 33), (2, 2000)]


def make_encoder() -> AWDLSTM:
    encoder = AWDLSTM(AWDLSTMConfig(100, 16, 24, 2))
    nn.init.normal_(encoder.encoder.weight)
    return encoder


def make_classifier(**options: object) -> TextClassifier:
    model = TextClassifier(make_encoder(), 3, **options)  # type: ignore[arg-type]
    for module in model.head:
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    for parameter in model.bpt3c.pooling.parameters():  # else attention would be even
        nn.init.normal_(parameter)
    return model.eval()


def make_documents(batch: int, steps: int) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(1, steps + 1, (batch,))
    lengths[0] = steps
    return torch.randint(100, (batch, steps)), lengths


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool_window": 6},
        {"pool_window": 6, "keep": "first", "bptt": 4},
        {"pooling": "attention", "attention_heads": 2, "pool_window": 6},
    ],
)
def test_classifier(options: dict) -> None:
    model = make_classifier(**options)
    program = export_classifier(model).module()
    for batch, steps in SHAPES:
        tokens, lengths = make_documents(batch, steps)
        with torch.no_grad():
            expected = model(pack_documents([row[:n] for row, n in zip(tokens, lengths, strict=True)]))
            torch.testing.assert_close(program(tokens, lengths), expected, atol=1e-6, rtol=1e-6)


def test_a_pruned_classifier_by_torch_export_itself_survives_saving() -> None:
    model = make_classifier()
    prune.random_unstructured(model.bpt3c.encoder.rnns[0], "weight_hh_l0", 0.5)
    batch, tokens = Dim("batch"), Dim("tokens")
    shapes = {"documents": {0: batch, 1: tokens}, "lengths": {0: batch}}
    file = io.BytesIO()
    with torch.no_grad():
        torch.export.save(torch.export.export(model, make_documents(3, 5), dynamic_shapes=shapes), file)
        file.seek(0)
        program, documents = torch.export.load(file).module(), make_documents(4, 20)
        torch.testing.assert_close(program(*documents), model(*documents), atol=1e-6, rtol=1e-6)


def test_language_model() -> None:
    model = LanguageModel(make_encoder()).eval()
    nn.init.normal_(model.decoder_bias)
    program = export_language_model(model).module()
    for batch, steps in SHAPES:
        tokens = torch.randint(100, (steps, batch))
        with torch.no_grad():
            state, expected_state = model.encoder.initial_state(batch), None
            for part in tokens.split(max(1, steps // 2)):
                logits, state = program(part, state)
                output = model(part, expected_state)
                expected_state = output.state
                torch.testing.assert_close(logits, model.logits(output), atol=1e-6, rtol=1e-6)
            for layer, expected in zip(state, expected_state, strict=True):
                torch.testing.assert_close(layer, expected, atol=1e-6, rtol=1e-6)


def test_what_is_refused() -> None:
    model, packed = make_classifier(), pack_documents([torch.arange(5)])
    with pytest.raises(InputError, match=r"export_classifier: the model is in training mode.*call eval"):
        export_classifier(make_classifier().train())
    with pytest.raises(InputError, match="export_language_model: the model is in training mode"):
        export_language_model(LanguageModel(make_encoder()))
    with pytest.raises(Exception, match=r"torch.export takes padded token ids"):
        torch.export.export(model, (packed,))
    with pytest.raises(Exception, match=r"torch.export is for eval mode"):
        torch.export.export(model.train(), make_documents(2, 5))
