"""Lines of JSON between the benchmark and its processes inside nodes: the outer side."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchError
from lab import commands

CLOSE_SECONDS: Final = 60.0
ERROR_TAIL_BYTES: Final = 2000


class Remote:
    """A process that answers requests; see :mod:`bench.serving`."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], *, log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log
        self._unread = b""

    def call(self, op: str, *, timeout_seconds: float, **arguments: Any) -> dict[str, Any]:
        """Return the answer. Raises BenchError if it failed, is late or will not come."""
        self._send({"op": op, **arguments})
        answer = self._receive(op, timeout_seconds)
        if answer.pop("ok", None) is not True:
            shown = {key: str(value)[:60] for key, value in arguments.items()}
            raise BenchError(f"{self._name}: {op} {shown}: {answer.get('error')}")
        return answer

    def close(self) -> None:
        """Let it clean up and end; kill it if it does not. Closing twice is harmless."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone already
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            commands.kill_group(self._process)
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchError(f"{self._name} is gone: {error}\n{self._said()}") from error

    def _receive(self, op: str, timeout_seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_seconds
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise BenchError(
                    f"{self._name}: {op}: no answer within {timeout_seconds:g} s\n{self._said()}"
                )
            data = os.read(descriptor, 65536)
            if not data:
                raise BenchError(f"{self._name} ended during {op}\n{self._said()}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return dict(json.loads(line))

    def _said(self) -> str:
        try:
            return self._log.read_bytes()[-ERROR_TAIL_BYTES:].decode(errors="replace").strip()
        except FileNotFoundError:
            return ""
