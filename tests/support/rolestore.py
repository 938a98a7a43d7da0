"""An object store for roles: it takes what is signed with a session token, as Amazon's does.

versitygw, which keeps what is stored, refuses tokens. So this stands before it, verifies the
signature and the token, and sends each request on as the store's own user. A program::

    python -m support.rolestore ADDRESS PORT BACK_PORT

Its first line of input is JSON: ``{"holders": [[access key, secret key, token], …], "own": [access
key, secret key]}``. Each further one is answered by a line of JSON: the number of requests that
were carried out, by access key.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from support import tokenstore
from support.cloudmetadata.server import Reply, Request
from support.tokenstore import Keys

HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})
SECONDS = 60.0


class RoleStore:
    """One before the store at *back_port* of *address*."""

    def __init__(
        self, address: str, port: int, back_port: int, *, holders: list[Keys], own: tuple[str, str]
    ) -> None:
        self.used: Counter[str] = Counter()
        self._back = (address, back_port)
        self._holders = {keys.access_key: keys for keys in holders}
        self._own = own
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                outer._serve(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

            def log_message(self, format: str, *args: object) -> None:
                """Only what was carried out is told."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that has gone is its own business."""

        self._server = Server((address, port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        address = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        request = Request(
            method=handler.command,
            path=address.path,
            query={k: v[-1] for k, v in parse_qs(address.query, keep_blank_values=True).items()},
            headers={k.lower(): v for k, v in handler.headers.items()},
            body=body,
        )
        who = tokenstore.verified(request, self._holders)
        if isinstance(who, Reply):
            self._send(handler, who.status, {}, who.body)
            return
        with self._lock:
            self.used[who.access_key] += 1
        headers = tokenstore.signed_anew(request, *self._own)
        back = http.client.HTTPConnection(*self._back, timeout=SECONDS)
        try:
            back.putrequest(request.method, handler.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name not in HOP:
                    back.putheader(name, value)
            back.endheaders(body or None)
            answer = back.getresponse()
            data = answer.read()
            given = {k: v for k, v in answer.getheaders() if k.lower() not in HOP}
            self._send(handler, answer.status, given, data)
        finally:
            back.close()

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        handler.send_response_only(status)
        if handler.command != "HEAD":
            headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


def main() -> None:
    """Serve until the standard input ends."""
    address, port, back_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    told = json.loads(sys.stdin.readline())
    holders = [Keys(access_key=a, secret_key=s, token=t) for a, s, t in told["holders"]]
    own_access, own_secret = told["own"]
    store = RoleStore(address, port, back_port, holders=holders, own=(own_access, own_secret))
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(dict(store.used)), flush=True)


if __name__ == "__main__":
    main()
