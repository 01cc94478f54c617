"""The endpoints that answer in one piece: predictions, models, health, metrics, and the page to try them on."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from fastapi import APIRouter, Response

from ulmfit_fast.inference.serve.schema import ModelAnswer, PredictAnswer, PredictBody, Refusal
from ulmfit_fast.inference.serve.service import Service

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refusal, "description": text}
    for status, text in (
        (404, "no such model"), (408, "the body came too slowly"), (413, "a body, a text, or texts beyond the limits"),
        (422, "a body of another form"), (503, "too much waits already"),
    )
}  # fmt: skip
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def router(service: Service) -> APIRouter:
    """``/predict``, ``/models``, ``/health``, ``/metrics`` and ``/`` of a service."""
    routes = APIRouter()
    page = resources.files(__package__).joinpath("page.html").read_bytes()

    @routes.post("/predict", response_model=PredictAnswer, response_model_exclude_none=True, responses=REFUSALS)
    async def predict(body: PredictBody) -> Response:
        """Predict one text or several.

        The numbers are those of `ulmfit-fast predict`, to the bit in float32, whatever else is asked at the time.
        """
        model = service.model(body.model)
        texts = [body.texts] if isinstance(body.texts, str) else body.texts
        service.check_texts(texts)
        activated = await model.batcher.predict(texts, service.limits.queue_seconds)
        return _as_json({"model": model.name, "predictions": model.predictions(activated, body.probabilities)})

    @routes.get("/models")
    async def models() -> list[ModelAnswer]:
        """The models that are served; the first is that of requests that name none."""
        return [ModelAnswer(**model.description()) for model in service.models.values()]

    @routes.get("/health", responses={503: {"description": "the server is stopping"}})
    async def health() -> Response:
        """Whether new requests should come here."""
        if service.stopping:
            return _as_json({"status": "stopping"}, 503)
        return _as_json({"status": "ok"})

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times, in Prometheus's text form."""
        return Response(service.metrics.text(), media_type=service.metrics.CONTENT_TYPE)

    @routes.get("/", include_in_schema=False)
    async def index() -> Response:
        headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff"}
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return routes


def _as_json(content: Any, status: int = 200) -> Response:
    """Labels may be any text; numbers keep all their digits."""
    return Response(json.dumps(content, ensure_ascii=False).encode(), status, media_type="application/json")
