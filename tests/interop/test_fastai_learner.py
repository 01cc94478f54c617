"""Our models under fastai's Learner: its losses, its callbacks, its files."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.interop.fastai_data import SIZES, import_fastai, loaders, make_table, quietly
from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, LanguageModel, TextClassifier
from ulmfit_fast.interop.fastai import import_language_model
from ulmfit_fast.interop.fastai_classifier import import_classifier
from ulmfit_fast.interop.fastai_export import save_fastai
from ulmfit_fast.interop.fastai_learner import fastai_learner, layer_groups, to_fastai
from ulmfit_fast.nn.documents import unpadded
from ulmfit_fast.storage.model_folder import load_classifier, save_model

NONE = dict.fromkeys(("embed_p", "input_p", "hidden_p", "weight_p", "output_p"), 0.0)
LENGTHS = [72, 144, 216, 72] * 8


def without_dropout(model: nn.Module) -> None:
    """fastai's, and ours. Its WeightDropout breaks in training where the probability is 0: one that drops nothing."""
    for module in model.modules():
        for name in ("p", "embed_p", "weight_p"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 1e-30 if name == "weight_p" else 0.0)
        if isinstance(module, AWDLSTM):
            module.set_dropouts(replace(module.config, **NONE))


def losses(learn: Any, *arguments: Any) -> list[float]:
    """Of each training step, and of validation after each epoch."""
    text, found = import_fastai(), []

    class Record(text.Callback):  # type: ignore[misc, name-defined]
        def after_loss(self) -> None:
            found.append(float(self.loss))

    with learn.added_cbs(Record()):
        learn.fit_one_cycle(*arguments)
    return found


def classifiers(folder: Path, **options: Any) -> tuple[Any, Any, Any]:
    """fastai's learner, ours with the same weights, and what ours trains; no dropout."""
    text = import_fastai()
    dls = loaders(make_table(LENGTHS), bs=8, shuffle=False)
    theirs = quietly(
        text.text_classifier_learner(
            dls, text.AWD_LSTM, config=text.awd_lstm_clas_config | SIZES, pretrained=False, path=folder / "theirs",
            metrics=text.accuracy, alpha=0, beta=0,
        )
    )  # fmt: skip
    (folder / "theirs").mkdir()
    path = theirs.save("begin", with_opt=False)
    trained = import_classifier(path, list(dls.vocab[0]), list(dls.vocab[1]), tokenizer="word")
    ours = quietly(fastai_learner(dls, trained, path=folder / "ours", metrics=text.accuracy, **options))
    for learn in (theirs, ours):
        without_dropout(learn.model)
    without_dropout(trained.model)
    return theirs, ours, trained


# float32: Adam's first steps are as large for a gradient that is rounding alone as for any other.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)], ids=str)
def test_the_losses_of_fastai(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    theirs, ours, trained = classifiers(tmp_path)
    theirs.model.to(dtype)
    ours.model.to(dtype)
    before = copy.deepcopy(trained.model.state_dict())
    expected, found = losses(theirs, 2, 1e-2), losses(ours, 2, 1e-2)
    assert len(found) == 8
    assert found == pytest.approx(expected, abs=tolerance)
    assert expected[-2] < 0.7 * expected[0]
    # The model that was given has been trained.
    assert not torch.equal(before["head.6.weight"], trained.model.head[6].weight)
    assert trained.model.head[6].weight is ours.model[1].layers[1][-1].weight
    save_model(tmp_path / "folder", trained.model, trained.tokenizer, trained.task)
    assert torch.equal(load_classifier(tmp_path / "folder")[0].head[6].weight, trained.model.head[6].weight.float())


def test_frozen_groups_and_rates(tmp_path: Path) -> None:
    """freeze_to and slices of rates mean what they mean in fastai; BatchNorm goes on."""
    theirs, ours, _ = classifiers(tmp_path)
    for learn in (theirs, ours):
        learn.freeze_to(-2)
    assert losses(ours, 1, slice(1e-3, 1e-2)) == pytest.approx(losses(theirs, 1, slice(1e-3, 1e-2)), abs=5e-5)
    assert [len(group) for group in ours.opt.param_lists] == [len(group) for group in theirs.opt.param_lists]
    assert not ours.model[0].module.encoder.weight.requires_grad
    assert ours.model[1].layers[0][0].weight.requires_grad
    assert len(layer_groups(ours.model)) == 5
    shapes = [[list(p.shape) for p in group] for group in ours.opt.param_lists]
    assert shapes == [[list(p.shape) for p in group] for group in theirs.opt.param_lists]


def test_files_go_both_ways(tmp_path: Path) -> None:
    """What either learner saves, with its optimizer, loads into the other, and so do encoders."""
    theirs, ours, trained = classifiers(tmp_path)
    losses(ours, 1, 1e-2)
    assert list(ours.model.state_dict()) == list(theirs.model.state_dict())
    path = ours.save("whole")
    theirs.load(path.with_suffix("").absolute())
    state = ours.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.model.state_dict().items())
    losses(theirs, 1, 1e-2)
    ours.load(theirs.save("whole").with_suffix("").absolute())
    state = theirs.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.model.state_dict().items())
    # A folder of save_fastai, over a vocabulary that fastai has filled up: into the learner it came from.
    assert list(ours.dls.vocab[0]).count("xxfake") > 1
    save_fastai(tmp_path / "out", trained)
    assert pickle.loads((tmp_path / "out/vocab.pkl").read_bytes()) == list(ours.dls.vocab[0])
    for tensor in theirs.model.state_dict().values():
        tensor.zero_()
    theirs.load((tmp_path / "out/model").absolute())
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.model.state_dict().items())
    ours.save_encoder("encoder")
    theirs.load_encoder((tmp_path / "ours/models/encoder").absolute())
    ours.load_encoder("encoder")


def test_its_callbacks(tmp_path: Path) -> None:
    text = import_fastai()
    _, ours, _ = classifiers(tmp_path)
    weight = ours.model[1].layers[1][-1].weight.detach().clone()
    ours.lr_find(num_it=5, show_plot=False, suggest_funcs=())
    assert torch.equal(ours.model[1].layers[1][-1].weight, weight)  # it goes back
    with ours.added_cbs([text.SaveModelCallback(), text.GradientClip(0.1), text.GradientAccumulation(16)]):
        ours.fit_one_cycle(2, 1e-2)
    assert ours.validate()[0] < 0.7
    with pytest.warns(UserWarning, match="CUDA is not available"):  # which fastai's mixed precision means
        ours.to_bf16().fit_one_cycle(1, 1e-3)
    preds, targets = ours.get_preds()
    assert preds.shape == (8, 2)
    assert float((preds.argmax(1) == targets).float().mean()) == pytest.approx(ours.validate()[1])
    ours.export(tmp_path / "learner.pkl")
    again = text.load_learner(tmp_path / "learner.pkl")
    again.model.eval()
    x = ours.dls.one_batch()[0]
    ours.model.eval()
    with torch.no_grad():
        assert torch.equal(again.model(x)[0], ours.model(x)[0])


def test_mixed_precision_on_a_cpu() -> None:
    """Under autocast as torch has it there; fastai's callback names CUDA."""
    model = to_fastai(TextClassifier(AWDLSTM(AWDLSTMConfig(40, 12, 20, 2)), 2))
    tokens = torch.randint(2, 40, (4, 50))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(tokens)[0].float(), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    assert model[0].module.rnns[0].weight_hh_l0.grad.dtype == torch.float32


def test_a_language_model(tmp_path: Path) -> None:
    """With AR and TAR, from the state that batches hand on; its losses and its files."""
    text = import_fastai()
    dls = loaders(make_table([90] * 40), is_lm=True, bs=4, seq_len=20, shuffle=False)
    theirs = quietly(
        text.language_model_learner(
            dls, text.AWD_LSTM, config=text.awd_lstm_lm_config | SIZES, pretrained=False, path=tmp_path / "theirs"
        )
    )
    (tmp_path / "theirs").mkdir()
    trained = import_language_model(theirs.save("begin", with_opt=False), list(dls.vocab))
    ours = quietly(fastai_learner(dls, trained, path=tmp_path / "ours"))
    for learn in (theirs, ours):
        without_dropout(learn.model)
    without_dropout(trained.model)
    torch.manual_seed(0)  # the order of the texts
    expected = losses(theirs, 1, 1e-2)
    torch.manual_seed(0)
    found = losses(ours, 1, 1e-2)
    assert len(found) > 20
    assert found == pytest.approx(expected, abs=5e-4)
    assert list(ours.model.state_dict()) == list(theirs.model.state_dict())
    theirs.load(ours.save("lm").with_suffix("").absolute())
    assert ours.predict("the film", 3)


def test_the_state_of_a_changing_batch() -> None:
    """As fastai's AWD_LSTM: a smaller batch lacks the last texts, a larger one has new ones at its end."""
    text = import_fastai()
    theirs = text.get_language_model(text.AWD_LSTM, 40, config=text.awd_lstm_lm_config | SIZES).eval()
    ours = to_fastai(LanguageModel(AWDLSTM(AWDLSTMConfig(40, 20, 24, 3)))).eval()
    ours.load_state_dict(theirs.state_dict())
    for batch in (4, 2, 5):
        tokens = torch.randint(2, 40, (batch, 7))
        for mine, other in zip(ours(tokens), theirs(tokens), strict=True):
            torch.testing.assert_close(mine, other)
    ours.reset()
    theirs.reset()
    tokens = torch.randint(2, 40, (3, 7))
    torch.testing.assert_close(ours(tokens)[0], theirs(tokens)[0])


def test_padding_is_not_read() -> None:
    tokens = torch.tensor([[1, 1, 5, 6, 1, 7, 1], [8, 9, 1, 1, 1, 1, 1], [2, 3, 4, 5, 6, 7, 8]])
    found, lengths = unpadded(tokens, 1)
    assert lengths.tolist() == [4, 2, 7]
    assert [row[:n].tolist() for row, n in zip(found, lengths, strict=True)] == [
        [5, 6, 1, 7],
        [8, 9],
        tokens[2].tolist(),
    ]
    with pytest.raises(InputError, match="nothing but padding"):
        unpadded(torch.tensor([[1, 1]]), 1)
    model = to_fastai(TextClassifier(AWDLSTM(AWDLSTMConfig(40, 12, 20, 2)), 2)).eval()
    document = torch.randint(2, 40, (1, 9))
    padded = nn.functional.pad(document, (72, 5), value=1)
    assert torch.equal(model(padded)[0], model(document)[0])


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    text = import_fastai()
    _, ours, trained = classifiers(tmp_path)
    dls = ours.dls
    with pytest.raises(InputError, match="alpha and beta are for language models"):
        fastai_learner(dls, trained, alpha=2)
    with pytest.raises(InputError, match="BPT3C holds no states"):
        quietly(text.TextLearner(dls, to_fastai(trained))).fit(1)
    small = TextClassifier(AWDLSTM(AWDLSTMConfig(9, 12, 20, 2)), 2)
    with pytest.raises(InputError, match=r"dls has \d+ tokens, the model 9; give its TextBlock the model's own"):
        fastai_learner(dls, small)
    three = TextClassifier(AWDLSTM(AWDLSTMConfig(len(dls.vocab[0]), 12, 20, 2)), 3)
    with pytest.raises(InputError, match="dls has 2 classes, the model 3 outputs"):
        fastai_learner(dls, three)
    dls.vocab[0][9], dls.vocab[0][10] = dls.vocab[0][10], dls.vocab[0][9]
    with pytest.raises(InputError, match="token 9 of dls is"):
        fastai_learner(dls, trained)
    with pytest.raises(TypeError, match="must be a LanguageModel or a TextClassifier, got Tensor"):
        to_fastai(Tensor())  # type: ignore[arg-type]
