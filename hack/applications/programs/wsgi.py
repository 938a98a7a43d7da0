"""The application for gunicorn: one count in each of its worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import counting


def application(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    """Answer one request."""
    body = counting.answer(environ["PATH_INFO"])
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
