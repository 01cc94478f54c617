"""What a server counts, in Prometheus's text form."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from ulmfit_fast.inference.serve.limits import App, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)
_OTHER = "other"  # whatever is asked for that there is not: no path of a stranger becomes a series


class Metrics:
    """A server's own registry: several in one process do not mix."""

    CONTENT_TYPE = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        named = {"namespace": "ulmfit_fast", "registry": self.registry}
        self.requests = Counter("requests", "answered requests", ("path", "status"), **named)  # type: ignore[arg-type]
        self.seconds = Histogram(
            "request_seconds", "from a request's head to its answer's end", ("path",), buckets=_SECONDS, **named  # type: ignore[arg-type]
        )  # fmt: skip
        self.texts = Counter("predicted_texts", "texts predicted", ("model",), **named)  # type: ignore[arg-type]
        self.batch_texts = Histogram("batch_texts", "texts of a batch", ("model",), buckets=_TEXTS, **named)  # type: ignore[arg-type]
        self.batch_seconds = Histogram(
            "batch_seconds", "computing a batch", ("model",), buckets=_SECONDS, **named  # type: ignore[arg-type]
        )  # fmt: skip
        self.waiting = Gauge("waiting_texts", "texts that wait to be predicted", ("model",), **named)  # type: ignore[arg-type]
        self.streams = Gauge("streams", "texts that are predicted piece by piece now", **named)  # type: ignore[arg-type]

    def of_model(self, name: str, waiting: Callable[[], float]) -> None:
        """Each model has its series from the beginning."""
        self.waiting.labels(name).set_function(waiting)
        self.texts.labels(name)

    def observer(self, name: str) -> BatchObserver:
        return BatchObserver(self, name)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class BatchObserver:
    """Tells the metrics of one model's batches."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._texts = metrics.texts.labels(name)
        self._batch_texts = metrics.batch_texts.labels(name)
        self._seconds = metrics.batch_seconds.labels(name)

    def batch(self, texts: int, seconds: float) -> None:
        self._texts.inc(texts)
        self._batch_texts.observe(texts)
        self._seconds.observe(seconds)


class Measured:
    """Counts and times what the app below answers."""

    def __init__(self, app: App, metrics: Metrics, paths: frozenset[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self.paths else _OTHER
            self.metrics.requests.labels(path, str(status) if status else "gone").inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - start)
