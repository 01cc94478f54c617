"""``/stream``: one text as it comes, and what is predicted of it so far, as server-sent events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Response
from starlette.responses import StreamingResponse

from ulmfit_fast.inference.serve.limits import RefusedError
from ulmfit_fast.inference.serve.routes import REFUSALS
from ulmfit_fast.inference.serve.schema import StreamBody
from ulmfit_fast.inference.serve.service import ServedModel, Service
from ulmfit_fast.inference.stream import TextStream

_WORD = re.compile(r"\s*\S+\s*")
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "an event for each piece, the last named end"}
}


def router(service: Service) -> APIRouter:
    """``/stream`` of a service. A thread of its own reads all such texts, piece after piece in turn."""
    routes = APIRouter()
    thread = ThreadPoolExecutor(1, "stream")

    @routes.post("/stream", response_class=StreamingResponse, responses=REFUSALS | _EVENTS)
    async def stream(body: StreamBody) -> Response:
        """Predict a text while it comes, piece by piece.

        Each event has the characters read so far and the prediction; the last one equals that of `/predict`.
        """
        model = service.model(body.model)
        service.check_texts([body.text], "text")
        reader = model.stream()
        if service.streaming >= service.limits.streams:
            raise RefusedError(503, f"{service.streaming} texts are streamed already; try again in a moment")
        events = _events(service, model, reader, body, thread)
        # Not kept, not held back by a proxy until there is more.
        return StreamingResponse(
            events, media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )

    return routes


async def _events(
    service: Service, model: ServedModel, reader: TextStream, body: StreamBody, thread: ThreadPoolExecutor
) -> AsyncIterator[bytes]:
    loop, read = asyncio.get_running_loop(), 0
    service.streaming += 1
    service.metrics.streams.inc()
    try:
        for piece in pieces(body.text, body.steps):
            read += len(piece)
            found = await loop.run_in_executor(thread, _step, model, reader, piece)
            yield _event({"characters": read, **found}, "end" if read == len(body.text) else None)
    except Exception as error:  # the answer has begun: its status can no longer tell
        yield _event({"detail": str(error)}, "error")
    finally:
        service.streaming -= 1
        service.metrics.streams.dec()


def _step(model: ServedModel, reader: TextStream, piece: str) -> dict[str, Any]:
    reader.feed(piece)
    return model.predictions(reader.predict_proba()[None], True)[0]


def pieces(text: str, steps: int) -> Iterator[str]:
    """The text in about so many pieces of whole words; an empty text is one piece."""
    words = _WORD.findall(text) or [text]
    each = -(-len(words) // steps)
    for first in range(0, len(words), each):
        yield "".join(words[first : first + each])


def _event(content: dict[str, Any], name: str | None) -> bytes:
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
