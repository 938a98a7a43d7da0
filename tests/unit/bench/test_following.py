"""Asking an address until somebody else answers."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import following
from bench.following import Followers


@contextmanager
def serving(hosts: list[str]) -> Iterator[int]:
    """Answer with one of *hosts* after the other, and with the last from then on."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = hosts.pop(0) if len(hosts) > 1 else hosts[0]
            if host == "refuses":
                return  # the connection is closed
            body = json.dumps({"host": host, "identity": "i"}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_first_of_the_new_and_the_last_of_the_old_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(following, "AFTER_SECONDS", 0.1)
    with serving(["old", "old", "refuses", "new"]) as port:
        followers = Followers()
        followers.follow("a", "127.0.0.1", port, "/", "old", 0.01)
        found = followers.followed("a", 30)
        assert found["first"]["host"] == "new"
        assert found["last_known"]["host"] == "old"
        assert found["last_known"]["at"] <= found["first"]["at"]
        counted = followers.counted("a", 30)
        assert counted["failed"] == 1
        assert counted["asked"] >= 4
        followers.unfollow()


def test_who_never_answers_is_told_as_nobody() -> None:
    with serving(["refuses"]) as port:
        followers = Followers()
        followers.follow("a", "127.0.0.1", port, "/", "old", 0.01)
        assert followers.followed("a", 0.2) == {"first": None, "last_known": None}
        followers.unfollow()
