"""A server for every kind of kubelet's probes, and for requests that wake it.

    python3 probed.py KIND=PORT…

KIND is ``http``, ``https`` (with the certificate and key in ``/app/tls.pem``), ``grpc`` (the health
service, over plain HTTP/2) or ``tcp`` (says its identity and closes). ``http`` and ``https`` answer
with the identity as well. IPv4 and IPv6.
"""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import ssl
import struct
import sys
import threading
import uuid

IDENTITY = uuid.uuid4().hex

# HTTP/2 (RFC 9113): frame types, flags.
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"identity": IDENTITY}).encode() + b"\n"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class PageServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True


def literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing and without Huffman coding (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def serving(stream: int) -> bytes:
    """The answer of the health service: SERVING."""
    head = b"\x88" + literal(b"content-type", b"application/grpc")
    message = b"\x08\x01"
    return (
        frame(HEADERS, END_HEADERS, stream, head)
        + frame(DATA, 0, stream, struct.pack(">BI", 0, len(message)) + message)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, literal(b"grpc-status", b"0"))
    )


class Health(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        if self.rfile.read(len(PREFACE)) != PREFACE:
            return
        self.wfile.write(frame(SETTINGS, 0, 0))
        while len(head := self.rfile.read(9)) == 9:
            length = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            payload = self.rfile.read(length)
            if kind == SETTINGS and not flags & ACK:
                self.wfile.write(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                self.wfile.write(frame(PING, ACK, 0, payload))
            elif kind in (DATA, HEADERS) and flags & END_STREAM:
                self.wfile.write(serving(stream))
            elif kind == GOAWAY:
                return


class Hello(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(IDENTITY.encode() + b"\n")


class PlainServer(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass  # a probe that closed its connection


def server(kind: str, port: int) -> socketserver.BaseServer:
    address = ("::", port)
    if kind == "grpc":
        return PlainServer(address, Health)
    if kind == "tcp":
        return PlainServer(address, Hello)
    made = PageServer(address, Page)
    if kind == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("/app/tls.pem")
        # Not at accept: a client that says nothing would keep all others waiting.
        made.socket = context.wrap_socket(
            made.socket, server_side=True, do_handshake_on_connect=False
        )
    return made


for word in sys.argv[1:]:
    name, _, number = word.partition("=")
    threading.Thread(target=server(name, int(number)).serve_forever).start()
print(f"serving {' '.join(sys.argv[1:])} as {IDENTITY}", flush=True)
