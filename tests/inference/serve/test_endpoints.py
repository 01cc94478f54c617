"""What the endpoints answer: the numbers of ``predict``, whatever else is asked; and each refusal with its reason."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inference.serve.conftest import Client
from tests.tiny import make_task
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.serve.limits import Limits
from ulmfit_fast.tasks.regression import Regression

Serve = Callable[..., Client]


def probabilities(answer: Any, labels: list[Any]) -> np.ndarray:
    return np.array([[row["probabilities"][label] for label in labels] for row in answer["predictions"]], np.float32)


def test_many_clients_get_the_bits_of_predict(serve: Serve, loaded: Classifiers, folder: Path) -> None:
    """Sixty requests of one to five texts at a time, of two models, are batched as it comes; nothing else changes."""
    clf = ULMFiTClassifier.load(folder)
    int8 = Classifiers.load([folder], precision="int8")
    client = serve({"clf": loaded, "int8": int8})
    texts, _ = make_task(100, seed=7)
    texts[11] = ""
    texts[12] = " ".join(texts)
    chosen = random.Random(0)
    requests = [(chosen.choices(range(100), k=chosen.randint(1, 5)), ("clf", "int8")[i % 2]) for i in range(60)]
    expected = {"clf": clf.predict_proba(texts), "int8": clf.quantize().predict_proba(texts)}

    def ask(request: tuple[list[int], str]) -> None:
        places, name = request
        own = Client(client.connection.port)
        status, answer, _ = own.ask(
            "/predict", {"texts": [texts[i] for i in places], "model": name, "probabilities": True}
        )
        own.close()
        assert (status, answer["model"]) == (200, name)
        assert probabilities(answer, ["bad", "good"]).tobytes() == expected[name][places].tobytes()
        assert [row["prediction"] for row in answer["predictions"]] == [
            clf.classes_[k] for k in expected[name][places].argmax(1)
        ]
        assert [np.float32(row["confidence"]) for row in answer["predictions"]] == expected[name][places].max(
            1
        ).tolist()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, requests))
    batches = metric(client, 'ulmfit_fast_batch_texts_count{model="clf"}')
    assert batches < metric(client, 'ulmfit_fast_predicted_texts_total{model="clf"}') / 2  # it did batch


def metric(client: Client, name: str) -> float:
    (line,) = [line for line in client.ask("/metrics")[1].splitlines() if line.startswith(name + " ")]
    return float(line.split()[-1])


def test_one_text_without_more(serve: Serve, loaded: Classifiers) -> None:
    client = serve({"clf": loaded})
    status, answer, _ = client.ask("/predict", {"texts": "great superb"})
    assert status == 200
    (expected,) = loaded.activated(["great superb"])
    row = {"prediction": ["bad", "good"][expected.argmax()], "confidence": float(expected.max())}
    assert answer == {"model": "clf", "predictions": [row]}
    assert client.ask("/predict", b'{"texts": "gr\\ud83dat"}')[0] == 200  # half a surrogate pair is a text, as ever


def test_what_there_is(serve: Serve, loaded: Classifiers) -> None:
    client = serve({"a": loaded, "b": loaded})
    one = {"task": "single_label", "labels": ["bad", "good"], "precision": "float32", "streams": True}
    one["explains"] = ["integrated_gradients", "occlusion", "sentence_occlusion", "chunks"]
    assert client.ask("/models")[1] == [{"name": "a", **one}, {"name": "b", **one}]
    assert client.ask("/health")[:2] == (200, {"status": "ok"})
    paths = client.ask("/openapi.json")[1]["paths"]
    assert set(paths) == {"/predict", "/explain", "/stream", "/models", "/health", "/metrics"}
    assert "413" in paths["/predict"]["post"]["responses"]
    assert client.ask("/docs")[0] == 200
    status, page, headers = client.ask("/")
    assert status == 200
    assert "<textarea" in page
    assert "https://" not in page.replace("http://www.w3.org", "")  # nothing from elsewhere
    assert "default-src 'none'" in headers["content-security-policy"]


def test_a_number_is_predicted_without_confidence(serve: Serve, loaded: Classifiers) -> None:
    model, tokenizer, _ = loaded.members[0]

    class Numbers(Classifiers):
        def activated(self, texts: Any, *_: Any) -> np.ndarray:
            return np.array([[1.5]] * len(texts), np.float32)

    client = serve({"n": Numbers([(model, tokenizer, Regression([]))])})
    answer = client.ask("/predict", {"texts": ["a", "b"], "probabilities": True})[1]
    assert answer["predictions"] == [{"prediction": 1.5}, {"prediction": 1.5}]


REFUSED: list[tuple[Any, int, str]] = [
    (b"{", 422, "the body is not JSON"),
    (b"\xff\xfe", 422, "the body "),
    (b"[" * 1900, 0, "the body"),  # 400 or 422, by how deep Python's parser may go
    ([], 422, "the body must be a JSON object"),
    ({}, 422, "the field 'texts' is missing"),
    ({"texts": 3}, 422, "texts must be a string or a list of strings"),
    ({"texts": ["a", None]}, 422, "texts[1] must be a string"),
    ({"texts": []}, 422, "texts is empty"),
    ({"texts": "a", "textes": "b"}, 422, "unknown field 'textes'"),
    ({"texts": "a", "probabilities": "yes"}, 422, "probabilities: "),
    ({"texts": "a", "model": 1}, 422, "model: "),
    ({"texts": "a", "model": "other"}, 404, "no model 'other'; there are clf"),
    ({"texts": ["a"] * 6}, 413, "6 texts in a request, at most 5"),
    ({"texts": ["a", "b" * 101]}, 413, "texts[1] has 101 characters, at most 100"),
    ({"texts": "a" * 3000}, 413, "the body is larger than 2,000 bytes"),
]


@pytest.fixture
def narrow(serve: Serve, loaded: Classifiers) -> Client:
    return serve({"clf": loaded}, Limits(body_bytes=2000, texts=5, text_characters=100))


@pytest.mark.parametrize(("body", "status", "reason"), REFUSED, ids=[reason for _, _, reason in REFUSED])
def test_a_refusal_says_why(body: Any, status: int, reason: str, narrow: Client) -> None:
    found, answer, _ = narrow.ask("/predict", body)
    assert found in ((400, 422) if status == 0 else (status,))
    assert list(answer) == ["detail"]
    assert reason in answer["detail"]


def test_two_hundred_malformed_requests(narrow: Client) -> None:
    """Each gets a status 4xx and a reason in words, and the server goes on."""
    chosen = random.Random(0)
    whole = json.dumps({"texts": ["fine film", "dull"], "model": "clf", "probabilities": True}).encode()
    values: list[Any] = [None, 1, -1.5, True, {}, {"a": 1}, [1], [[]], [None], [{}], ["a", 2], "x" * 101]
    for i in range(200):
        headers, path, method = {"content-type": "application/json"}, "/predict", "POST"
        match i % 8:
            case 0:
                body = whole[: chosen.randrange(1, len(whole) - 1)]
            case 1:
                body = bytes(chosen.randrange(128, 256) for _ in range(chosen.randrange(1, 200)))
            case 2:
                field = chosen.choice(["texts", "model", "probabilities", "text", ""])
                value = chosen.choice(values[:-1] if field != "probabilities" else [0, "a", [], {}])
                value = [3] if (field, value) == ("model", None) else value
                body = json.dumps({"texts": "a", field: value}).encode()
            case 3:
                body = json.dumps(chosen.choice(values)).encode()
            case 4:
                body, headers = whole, {"content-type": chosen.choice(["text/plain", "application/xml", ""])}
            case 5:
                body, path = whole, "/" + "".join(chosen.choices("abc/%20.?", k=8))
            case 6:
                body, method = whole, chosen.choice(["PUT", "DELETE", "PATCH", "GET"])
            case _:
                body = json.dumps({"texts": ["a" * 50] * chosen.randrange(6, 100)}).encode()
        status, answer, found = narrow.ask(path, body, method, headers)
        assert 400 <= status < 500, (i, body)
        assert len(answer["detail"]) > 10, (i, body)
        if found.get("connection") == "close":
            narrow.close()
    assert narrow.ask("/predict", {"texts": "fine"})[0] == 200


def test_what_is_not_http(narrow: Client) -> None:
    for sent in (b"\x16\x03\x01\x02\x00\x01\xfc\xff\r\n\r\n", b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", narrow.connection.port), 10) as raw:
            raw.sendall(sent)
            assert raw.recv(1000).startswith(b"HTTP/1.1 400")
    assert narrow.ask("/health")[0] == 200


def test_a_model_that_fails_says_so_and_goes_on(
    serve: Serve, loaded: Classifiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve({"clf": loaded})
    service_run = type(loaded).activated

    def fail(self: Classifiers, texts: Any, *rest: Any) -> np.ndarray:
        if "fail" in texts:
            raise RuntimeError("out of order")
        return service_run(self, texts, *rest)

    monkeypatch.setattr(type(loaded), "activated", fail)
    client = serve({"clf": loaded})
    assert client.ask("/predict", {"texts": "fail"})[:2] == (500, {"detail": "the server failed; its log says why"})
    client.close()
    assert client.ask("/predict", {"texts": "fine"})[0] == 200


def events(text: str) -> list[tuple[str | None, dict[str, Any]]]:
    found = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        found.append((lines.get("event"), json.loads(lines["data"])))
    return found


def test_a_stream_ends_with_the_prediction_of_the_whole(serve: Serve, loaded: Classifiers) -> None:
    client = serve({"clf": loaded})
    text = " ".join(make_task(9, seed=3)[0]) + "  \n"
    status, answer, headers = client.ask("/stream", {"text": text, "steps": 10})
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    found = events(answer)
    assert 8 <= len(found) <= 10
    assert [kind for kind, _ in found] == [None] * (len(found) - 1) + ["end"]
    for _, event in found:
        whole = loaded.activated([text[: event["characters"]]])[0]
        assert [np.float32(event["probabilities"][label]) for label in ("bad", "good")] == whole.tolist()
    assert found[-1][1]["characters"] == len(text)
    assert events(client.ask("/stream", {"text": ""})[1])[0][0] == "end"
    status, refused, _ = client.ask("/stream", {"text": "x" * 100_001})
    assert (status, refused["detail"].split(",")[0]) == (413, "text has 100")


def test_streams_are_few(serve: Serve, loaded: Classifiers) -> None:
    client = serve({"clf": loaded, "both": Classifiers(loaded.members * 2)}, Limits(streams=1))
    first, second = Client(client.connection.port), client
    first.connection.request(
        "POST", "/stream", json.dumps({"text": "fine film " * 9000, "steps": 500}), {"content-type": "application/json"}
    )
    answer = first.connection.getresponse()
    answer.readline()  # it has begun
    status, refused, headers = second.ask("/stream", {"text": "fine"})
    assert (status, headers["retry-after"]) == (503, "1")
    assert "1 texts are streamed already" in refused["detail"]
    first.close()  # a client that goes ends its stream
    answer.close()
    for _ in range(200):
        if second.ask("/stream", {"text": "fine"})[0] == 200:
            break
    else:
        pytest.fail("the stream goes on without its client")
    status, refused, _ = second.ask("/stream", {"text": "fine", "model": "both"})
    assert status == 422
    assert "several models" in refused["detail"]
