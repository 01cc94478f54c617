"""Language models of other projects: the same logits as in fastai, and what is refused."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.cli.command_line import assert_one_line
from ulmfit_fast import InputError, LanguageModel, import_language_model
from ulmfit_fast.cli.main import main
from ulmfit_fast.storage.model_folder import load_language_model

SPECIAL = ["xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj"]
WORDS = [*SPECIAL, "the", "film", "u.s.", "was", "fine", "xxfake", "xxfake"]
KEPT = [*WORDS[:-1], "xxfake 2"]  # what comes again, under a name that no text has
E, H, LAYERS = 6, 10, 3


def fastai_model(**changes: Any) -> torch.nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = pytest.importorskip("fastai.text.models.core", reason="fastai is not installed")
        from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config

    config = awd_lstm_lm_config | {"emb_sz": E, "n_hid": H, "n_layers": LAYERS} | changes
    model: torch.nn.Module = core.get_language_model(AWD_LSTM, len(WORDS), config=config)
    if hasattr(model[1].decoder, "bias") and model[1].decoder.bias is not None:
        torch.nn.init.normal_(model[1].decoder.bias)
    return model.eval()


def state_by_hand(rows: int = len(WORDS)) -> dict[str, Tensor]:
    """An awd-lstm-lm state_dict: no prefixes, the dropped copy of the weight beside the raw one."""
    sizes = [E, *[H] * (LAYERS - 1), E]
    state = {"encoder.weight": torch.randn(rows, E), "decoder.bias": torch.randn(rows)}
    state["decoder.weight"] = state["encoder.weight"]
    for i in range(LAYERS):
        layer, size = f"rnns.{i}.module.", 4 * sizes[i + 1]
        state[layer + "weight_hh_l0_raw"] = torch.randn(size, sizes[i + 1])
        state[layer + "weight_hh_l0"] = torch.full((size, sizes[i + 1]), torch.nan)
        state[layer + "weight_ih_l0"] = torch.randn(size, sizes[i])
        state[layer + "bias_ih_l0"], state[layer + "bias_hh_l0"] = torch.randn(size), torch.randn(size)
    return state


def save(folder: Path, state: Any, words: Any = WORDS, name: str = "lm.pth") -> tuple[Path, Path]:
    torch.save(state, folder / name)
    (folder / "itos.pkl").write_bytes(pickle.dumps(words))
    return folder / name, folder / "itos.pkl"


def logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(tokens))


@pytest.mark.parametrize("whole", [True, False], ids=["with the optimizer", "state_dict"])
def test_the_logits_of_fastai(tmp_path: Path, whole: bool) -> None:
    """From what learn.save writes: after a step, its optimizer's state holds more than tensors."""
    theirs = fastai_model()
    from fastai.learner import save_model
    from fastai.optimizer import Adam

    optimizer = Adam(list(theirs.parameters()), lr=0.01)
    optimizer.hypers[0]["lr"] = np.float64(0.01)  # as schedules leave it
    theirs(torch.zeros(1, 2, dtype=torch.int64))[0].sum().backward()
    optimizer.step()
    theirs.reset()  # its state
    paths = save(tmp_path, None)
    save_model(paths[0], theirs, optimizer, with_opt=whole)
    imported = import_language_model(*paths)
    tokenizer = imported.tokenizer
    assert tokenizer.vocabulary == KEPT
    tokens = torch.tensor(next(tokenizer.encode(["The film was FINE"]))).long()
    assert [WORDS[i] for i in tokens] == ["xxbos", "xxmaj", "the", "film", "was", "xxup", "fine"]
    with torch.no_grad():
        expected = theirs(tokens.unsqueeze(0))[0].squeeze(0)
    torch.testing.assert_close(logits(imported.model, tokens.unsqueeze(1)).squeeze(1), expected)


def test_an_encoder_alone(tmp_path: Path) -> None:
    """What learn.save_encoder writes: no prefix, no softmax."""
    theirs = fastai_model()
    imported = import_language_model(*save(tmp_path, theirs[0].state_dict())).model
    assert not imported.decoder_bias.any()
    assert torch.equal(imported.decoder_weight, theirs[0].encoder.weight)


def test_tokens_are_found_by_name(tmp_path: Path) -> None:
    """Of versions before 1: other names and another order of the special tokens, some of today's missing."""
    words = ["_unk_", "_pad_", "the", "xbos", "t_up", "film", "xxunk"]
    state = state_by_hand(len(words))
    state["encoder_with_dropout.embed.weight"] = state.pop("encoder.weight")
    del state["decoder.weight"]
    imported = import_language_model(*save(tmp_path, state, words, "lm.h5"))
    vocabulary, before = imported.tokenizer.vocabulary, state["encoder_with_dropout.embed.weight"]
    assert vocabulary == [*SPECIAL, "the", "film"]
    rows = {"xxunk": 0, "xxpad": 1, "the": 2, "xxbos": 3, "xxup": 4, "film": 5}
    for token, row in rows.items():
        assert torch.equal(imported.model.decoder_weight[vocabulary.index(token)], before[row]), token
        assert imported.model.decoder_bias[vocabulary.index(token)] == state["decoder.bias"][row]
    torch.testing.assert_close(imported.model.decoder_weight[vocabulary.index("xxmaj")], before.mean(0))
    assert torch.equal(imported.model.encoder.rnns[1].weight_hh_l0, state["rnns.1.module.weight_hh_l0_raw"])


def test_a_backward_model(tmp_path: Path) -> None:
    """Its files tell nothing of it: the caller does."""
    files = save(tmp_path, state_by_hand())
    assert import_language_model(*files).tokenizer.direction == "forward"
    assert import_language_model(*files, direction="backward").tokenizer.direction == "backward"
    output = tmp_path / "lm"
    arguments = ["import-lm", str(files[0]), "--vocabulary", str(files[1]), "--output", str(output)]
    assert main([*arguments, "--direction", "backward"]) == 0
    assert load_language_model(output)[1].direction == "backward"


def test_the_unknown_word_of_a_tokenized_corpus(tmp_path: Path) -> None:
    """It stays the word it was, and is what unknown words of other texts become."""
    words = ["<unk>", "<eos>", "the"]
    imported = import_language_model(*save(tmp_path, state_by_hand(3), words), "whitespace")
    vocabulary, rows = imported.tokenizer.vocabulary, imported.model.decoder_weight
    assert vocabulary == [*SPECIAL, *words]
    assert torch.equal(rows[vocabulary.index("xxunk")], rows[vocabulary.index("<unk>")])
    assert not torch.equal(rows[vocabulary.index("xxunk")], rows[vocabulary.index("the")])


def test_a_classifier_of_fastai_is_refused(tmp_path: Path) -> None:
    fastai_model()
    from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config
    from fastai.text.models.core import get_text_classifier

    sizes = {"emb_sz": E, "n_hid": H, "n_layers": LAYERS}
    state = get_text_classifier(AWD_LSTM, len(WORDS), 2, config=awd_lstm_clas_config | sizes).state_dict()
    with pytest.raises(InputError, match="import it by import-classifier"):
        import_language_model(*save(tmp_path, state))


@pytest.mark.parametrize("form", ["list.json", "rows.json", "lines.txt", "list"])
def test_forms_of_weights_and_vocabulary(tmp_path: Path, form: str) -> None:
    words, path = [f"w{i}" for i in range(7)], tmp_path / form
    state = {name: tensor.clone() for name, tensor in state_by_hand(7).items()}
    safetensors.torch.save_file(state, tmp_path / "lm.safetensors")
    text = {
        "list.json": json.dumps(words),
        "rows.json": json.dumps({w: i for i, w in reversed(list(enumerate(words)))}),
        "lines.txt": "\n".join(words) + "\n",
        "list": "",
    }[form]
    path.write_text(text)
    imported = import_language_model(tmp_path / "lm.safetensors", words if form == "list" else path, "whitespace")
    assert imported.tokenizer.vocabulary == [*SPECIAL, *words]
    assert torch.equal(imported.model.decoder_weight[len(SPECIAL) :], state["encoder.weight"])


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: value for key, value in state.items() if name not in key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"0.rnns.0.layers.0.linear.weight_raw": torch.zeros(2)}, "belongs to a QRNN"),
        (lambda s: s | {"attention.weight": torch.zeros(2)}, "no tensor attention.weight"),
        (lambda s: s | {"decoder.weight": torch.zeros(len(WORDS), E)}, "only tied weights"),
        (lambda s: s | {"decoder.bias": torch.zeros(3)}, "the softmax's bias is [3]"),
        (lambda s: s | {"decoder.bias": torch.zeros(())}, "the softmax's bias is []"),
        (lambda s: s | {"rnns.0.module.weight_hh_l0_raw": torch.zeros(3)}, "layer 0 (0.rnns.0) are not an LSTM's"),
        (without("encoder.weight"), "holds no embedding"),
        (without("rnns.1.module.bias_hh"), "layer 1 (0.rnns.1) lacks bias_hh_l0"),
        (without("rnns.0"), "layer 0 (0.rnns.0) lacks weight_ih_l0"),
        (lambda s: s | {"rnns.2.module.weight_hh_l0_raw": torch.zeros(4 * H, H)}, "not those of an AWD-LSTM"),
        (lambda s: list(s.values()), "holds no state_dict"),
        (lambda s: s | {"criterion": torch.nn.Linear(2, 2)}, "holds a torch.nn.modules.linear.Linear,"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        import_language_model(*save(tmp_path, change(state_by_hand())))
    assert message in str(caught.value)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('code of a pickle ran')",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([*WORDS[:-1], _Trap()]), "it refers to builtins.exec"),
        (pickle.dumps(WORDS)[:20], "not a readable vocabulary"),
        (pickle.dumps(WORDS[:-1]), "has 15 tokens, the embedding"),
        (pickle.dumps("".join(WORDS)), "is not a list of tokens"),
        (pickle.dumps({"a": 0, "b": 2}), "does not map tokens to the rows"),
        (pickle.dumps({"a": 0, "b": None}), "does not map tokens to the rows"),
    ],
)
def test_vocabularies_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    weights, vocabulary = save(tmp_path, state_by_hand())
    vocabulary.write_bytes(content)
    with pytest.raises(InputError) as caught:
        import_language_model(weights, vocabulary)
    assert message in str(caught.value)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, vocabulary = map(str, save(tmp_path, state_by_hand()))
    folder = str(tmp_path / "lm")
    assert main(["import-lm", weights, "--vocabulary", vocabulary, "--output", folder]) == 0
    assert "3 layers, embedding 6, hidden 10, 16 tokens (2 words are never met" in capsys.readouterr().out
    loaded, tokenizer = load_language_model(folder)
    assert tokenizer.vocabulary == KEPT
    expected = import_language_model(weights, vocabulary).model
    tokens = torch.randint(0, 16, (5, 2))
    assert torch.equal(logits(loaded.eval(), tokens), logits(expected, tokens))
    assert main(["import-lm", weights, "--vocabulary", vocabulary, "--output", folder]) == 2
    assert_one_line(capsys, "already holds a model")
    for content in (b"not weights", b"the\nfilm\n", b""):
        (tmp_path / "lm.pth").write_bytes(content)
        assert main(["import-lm", weights, "--vocabulary", vocabulary, "--output", folder, "--overwrite"]) == 2
        assert_one_line(capsys, "lm.pth: not a readable file of weights")
    assert load_language_model(folder)[1].vocabulary == KEPT


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: name.replace("rnns.0.", "rnns.0._orig_mod."),
    ],
    ids=["DataParallel", "compile", "compiled inside", "compiled outside", "a compiled layer"],
)
def test_names_that_wrappers_put_before(wrap: Callable[[str], str], tmp_path: Path) -> None:
    state = state_by_hand()
    plain = import_language_model(*save(tmp_path, state))
    wrapped = import_language_model(*save(tmp_path, {wrap(name): tensor for name, tensor in state.items()}))
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(wrapped.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("encoder.weight", "the embedding"),
        ("decoder.bias", "the softmax's bias"),
        ("rnns.2.module.weight_hh_l0_raw", "layer 2's weight_hh_l0"),
    ],
)
def test_weights_that_are_not_numbers(name: str, shown: str, value: float, tmp_path: Path) -> None:
    state = state_by_hand()
    state[name].view(-1)[3] = value
    with pytest.raises(InputError, match=rf"lm\.pth: {shown} holds NaN or infinite numbers: its training has diverged"):
        import_language_model(*save(tmp_path, state))
