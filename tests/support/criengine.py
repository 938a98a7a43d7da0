"""One method of an engine's CRI socket, which answers as a test says."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc


def field(number: int, value: bytes) -> bytes:
    """Return a message of one field, short."""
    return bytes([number << 3 | 2, len(value)]) + value


class CriEngine:
    """The engine, at a socket, with what it was asked."""

    def __init__(self, path: Path, method: str) -> None:
        self.asked: list[bytes] = []
        self.answer: Callable[[bytes], bytes] = lambda _: b""
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(self._answer)
        service, _, name = method[1:].partition("/")
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(service, {name: handler})]
        )
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def _answer(self, request: bytes, _: Any) -> bytes:
        self.asked.append(request)
        return self.answer(request)

    def close(self) -> None:
        self._server.stop(0).wait()
