"""``/explain``: which words of a text speak for its prediction."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Response

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.explain import explain
from ulmfit_fast.inference.serve.limits import RefusedError
from ulmfit_fast.inference.serve.routes import REFUSALS
from ulmfit_fast.inference.serve.schema import ExplainAnswer, ExplainBody
from ulmfit_fast.inference.serve.service import ServedModel, Service


def router(service: Service) -> APIRouter:
    """``/explain`` of a service. A thread of its own explains one text after the other."""
    routes = APIRouter()
    thread = ThreadPoolExecutor(1, "explain")
    waiting: set[asyncio.Future[dict[str, Any]]] = set()

    @routes.post("/explain", response_model=ExplainAnswer, response_model_exclude_none=True, responses=REFUSALS)
    async def explain_text(body: ExplainBody) -> Response:
        """Explain the prediction of one text, word by word.

        A weight is the part's share of the label's log-odds, or of the number. It takes many times as long as the
        prediction.
        """
        model, limits = service.model(body.model), service.limits
        service.check_texts([body.text], "text")
        if len(body.text) > limits.explained_characters:
            raise RefusedError(
                413,
                f"text has {len(body.text):,} characters, at most {limits.explained_characters:,} are explained here; "
                "shorten it, or use the command explain",
            )
        if len(waiting) >= limits.explanations:
            raise RefusedError(503, f"{len(waiting)} texts are being explained already; try again in a moment")
        work = asyncio.get_running_loop().run_in_executor(thread, _explained, model, body)
        waiting.add(work)
        work.add_done_callback(waiting.discard)
        try:
            async with asyncio.timeout(limits.queue_seconds):
                found = await asyncio.shield(work)
        except TimeoutError:
            work.cancel()  # where it has not begun
            raise RefusedError(503, f"the explanation did not come within {limits.queue_seconds:g} s") from None
        except InputError as error:
            raise RefusedError(422, str(error)) from None
        return Response(json.dumps({"model": model.name, **found}, ensure_ascii=False), media_type="application/json")

    return routes


def _explained(model: ServedModel, body: ExplainBody) -> dict[str, Any]:
    return explain(model.classifiers.members, body.text, body.method or model.explains[0], body.label).to_dict()
