"""The encoder's dropouts and the language model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, LanguageModel
from ulmfit_fast.nn.language_model import language_model_loss
from ulmfit_fast.nn.stacked import LM_DROPOUTS

CONFIG = AWDLSTMConfig(40, 8, 12, 3)


def test_sizes_are_the_papers() -> None:
    encoder = AWDLSTM(AWDLSTMConfig(100))
    assert [(r.input_size, r.hidden_size) for r in encoder.rnns] == [(400, 1152), (1152, 1152), (1152, 400)]


def test_parameter_names() -> None:
    names = set(LanguageModel(AWDLSTM(CONFIG)).state_dict())
    assert {"encoder.encoder.weight", "encoder.rnns.2.weight_hh_l0", "decoder_bias"} <= names


def test_eval_is_plain_embedding_and_nn_lstm() -> None:
    encoder = AWDLSTM(CONFIG).eval()
    tokens = torch.randint(0, 40, (9, 4))
    x = F.embedding(tokens, encoder.encoder.weight)
    for rnn in encoder.rnns:
        plain = torch.nn.LSTM(rnn.input_size, rnn.hidden_size)
        plain.load_state_dict(rnn.state_dict())
        x, _ = plain(x)
    output, _ = encoder(tokens.reshape(-1), torch.full((9,), 4))
    torch.testing.assert_close(output.view(9, 4, 8), x)


def test_masks_are_locked_over_time_and_rows_of_the_embedding() -> None:
    encoder = AWDLSTM(AWDLSTMConfig(1000, 64, 64, 2, embed_p=0.3, input_p=0.4, hidden_p=0.2))
    masks = encoder.draw_masks(50)
    assert masks is not None
    assert masks.embedding.shape == (1000,)
    assert [m.shape for m in masks.locked] == [(50, 64), (50, 64)]
    for mask, p in ((masks.embedding, 0.3), (masks.locked[0], 0.4), (masks.locked[1], 0.2)):
        assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
        deviation = (p * (1 - p) / mask.numel()) ** 0.5
        assert abs((mask == 0).double().mean() - p) < 4 * deviation
    assert len({int(seed) for seed in masks.seeds}) == 2
    assert encoder.eval().draw_masks(50) is None


def test_same_masks_same_output() -> None:
    encoder = AWDLSTM(CONFIG)
    tokens, sizes, masks = torch.randint(0, 40, (12,)), torch.full((6,), 2), encoder.draw_masks(2)
    assert torch.equal(encoder(tokens, sizes, None, masks)[0], encoder(tokens, sizes, None, masks)[0])
    assert not torch.equal(encoder(tokens, sizes, None, masks)[0], encoder(tokens, sizes)[0])


def test_state_continues_a_text() -> None:
    model = LanguageModel(AWDLSTM(CONFIG)).eval()
    tokens = torch.randint(0, 40, (10, 3))
    whole = model(tokens)
    first = model(tokens[:4])
    second = model(tokens[4:], first.state)
    torch.testing.assert_close(torch.cat([first.raw, second.raw]), whole.raw)


def test_loss_is_cross_entropy_with_ar_and_tar() -> None:
    model = LanguageModel(AWDLSTM(CONFIG)).double()
    tokens, targets = torch.randint(0, 40, (10, 3)), torch.randint(0, 40, (10, 3))
    output = model(tokens)
    cross_entropy, loss = language_model_loss(model, output, targets, alpha=2, beta=1)
    expected = F.cross_entropy(model.logits(output).flatten(0, 1), targets.reshape(-1))
    torch.testing.assert_close(cross_entropy, expected)
    change = output.raw[1:] - output.raw[:-1]
    torch.testing.assert_close(loss, expected + 2 * output.dropped.square().mean() + change.square().mean())


def test_softmax_weight_is_the_embedding() -> None:
    model = LanguageModel(AWDLSTM(CONFIG)).eval()
    output = model(torch.tensor([[1]]))
    _, loss = language_model_loss(model, output, torch.tensor([[5]]))
    loss.backward()
    assert model.encoder.encoder.weight.grad[7].abs().sum() > 0  # not an input: reached through the softmax
    assert model.decoder_bias.grad[5] < 0


def test_drop_mult_scales_every_dropout() -> None:
    config = CONFIG.with_dropouts(LM_DROPOUTS, 0.5)
    assert (config.weight_p, config.output_p, config.embed_p) == (0.1, 0.05, 0.01)
    encoder = AWDLSTM(CONFIG)
    encoder.set_dropouts(config)
    assert {rnn.weight_dropout for rnn in encoder.rnns} == {0.1}


@pytest.mark.parametrize("change", [{"weight_p": 1.0}, {"input_p": -0.1}, {"num_layers": 0}])
def test_bad_configuration(change: dict) -> None:
    with pytest.raises(ValueError, match="AWDLSTMConfig"):
        AWDLSTMConfig(10, **change)
