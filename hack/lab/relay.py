"""Carries TCP connections from the host's loopback into the cluster.

Run as a program of its own on the host: ``relay.py CONFIG``. CONFIG is JSON: the pid whose
network namespace holds the cluster, fixed ports (the API server's), and how to watch Services,
whose node ports are opened on 127.0.0.1 while they exist. It ends when that pid does.

A socket belongs to the network namespace that its thread was in when it was made: that is all the
crossing there is. UDP is not carried.
"""

from __future__ import annotations

import asyncio
import ctypes
import http.client
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
CHUNK_BYTES = 1 << 16
CONNECT_SECONDS = 5.0
RETRY_SECONDS = 1.0
WATCH_SECONDS = 300

libc = ctypes.CDLL(None, use_errno=True)


class Crossing:
    """Makes sockets in the cluster's network namespace.

    The namespace is opened by its process each time and never held: it must be able to go.
    """

    def __init__(self, pid: int) -> None:
        self._theirs = f"/proc/{pid}/ns/net"
        self._ours = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def socket(self) -> socket.socket:
        descriptor = os.open(self._theirs, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(descriptor)
            try:
                return socket.socket(socket.AF_INET)
            finally:
                _enter(self._ours)
        finally:
            os.close(descriptor)


def _enter(descriptor: int) -> None:
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


class Relay:
    """The listeners on the loopback, by port."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self._servers: dict[int, asyncio.Server] = {}
        self._lock = asyncio.Lock()

    async def open(self, port: int, targets: list[tuple[str, int]]) -> None:
        """Listen on *port* and carry to the first of *targets* that accepts."""

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(reader, writer, targets)

        self._servers[port] = await asyncio.start_server(carry, "127.0.0.1", port)

    async def keep(self, wanted: dict[int, list[tuple[str, int]]], fixed: set[int]) -> None:
        """Open what is wanted, close what is not; the *fixed* ports stay."""
        async with self._lock:
            for port in set(self._servers) - set(wanted) - fixed:
                self._servers.pop(port).close()
            for port in set(wanted) - set(self._servers):
                try:
                    await self.open(port, wanted[port])
                except OSError as error:
                    log(f"cannot listen on 127.0.0.1:{port}: {error.strerror}")

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        targets: list[tuple[str, int]],
    ) -> None:
        try:
            far_reader, far_writer = await self._connect(targets)
        except OSError as error:
            log(f"cannot reach {targets}: {error}")
            writer.transport.abort()
            return
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    async def _connect(
        self, targets: list[tuple[str, int]]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        problem = OSError("no target")
        for target in targets:
            end = self._crossing.socket()
            end.setblocking(False)
            try:
                await asyncio.wait_for(loop.sock_connect(end, target), CONNECT_SECONDS)
            except OSError as error:
                end.close()
                problem = OSError(f"{target[0]}:{target[1]}: {error or 'timeout'}")
                continue
            return await asyncio.open_connection(sock=end)
        raise problem


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, then pass the end on: each direction closes by itself."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()


class ServiceWatch(threading.Thread):
    """Follows Services and hands their node ports over, for ever."""

    def __init__(self, config: dict[str, Any], crossing: Crossing, report: Any) -> None:
        super().__init__(daemon=True)
        self._config = config
        self._crossing = crossing
        self._report = report

    def run(self) -> None:
        while True:
            try:
                self._follow()
            except (OSError, ValueError, http.client.HTTPException) as error:
                log(f"watch of Services: {error}")
            time.sleep(RETRY_SECONDS)

    def _follow(self) -> None:
        listed = json.loads(self._get("/api/v1/services").read())
        ports = {_key(item): node_ports(item) for item in listed["items"]}
        self._report(ports)
        version = listed["metadata"]["resourceVersion"]
        query = f"watch=1&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}"
        for event in _events(self._get(f"/api/v1/services?{query}")):
            if event["type"] == "ERROR":
                return
            item = event["object"]
            ports[_key(item)] = [] if event["type"] == "DELETED" else node_ports(item)
            self._report(ports)

    def _get(self, path: str) -> http.client.HTTPResponse:
        context = ssl.create_default_context(cafile=self._config["ca"])
        context.load_cert_chain(self._config["certificate"], self._config["key"])
        host, port = self._config["api"]
        connection = http.client.HTTPSConnection(host, port, timeout=WATCH_SECONDS + 30)
        end = self._crossing.socket()
        end.settimeout(WATCH_SECONDS + 30)
        end.connect((host, port))
        connection.sock = context.wrap_socket(end, server_hostname=host)
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{path.partition('?')[0]}: status {answer.status}")
        return answer


def node_ports(service: dict[str, Any]) -> list[int]:
    """Return the TCP node ports of a Service."""
    return [
        port["nodePort"]
        for port in service["spec"].get("ports", [])
        if port.get("nodePort") and port.get("protocol", "TCP") == "TCP"
    ]


def _key(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := answer.readline():
        yield json.loads(line)


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


async def serve(config: dict[str, Any]) -> None:
    crossing = Crossing(config["pid"])
    relay = Relay(crossing)
    loop = asyncio.get_running_loop()
    fixed = set()
    for port, (host, target) in config["fixed"].items():
        await relay.open(int(port), [(host, target)])
        fixed.add(int(port))

    def report(ports: dict[str, list[int]]) -> None:
        # Read each time: nodes come and go.
        nodes = json.loads(Path(config["nodes_file"]).read_text())["node_addresses"]
        wanted = {
            port: [(node, port) for node in nodes] for several in ports.values() for port in several
        }
        asyncio.run_coroutine_threadsafe(relay.keep(wanted, fixed), loop)

    ended = asyncio.Event()
    pidfd = os.pidfd_open(config["pid"])
    loop.add_reader(pidfd, ended.set)
    ServiceWatch(config, crossing, report).start()
    await ended.wait()


def main() -> None:
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
