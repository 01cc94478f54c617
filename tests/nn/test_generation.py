"""Generation: the distribution against definitions written out, greedy text against one pass, streams, seeds."""

from __future__ import annotations

import math

import pytest
import torch

from ulmfit_fast import AWDLSTM, QRNN, AWDLSTMConfig, InputError, LanguageModel, QRNNConfig
from ulmfit_fast.nn.generation import Sampling, next_distribution

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 1.5])
P = [math.exp(x) / sum(math.exp(y) for y in LOGITS.tolist()) for x in LOGITS.tolist()]


def model_of(encoder: str = "awd_lstm") -> LanguageModel:
    torch.manual_seed(1)
    if encoder == "qrnn":
        return LanguageModel(QRNN(QRNNConfig(30, 8, 12, 2))).eval()
    model = LanguageModel(AWDLSTM(AWDLSTMConfig(30, 8, 12, 2))).eval()
    with torch.no_grad():
        model.decoder_weight.mul_(20)
        model.decoder_bias.normal_()
    return model


def normalized(values: list[float]) -> list[float]:
    return [value / sum(values) for value in values]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), P),
        (Sampling(temperature=0.5), normalized([p**2 for p in P])),
        (Sampling(temperature=0), [1, 0, 0, 0, 0]),
        (Sampling(top_k=2), normalized([P[0], 0, 0, 0, P[4]])),
        (Sampling(top_k=9), P),
        # 0.45, 0.27, 0.16, ...: the first two have less than 0.75 together, the first three more
        (Sampling(top_p=0.75), normalized([P[0], P[1], 0, 0, P[4]])),
        (Sampling(top_p=1e-9), [1, 0, 0, 0, 0]),
        (Sampling(temperature=0.5, top_k=2), normalized([P[0] ** 2, 0, 0, 0, P[4] ** 2])),
    ],
)
def test_the_distribution(sampling: Sampling, expected: list[float]) -> None:
    assert next_distribution(LOGITS, sampling).tolist() == pytest.approx(expected, abs=1e-7)


def test_the_penalty_and_what_is_banned() -> None:
    found = next_distribution(LOGITS, Sampling(repetition_penalty=2.0), recent=[0, 0, 3])
    assert found.tolist() == pytest.approx(normalized([P[0] ** 2, P[1], P[2], P[3] ** 2, P[4]]), abs=1e-7)
    shifted = next_distribution(LOGITS + 100, Sampling(repetition_penalty=2.0), recent=[0, 0, 3])
    assert shifted.tolist() == pytest.approx(found.tolist(), abs=1e-5)  # logits have no zero
    banned = next_distribution(LOGITS, Sampling(), banned=[0, 4])
    assert banned.tolist() == pytest.approx(normalized([0, P[1], P[2], P[3], 0]), abs=1e-7)
    assert next_distribution(LOGITS, Sampling(temperature=0), banned=[0]).tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("encoder", ["awd_lstm", "qrnn"])
def test_greedy_text_is_what_one_pass_expects(encoder: str) -> None:
    """Each token is the most likely one given all before it, as a pass over the whole text without a state says."""
    model, prompt = model_of(encoder), [2, 7, 11]
    found = list(model.generate(prompt, 40, temperature=0))
    assert len(found) == 40
    with torch.inference_mode():
        output = model(torch.tensor([*prompt, *found]).unsqueeze(1))
        logits = model.logits(output)[:, 0]
    expected = logits[len(prompt) - 1 : -1].argmax(1).tolist()
    assert found == expected


def test_a_long_prompt_is_read_in_pieces() -> None:
    model = model_of()
    prompt = torch.randint(0, 30, (1300,)).tolist()
    with torch.inference_mode():
        last = model.logits(model(torch.tensor(prompt).unsqueeze(1)))[-1, 0]
    assert next(model.generate(prompt, 1, temperature=0)) == int(last.argmax())


def test_seeds_and_the_callers_modes() -> None:
    model = model_of()
    texts = [list(model.generate([2], 30, seed=seed)) for seed in (5, 5, 6, None, None)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[3] != texts[4]
    state = torch.get_rng_state()
    stream = model.train().generate([2], None, seed=5)
    assert [next(stream) for _ in range(30)] == texts[0]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert not model.training
    stream.close()  # type: ignore[attr-defined]
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_drawn_tokens_follow_the_distribution() -> None:
    """The first token of many seeds, by a chi-squared bound that one run of a hundred thousand would miss."""
    model, count = model_of(), 600
    sampling = Sampling(temperature=1.5, top_k=4)
    with torch.inference_mode():
        logits = model.logits(model(torch.tensor([[2]])))[0, 0]
    expected = next_distribution(logits, sampling) * count
    drawn = torch.zeros(30, dtype=torch.float64)
    for seed in range(count):
        drawn[next(model.generate([2], 1, seed=seed, temperature=1.5, top_k=4))] += 1
    kept = expected > 0
    assert drawn[~kept].sum() == 0
    assert ((drawn - expected).square() / expected.clamp(min=1e-9))[kept].sum() < 25.9  # 3 degrees of freedom


def test_it_stops_and_bans() -> None:
    model = model_of()
    text = list(model.generate([2], 200, seed=1))
    stop = text[10]
    assert list(model.generate([2], 200, seed=1, stop=[stop])) == text[: text.index(stop)]
    assert stop not in list(model.generate([2], 200, seed=1, banned=[stop]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature must be at least 0"), ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0}, "top_p must be above 0"), ({"repetition_penalty": 0.5}, "repetition_penalty must be at least 1"),
        ({"tokens": []}, "tokens is empty"), ({"tokens": [30]}, r"must be in \[0, 30\), got 30"),
        ({"banned": range(30)}, "all tokens are banned"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of().generate(**{"tokens": [2], "max_tokens": 1} | options)  # type: ignore[arg-type]
