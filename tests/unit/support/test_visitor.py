"""The client of the fleets: it notices a server that has forgotten something."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support import fleets

SECONDS = 60.0


class Handler(http.server.BaseHTTPRequestHandler):
    count = 0
    lock = threading.Lock()

    def do_GET(self) -> None:
        with self.lock:
            type(self).count += 1
            body = json.dumps({"identity": "one", "count": self.count}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def visits(*targets: str) -> Iterator[fleets.Visits]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", fleets.VISITOR, "0.01", *targets],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield fleets.Visits(process)
    finally:
        process.kill()
        process.communicate()


def until(found: fleets.Visits, condition: Callable[[Any], object]) -> dict[str, dict[str, Any]]:
    deadline = time.monotonic() + SECONDS
    while not condition(told := found.told()):
        assert time.monotonic() < deadline, told
        time.sleep(0.02)
    return told


def test_a_server_that_counts_less_than_before_is_noticed() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with visits(f"a=127.0.0.1:{server.server_address[1]}") as found:
            until(found, lambda told: told["a"]["answered"] > 2)
            found.check()
            assert found.are_served(within=SECONDS)
            with Handler.lock:
                Handler.count = 0
            told = until(found, lambda told: told["a"]["went_back"])
            assert told["a"]["went_back"][0].startswith("one counts 1 after ")
            with pytest.raises(AssertionError):
                found.check()
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_is_not_there_is_silent_and_no_error() -> None:
    with visits("a=127.0.0.1:1") as found:
        told = until(found, lambda told: told["a"]["failed"] > 1)
        assert told["a"]["answered"] == 0
        assert not found.are_served(within=0.0)
