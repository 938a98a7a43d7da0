"""What whoever reaches the port can do to the API server's requests: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from architect.webhook import certificates, crowd
from architect.webhook.certificates import Action
from architect.webhook.rotation import Pair
from architect.webhook.server import Webhook
from architect.webhook.settings import Settings
from support.patience import patient

NAMES = ("architect-webhook.architect.svc",)
DEADLINE_SECONDS = patient(60.0)
MADE = certificates.carry_out(Action.CREATE, None, now=datetime.now(UTC), dns_names=NAMES)


class Source:
    """The same certificate each time."""

    def fetch(self) -> Pair:
        return Pair(certificate=MADE.certificate, key=MADE.key)


@dataclass
class Serving:
    webhook: Webhook
    port: int
    context: ssl.SSLContext

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.port}",
            verify=self.context,
            timeout=DEADLINE_SECONDS,
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=NAMES[0]
        )

    async def answers(self) -> bool:
        """Whether somebody who comes now is answered."""
        async with self.client() as client:
            return (await client.post("/mutate", content=BODY)).status_code == 200


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Serving]:
    webhook = Webhook(
        Settings(host="127.0.0.1", port=0, drain_seconds=0.0, finish_seconds=1.0), Source()
    )
    task = asyncio.create_task(webhook.run())
    context = ssl.create_default_context(cadata=MADE.ca_bundle.decode())
    context.check_hostname = False
    try:
        port = await asyncio.wait_for(webhook.listening, DEADLINE_SECONDS)
        yield Serving(webhook, port, context)
    finally:
        webhook.stop()
        await asyncio.wait_for(task, DEADLINE_SECONDS)


def run(scenario: Callable[[Serving], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving() as server, asyncio.timeout(3 * DEADLINE_SECONDS):
            await scenario(server)

    asyncio.run(main())


def review(uid: str = "u-1", padding: str = "") -> bytes:
    value: dict[str, Any] = {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": "default",
            "object": {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "generateName": "web-",
                    "annotations": {"architect.dev/idle": "60s", "padding": padding},
                },
                "spec": {"containers": [{"name": "app", "image": "x"}]},
            },
        },
    }
    return json.dumps(value).encode()


BODY = review()


def head(length: int) -> bytes:
    return f"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the other side has ended the connection, without an answer."""
    try:
        return await asyncio.wait_for(reader.read(), DEADLINE_SECONDS) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "said", [b"POST /mutate HTTP/1.1\r\nx: ", head(1000)], ids=["head", "body"]
)
def test_a_request_that_drips_is_ended(said: bytes) -> None:
    async def scenario(server: Serving) -> None:
        reader, writer = await server.connect()
        patched.setattr(crowd, "REQUEST_SECONDS", 0.3)
        writer.write(said)

        async def drip() -> None:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while True:
                    writer.write(b"y")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await ended(reader)
        dripping.cancel()
        patched.undo()  # whoever comes now may be slow
        assert await server.answers()

    with pytest.MonkeyPatch.context() as patched:
        run(scenario)


def test_one_that_takes_its_time_between_requests_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the API server's own connections, which it keeps."""
    monkeypatch.setattr(crowd, "REQUEST_SECONDS", 0.2)

    async def scenario(server: Serving) -> None:
        reader, writer = await server.connect()
        await asyncio.sleep(0.5)
        for _ in range(3):
            writer.write(head(len(BODY)) + BODY)
            said = await asyncio.wait_for(reader.readuntil(b"}}"), DEADLINE_SECONDS)
            assert said.startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.3)
        writer.close()

    run(scenario)


def test_many_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they do not begin to speak TLS, say nothing then, or only half of it."""
    monkeypatch.setattr(crowd, "MAX_CONNECTIONS", 30)

    async def scenario(server: Serving) -> None:
        reader, writer = await server.connect()
        writer.write(head(len(BODY)) + BODY)
        await asyncio.wait_for(reader.readuntil(b"}}"), DEADLINE_SECONDS)
        made = []
        for number in range(120):
            if number % 3:
                made.append(await asyncio.open_connection("127.0.0.1", server.port))
            else:
                made.append(await server.connect())
            if number % 6 == 0:
                made[-1][1].write(head(1000))
        assert await server.answers()
        assert await ended(made[0][0]), "the oldest is still there"
        # The one that was answered before stays, old as it is.
        writer.write(head(len(BODY)) + BODY)
        said = await asyncio.wait_for(reader.readuntil(b"}}"), DEADLINE_SECONDS)
        assert b"HTTP/1.1 200" in said
        for _, each in (*made, (reader, writer)):
            each.close()

    run(scenario)


def test_large_bodies_have_a_bound_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "MAX_HELD_BYTES", 1_000_000)
    large = review(padding="x" * 400_000)

    async def scenario(server: Serving) -> None:
        waiting = []
        for _ in range(2):
            reader, writer = await server.connect()
            writer.write(head(len(large)) + large[:-1])
            await writer.drain()
            waiting.append((reader, writer))

        async def is_held() -> bool:
            return server.webhook.service.held.bytes == 2 * (len(large) - 1)

        while not await is_held():
            await asyncio.sleep(0.01)
        async with server.client() as client:
            with contextlib.suppress(httpx.TransportError):  # closed while it still sends
                refused = await client.post("/mutate", content=large)
                assert refused.status_code == 503
        assert await server.answers(), "a small one finds no room"
        for reader, writer in waiting:
            writer.write(large[-1:])
            said = await asyncio.wait_for(reader.readuntil(b"}}"), DEADLINE_SECONDS)
            assert said.startswith(b"HTTP/1.1 200")
            writer.close()
        while server.webhook.service.held.bytes:  # it is let go of behind the answer
            await asyncio.sleep(0.01)
        async with server.client() as client:
            assert (await client.post("/mutate", content=large)).status_code == 200

    run(scenario)


def test_what_is_sent_again_is_answered_again_and_changes_nothing() -> None:
    async def scenario(server: Serving) -> None:
        async with server.client() as client:
            first = await client.post("/mutate", content=BODY)
            await client.post("/mutate", content=review("u-2"))
            again = [await client.post("/mutate", content=BODY) for _ in range(3)]
        assert {answer.content for answer in again} == {first.content}
        assert first.json()["response"]["uid"] == "u-1"

    run(scenario)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "\x7f"])
def test_what_a_body_is_called_does_not_matter(kind: str) -> None:
    async def scenario(server: Serving) -> None:
        async with server.client() as client:
            headers = {"content-type": kind}
            said = await client.post("/mutate", content=BODY, headers=headers)
            assert said.status_code in (200, 400)
            if said.status_code == 200:
                assert said.json()["response"]["allowed"] is True
        assert await server.answers()

    run(scenario)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /mutate HTTP/1.1\r\nhost: x\r\n\r\n", b"405"),
        (b"POST /other HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", b"404"),
        (b"POST /mutate/../metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", b"404"),
        (b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 2\r\n\r\n", b"400"),
        (b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST /mutate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", b"400"),
        (b"\x16\x03\x01" * 50 + b"\r\n\r\n", b"400"),
        (b"POST /mutate HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", b"400"),
    ],
    ids=["get", "path", "dots", "lengths", "negative", "coding", "tls-in-tls", "long-head"],
)
def test_what_is_no_request_is_refused_and_the_rest_is_served(said: bytes, status: bytes) -> None:
    async def scenario(server: Serving) -> None:
        reader, writer = await server.connect()
        writer.write(said)
        line = await asyncio.wait_for(reader.readline(), DEADLINE_SECONDS)
        assert line.split()[1] == status
        writer.close()
        assert await server.answers()

    run(scenario)
