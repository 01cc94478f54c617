"""The application: endpoints, what surrounds them, and errors as ``{"detail": reason}``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ulmfit_fast.inference.serve import explaining, routes, streaming
from ulmfit_fast.inference.serve.limits import BodyLimits, RefusedError
from ulmfit_fast.inference.serve.metrics import Measured
from ulmfit_fast.inference.serve.schema import reason_of
from ulmfit_fast.inference.serve.service import Service
from ulmfit_fast.text.rules import encodable

# What makes endpoints of a service; a further one is a further module here.
ROUTERS: tuple[Callable[[Service], APIRouter], ...] = (routes.router, streaming.router, explaining.router)


def make_app(service: Service) -> FastAPI:
    """The application of a service; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="ulmfit_fast", description="Text classification. A page to try it on is at /.", lifespan=lifespan,
        redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    for router in ROUTERS:
        app.include_router(router(service))
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _failed)
    paths = frozenset([*app.openapi()["paths"], "/", "/docs", "/openapi.json"])
    app.add_middleware(BodyLimits, limits=service.limits, stopping=lambda: service.stopping)
    app.add_middleware(Measured, metrics=service.metrics, paths=paths)  # the outermost
    return app


def _answer(status: int, reason: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"detail": encodable(reason)}, status, headers)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return _answer(error.status, error.reason, error.headers)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _answer(422, reason_of(list(error.errors())))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    path = request.scope["path"][:100]  # request.url would decode the query, which may be any bytes
    reasons = {
        404: f"there is no {path}; /docs lists what there is",
        405: f"{path} takes no {request.method}; /docs lists what it takes",
    }
    return _answer(error.status_code, reasons.get(error.status_code, str(error.detail)), error.headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return _answer(500, "the server failed; its log says why")
