"""Requests to the server's application, in this process: any path, headers, body, pieces, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.fuzz.mutations import any_json, any_text, damaged, damaged_json
from tests.fuzz.surface import Case, Surface
from tests.tiny import make_task
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.serve.app import make_app
from ulmfit_fast.inference.serve.limits import Limits
from ulmfit_fast.inference.serve.service import Service
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.tasks.task import task_of
from ulmfit_fast.text.tokenizer import Tokenizer

_PATHS = (
    "/predict",
    "/predict",
    "/predict",
    "/stream",
    "/stream",
    "/models",
    "/health",
    "/metrics",
    "/",
    "/docs",
    "/openapi.json",
)
_METHODS = ("POST", "POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X")
_BODIES = (
    {"texts": ["a film", "great"], "probabilities": True, "model": "clf"}, {"texts": "dull"},
    {"text": "the film was really great and fine", "steps": 3}, {"text": "", "model": "several"},
)  # fmt: skip
_EXPECTED = {200, 204, 400, 404, 405, 408, 413, 422, 503}
_LIMITS = Limits(body_bytes=20_000, held_bytes=60_000, body_seconds=0.2, text_characters=5000, texts=30)


class Requests(Surface):
    name = "requests"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        logging.disable(logging.CRITICAL)
        torch.manual_seed(0)
        texts, _ = make_task(40)
        tokenizer = Tokenizer.train_words(texts, min_frequency=1)
        models = {}
        for name, task in {
            "clf": task_of("single_label", ["bad", "good"]),
            "several": task_of("multi_label", ["x", "é"]),
        }.items():
            encoder = AWDLSTM(AWDLSTMConfig(len(tokenizer), 6, 8, 2, pad_id=tokenizer.pad_id))
            models[name] = Classifiers([(TextClassifier(encoder, task.outputs).eval(), tokenizer, task)])
        self.loop = asyncio.new_event_loop()
        self.service = Service(models, _LIMITS)
        self.app = make_app(self.service)

    def case(self, random: Random) -> Case:
        method = random.choice(_METHODS)
        path = random.choice(_PATHS) if random.random() < 0.9 else _any_path(random)
        body = _body(random)
        self.size = len(body)
        headers = _headers(random, body)
        parts = _parts(random, body)
        leaves = random.choice((None, None, None, random.randrange(len(parts) + 2)))
        query = b"" if random.random() < 0.9 else random.randbytes(5)
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": random.choice(("1.1", "1.0", "2")),
            "method": method, "scheme": "http", "path": path, "raw_path": path.encode("utf-8", "replace"),
            "query_string": query, "root_path": "", "headers": headers, "client": ("127.0.0.1", 1), "server": ("x", 80),
        }  # fmt: skip
        return lambda: self.loop.run_until_complete(self._ask(scope, parts, leaves))

    async def _ask(self, scope: dict[str, Any], parts: list[bytes], leaves: int | None) -> None:
        sent: list[dict[str, Any]] = []
        given = 0
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal given
            if leaves is not None and given >= leaves:
                return {"type": "http.disconnect"}
            if given < len(parts):
                given += 1
                return {"type": "http.request", "body": parts[given - 1], "more_body": given < len(parts)}
            await gone.wait()  # the client waits for the answer
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await asyncio.wait_for(self.app(scope, receive, send), 15)
        gone.set()
        if not sent:
            assert leaves is not None, "no answer"
            return
        status = sent[0]["status"]
        assert status in _EXPECTED, (status, sent[1:2])
        body = b"".join(message.get("body", b"") for message in sent[1:])
        body.decode()
        if status >= 400 and scope["method"] != "HEAD":
            assert isinstance(json.loads(body)["detail"], str)
        if status == 200 and scope["path"] == "/stream" and leaves is None:
            assert b"event: end" in body
            assert b"event: error" not in body
        assert self.app_is_empty(), "work is left behind"

    def app_is_empty(self) -> bool:
        return self.service.streaming == 0


def _any_path(random: Random) -> str:
    return "/" + random.choice(("predict/", "../etc/passwd", "static/..%2f", "models/clf", "PREDICT", any_text(random)))


def _body(random: Random) -> bytes:
    body: Any = random.choice(_BODIES)
    match random.randrange(8):
        case 0:
            return damaged(random, json.dumps(body).encode())
        case 1:
            return json.dumps(any_json(random)).encode()
        case 2:
            return random.randbytes(random.randrange(200))
        case 3:
            return random.choice((b"", b"[" * 15_000, b'{"texts": ' * 1500, b"9" * 19_000,
            b'{"texts": "' + b"a " * 9000 + b'"}',
                                  b'{"texts": ["' + b'","' * 5000 + b'"]}', b" " * 30_000,
                                  b"\xff\xfe{\x00}\x00"))  # fmt: skip
        case 4:
            return json.dumps(body | {"texts": [any_text(random) for _ in range(random.randrange(40))]}).encode()
        case _:
            return json.dumps(damaged_json(random, body)).encode()


def _headers(random: Random, body: bytes) -> list[tuple[bytes, bytes]]:
    kind = random.choice(
        (b"application/json",) * 8 + (b"text/plain", b"", b"application/x-www-form-urlencoded",
         b"multipart/form-data; boundary=x",
         b"application/json; charset=utf-16", random.randbytes(8), b"application/vnd.api+json")
    )  # fmt: skip
    length = random.choice((str(len(body)).encode(),) * 8 + (b"-1", b"0", b"x", b"9" * 30, b"", "²".encode("latin-1")))
    headers = [(b"host", b"x"), (b"content-type", kind), (b"content-length", length)]
    if random.random() < 0.2:
        name = random.choice(
            (b"accept", b"accept-encoding", b"expect", b"origin", b"range", b"x-forwarded-for", b"cookie")
        )
        headers.append((name, random.choice((b"*/*", b"gzip", b"100-continue", random.randbytes(20), b"bytes=0-"))))
    random.shuffle(headers)
    return headers[: random.choice((3, 4, 4, 4, 2))]


def _parts(random: Random, body: bytes) -> list[bytes]:
    if random.random() < 0.7 or not body:
        return [body]
    cuts = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(1, 6)))
    return [body[first:after] for first, after in zip([0, *cuts], [*cuts, len(body)], strict=True)]
