"""What a server refuses: bodies that are too large or too slow, and work beyond what it can hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, fields
from typing import Any

from ulmfit_fast.core.errors import InputError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_DISCARDED = 16 << 20  # bytes of a refused body that are read, so that its sender comes to read the answer
_DISCARDING_S = 5.0  # and for how long at most


@dataclass(frozen=True)
class Limits:
    """How much a server takes. What goes beyond is answered with a reason, 4xx or 503, and costs next to nothing.

    Args:
        body_bytes: of a request.
        body_seconds: within which a body must have come.
        held_bytes: of all requests that are being answered.
        texts: of a request.
        text_characters: of a text.
        queue_texts: that wait to be predicted, for each model.
        queue_seconds: that a request may wait and compute.
        streams: texts that are predicted piece by piece at a time.
        explanations: texts that are explained, or wait for it, at a time.
        explained_characters: of a text that is explained.
        connections: open at a time.

    Raises:
        InputError: one is not positive.
    """

    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    held_bytes: int = 64 << 20
    texts: int = 256
    text_characters: int = 100_000
    queue_texts: int = 2048
    queue_seconds: float = 60.0
    streams: int = 8
    explanations: int = 8
    explained_characters: int = 10_000
    connections: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(f"Limits: {field.name} must be positive, got {getattr(self, field.name)}")


class RefusedError(Exception):
    """A request that is refused: the status and the reason of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason

    @property
    def headers(self) -> dict[str, str]:
        """Busy is busy for a moment."""
        return {"retry-after": "1"} if self.status == 503 else {}


class BodyLimits:
    """Reads each request's body whole before the app below sees it, within the limits.

    A server that is stopping (``stopping`` is True) asks its clients to close their connections after each answer.
    """

    def __init__(self, app: App, limits: Limits, stopping: Callable[[], bool]) -> None:
        self.app, self.limits, self.stopping = app, limits, stopping
        self.held = 0  # bytes of bodies whose requests are being answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reader = _Body(scope, receive, self)
        try:
            try:
                body = await reader.read()
            except RefusedError as refused:
                await _answer(refused, send)
                return
            if body is None:  # its sender has gone
                return
            await self.app(scope, _replay(body, receive), self._closing(send))
        finally:
            self.held -= reader.held

    def _closing(self, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self.stopping():
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        return closing


class _Body:
    """One request's body as it comes; ``held`` of its bytes count among those of all."""

    def __init__(self, scope: Scope, receive: Receive, owner: BodyLimits) -> None:
        self.headers = dict(scope["headers"])
        self.receive, self.owner, self.held = receive, owner, 0

    async def read(self) -> bytes | None:
        limits, parts = self.owner.limits, []
        declared = self.headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limits.body_bytes:
            await self._refuse_large()
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    self.held += len(part)
                    self.owner.held += len(part)
                    if self.held > limits.body_bytes:
                        await self._refuse_large()
                    if self.owner.held > limits.held_bytes:
                        raise RefusedError(503, "the server holds as many requests as it can; try again in a moment")
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise RefusedError(408, f"the body did not come within {limits.body_seconds:g} s") from None

    async def _refuse_large(self) -> None:
        """Raises, once what still comes has been read: a connection that is closed before resets its sender."""
        if b"expect" not in self.headers:  # else it waits to be asked for the body
            read = 0
            try:
                async with asyncio.timeout(_DISCARDING_S):
                    while read < _DISCARDED:
                        message = await self.receive()
                        read += len(message.get("body", b""))
                        if not message.get("more_body", False):
                            break
            except TimeoutError:
                pass
        raise RefusedError(413, f"the body is larger than {self.owner.limits.body_bytes:,} bytes; send fewer texts")


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()  # which tells when the client has gone
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(refused: RefusedError, send: Send) -> None:
    body = json.dumps({"detail": refused.reason}).encode()
    headers = {
        "content-type": "application/json", "content-length": str(len(body)), "connection": "close", **refused.headers,
    }  # fmt: skip
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
