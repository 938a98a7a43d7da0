"""The HTTP edge: routes, bounds and the translation of errors to status codes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.requests import ClientDisconnect

from architect.core.errors import FormatError
from architect.webhook import admission, metrics, review
from architect.webhook.crowd import Held

log = logging.getLogger(__name__)


class Decide(Protocol):
    """What is done with what the API server asks."""

    def __call__(self, request: review.Request, /, *, has_gvisor: bool) -> review.Answer:
        """Return the answer."""


_DECISIONS: Final[dict[str, Decide]] = {
    "mutate": admission.mutate,
    "validate": admission.validate,
}


class TooLarge(Exception):
    """A body over the bound."""


class Crowded(Exception):
    """A large body beside too many others."""


@dataclass(kw_only=True)
class Service:
    """What the routes share with the process around them."""

    why_not_ready: Callable[[], str | None]
    has_gvisor: bool = False
    """Whether the cluster has the runtime class of gVisor."""
    metrics: metrics.Metrics = field(default_factory=metrics.Metrics)
    held: Held = field(default_factory=Held)
    draining: bool = False
    """Set at the end: not ready, and every answer closes its connection, so that the API server
    opens its next one to another replica."""


def create_app(service: Service) -> FastAPI:
    """Return the application."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)

    @app.post("/mutate")
    async def mutate(request: Request) -> Response:
        return await _admit(service, "mutate", request)

    @app.post("/validate")
    async def validate(request: Request) -> Response:
        return await _admit(service, "validate", request)

    @app.get("/healthz")
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> Response:
        reason = "draining" if service.draining else service.why_not_ready()
        if reason is not None:
            return PlainTextResponse(f"{reason}\n", status_code=503)
        return PlainTextResponse("ok\n")

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    return app


async def _admit(service: Service, path: str, request: Request) -> Response:
    response = await _answer(service, path, request)
    if service.draining:
        response.headers["connection"] = "close"
    return response


async def _answer(service: Service, path: str, request: Request) -> Response:
    counted = service.metrics.admissions
    try:
        body = await _bounded_body(request, service.held)
    except Crowded:
        counted.labels(path, metrics.CROWDED).inc()
        text = "too many large bodies arrive at once\n"
        return PlainTextResponse(text, status_code=503, headers={"connection": "close"})
    except TooLarge:
        counted.labels(path, metrics.MALFORMED).inc()
        text = f"body is larger than {review.MAX_BODY_BYTES} bytes\n"
        # What is left of the body would be read as the next request.
        return PlainTextResponse(text, status_code=413, headers={"connection": "close"})
    except ClientDisconnect:
        counted.labels(path, metrics.MALFORMED).inc()
        return PlainTextResponse("the client went away\n", status_code=400)
    started = time.perf_counter()
    try:
        asked = review.parse(body)
        answer = _DECISIONS[path](asked, has_gvisor=service.has_gvisor)
        rendered = review.render(asked, answer)
    except FormatError as error:
        counted.labels(path, metrics.MALFORMED).inc()
        log.warning("malformed request: %s", error, extra={"fields": {"path": path}})
        text = str(error).encode("ascii", "backslashreplace").decode("ascii")
        return PlainTextResponse(f"{text}\n", status_code=400)
    seconds = time.perf_counter() - started
    service.metrics.seconds.labels(path).observe(seconds)
    counted.labels(path, answer.result).inc()
    _log(path, asked, answer, seconds=seconds)
    return Response(rendered, media_type="application/json")


async def _bounded_body(request: Request, held: Held) -> bytes:
    """Return the body. Raises TooLarge as soon as it is known to be too large, Crowded."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and len(length) < 20 and int(length) > review.MAX_BODY_BYTES:
        raise TooLarge
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > review.MAX_BODY_BYTES:
                raise TooLarge
            if not held.has_room(len(body), len(chunk)):
                raise Crowded
            body += chunk
        return bytes(body)
    finally:
        held.drop(len(body))


def _log(path: str, asked: review.Request, answer: review.Answer, *, seconds: float) -> None:
    level = logging.DEBUG if answer.result == admission.IGNORED else logging.INFO
    fields = {
        "path": path,
        "uid": asked.uid,
        "kind": asked.kind,
        "namespace": asked.namespace,
        "name": asked.name,
        "milliseconds": round(seconds * 1000, 3),
    }
    if answer.message:
        fields["message_to_user"] = answer.message[:500]
    if answer.warnings:
        fields["warnings"] = list(answer.warnings[:4])
    log.log(level, "%s", answer.result, extra={"fields": fields})
