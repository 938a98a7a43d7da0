"""AdmissionReview (admission.k8s.io/v1) on the wire: bytes in, bytes out. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from architect.core import podspec
from architect.core.errors import FormatError
from architect.webhook.patch import Operation

API_VERSION: Final = "admission.k8s.io/v1"

MAX_BODY_BYTES: Final = 3 * 1024 * 1024
"""The API server accepts objects of up to 3 MiB from its clients."""

MAX_WARNING_CHARACTERS: Final = 256
MAX_WARNINGS: Final = 16
"""The API server cuts longer warnings and drops those past 4096 characters in all."""

MAX_MESSAGE_CHARACTERS: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the API server asks about."""

    uid: str
    kind: str
    operation: str
    namespace: str = ""
    name: str = ""
    """Empty for an object that gets its name (``generateName``) from the API server."""
    object: Mapping[str, Any] = field(default_factory=dict)
    old_object: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What we say."""

    result: str
    """One word for the metric and the log."""
    message: str = ""
    """Why it is refused; empty: it is allowed."""
    warnings: tuple[str, ...] = ()
    patch: Sequence[Operation] = ()


def parse(body: bytes) -> Request:
    """Return the request that *body* holds. Raises FormatError with the field that is wrong."""
    try:
        review = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"body is not JSON: {str(error)[:200]}") from error
    review = _present(review, "body")
    if review.get("kind") != "AdmissionReview" or review.get("apiVersion") != API_VERSION:
        raise FormatError(
            f"body is not an AdmissionReview of {API_VERSION}",
            hint="the webhook configuration must list admissionReviewVersions: [v1]",
        )
    request = _present(review.get("request"), "request")
    uid = podspec.text(request.get("uid"), "request.uid")
    if uid is None:
        raise FormatError("request.uid is empty")
    kind = podspec.text(_present(request.get("kind"), "request.kind").get("kind"), "request.kind")
    operation = podspec.text(request.get("operation"), "request.operation")
    if kind is None or operation is None:
        raise FormatError("request.kind or request.operation is empty")
    found = podspec.fields(request.get("object"), "request.object")
    metadata = podspec.fields(found.get("metadata"), "metadata")
    return Request(
        uid=uid,
        kind=kind,
        operation=operation,
        namespace=podspec.text(request.get("namespace"), "request.namespace") or "",
        name=podspec.text(request.get("name"), "request.name")
        or podspec.text(metadata.get("generateName"), "metadata.generateName")
        or "",
        object=found,
        old_object=podspec.fields(request.get("oldObject"), "request.oldObject"),
    )


def render(request: Request, answer: Answer) -> bytes:
    """Return the AdmissionReview that carries *answer* to *request*."""
    response: dict[str, Any] = {"uid": request.uid, "allowed": not answer.message}
    if answer.message:
        response["status"] = {
            "status": "Failure",
            "code": 422,
            "reason": "Invalid",
            "message": _cut(answer.message, MAX_MESSAGE_CHARACTERS),
        }
    elif answer.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(list(answer.patch)).encode()).decode()
    if answer.warnings:
        response["warnings"] = [
            _cut(text, MAX_WARNING_CHARACTERS) for text in answer.warnings[:MAX_WARNINGS]
        ]
    review = {"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}
    # ASCII: a lone surrogate, legal in JSON, has no UTF-8.
    return json.dumps(review, ensure_ascii=True).encode("ascii")


def _present(value: Any, path: str) -> Mapping[str, Any]:
    if value is None:
        raise FormatError(f"{path} is absent")
    return podspec.fields(value, path)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
