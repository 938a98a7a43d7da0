"""A real server on loopback, real TLS sockets: rotation, bounds, readiness and the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from architect.core.errors import ArchitectError, FormatError, Unavailable
from architect.pki.certificates import read_certificates
from architect.webhook import certificates, review
from architect.webhook.certificates import Action, Material
from architect.webhook.rotation import Mounted, Pair
from architect.webhook.server import Webhook
from architect.webhook.settings import Settings
from architect.webhook.tls import ServingContext
from support.patience import patient

NAMES = ("architect-webhook.architect.svc",)
DEADLINE_SECONDS = patient(60.0)


class Given:
    """A source whose answer the test sets."""

    def __init__(self, material: Material) -> None:
        self.pair = Pair(certificate=material.certificate, key=material.key)
        self.error: ArchitectError | None = None
        self.fetches = 0

    def fetch(self) -> Pair:
        self.fetches += 1
        if self.error is not None:
            raise self.error
        return self.pair


@dataclass
class Running:
    webhook: Webhook
    port: int
    source: Given
    client_context: ssl.SSLContext
    task: asyncio.Task[None]

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.port}",
            verify=self.client_context,
            timeout=DEADLINE_SECONDS,
        )


def made(now: datetime | None = None) -> Material:
    return certificates.carry_out(
        Action.CREATE, None, now=now or datetime.now(UTC), dns_names=NAMES
    )


def trusting(*materials: Material) -> ssl.SSLContext:
    context = ssl.create_default_context(
        cadata="".join(material.ca_bundle.decode() for material in materials)
    )
    # Requests go to an address; the name is checked where a test opens the socket itself.
    context.check_hostname = False
    return context


@contextlib.asynccontextmanager
async def running(*materials: Material, **settings: Any) -> AsyncIterator[Running]:
    defaults: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "sync_seconds": 0.02,
        "drain_seconds": 0.05,
        "finish_seconds": DEADLINE_SECONDS,
    }
    source = Given(materials[0])
    webhook = Webhook(Settings(**{**defaults, **settings}), source)
    task = asyncio.create_task(webhook.run())
    try:
        port = await asyncio.wait_for(webhook.listening, DEADLINE_SECONDS)
        yield Running(webhook, port, source, trusting(*materials), task)
    finally:
        webhook.stop()
        await asyncio.wait_for(task, DEADLINE_SECONDS)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.01)


def pod_review(**annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "operation": "CREATE",
            "namespace": "default",
            "object": {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "generateName": "web-",
                    "annotations": {f"architect.dev/{k}": v for k, v in annotations.items()},
                },
                "spec": {"containers": [{"name": "app", "image": "x"}]},
            },
        },
    }


async def served_certificate(port: int, context: ssl.SSLContext, *, name: str | None) -> bytes:
    _reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        await writer.wait_closed()
    return found


def leaf(material: Material) -> bytes:
    certificate = read_certificates(material.certificate)[0]
    return certificate.public_bytes(serialization.Encoding.DER)


def test_a_review_is_answered_over_tls() -> None:
    async def scenario() -> None:
        async with running(made()) as server, server.client() as client:
            response = await client.post("/mutate", json=pod_review(idle="60s"))
            assert response.status_code == 200
            answer = response.json()["response"]
            assert answer["uid"] == "u-1"
            assert answer["allowed"] is True
            assert answer["patchType"] == "JSONPatch"
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200

    asyncio.run(scenario())


def test_the_certificate_verifies_for_the_services_name_and_no_other() -> None:
    material = made()

    async def scenario() -> None:
        async with running(material) as server:
            strict = trusting(material)
            strict.check_hostname = True
            strict.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
            assert await served_certificate(server.port, strict, name=NAMES[0]) == leaf(material)
            with pytest.raises(ssl.SSLCertVerificationError):
                await served_certificate(server.port, strict, name="other.svc")

    asyncio.run(scenario())


def test_a_client_without_a_server_name_is_served_too() -> None:
    material = made()

    async def scenario() -> None:
        async with running(material) as server:
            context = trusting(material)
            assert await served_certificate(server.port, context, name="") == leaf(material)

    asyncio.run(scenario())


def test_a_renewed_certificate_is_served_to_new_connections_and_old_ones_go_on() -> None:
    first, second = made(), made()

    async def scenario() -> None:
        async with running(first, second) as server, server.client() as client:
            before = await client.post("/mutate", json=pod_review(idle="60s"))
            stream = before.extensions["network_stream"]
            server.source.pair = Pair(certificate=second.certificate, key=second.key)

            async def is_new() -> bool:
                found = await served_certificate(server.port, server.client_context, name=NAMES[0])
                return found == leaf(second)

            await until(is_new)
            after = await client.post("/mutate", json=pod_review(idle="60s"))
            assert after.status_code == 200
            # The same connection, which still shows the first certificate.
            assert after.extensions["network_stream"] is stream
            shown = stream.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert shown == leaf(first)

    asyncio.run(scenario())


def test_no_request_is_lost_while_certificates_change() -> None:
    materials = [made() for _ in range(4)]

    async def scenario() -> None:
        async with running(*materials, sync_seconds=0.005) as server:
            statuses: list[int] = []
            rotating = True

            async def ask() -> None:
                while rotating or len(statuses) < 30:
                    async with server.client() as client:
                        response = await client.post("/mutate", json=pod_review(idle="60s"))
                        statuses.append(response.status_code)

            asking = asyncio.gather(*(ask() for _ in range(2)))
            for material in materials[1:]:
                server.source.pair = Pair(certificate=material.certificate, key=material.key)
                seen = server.source.fetches

                async def is_taken(seen: int = seen) -> bool:
                    return server.source.fetches > seen + 1

                await until(is_taken)
                assert server.webhook.tls.why_not_ready() is None
            rotating = False
            await asyncio.wait_for(asking, DEADLINE_SECONDS)
            assert set(statuses) == {200}

    asyncio.run(scenario())


def test_a_key_that_does_not_fit_leaves_the_old_certificate_in_place() -> None:
    first, second = made(), made()

    async def scenario() -> None:
        async with running(first, second) as server:
            server.source.pair = Pair(certificate=second.certificate, key=first.key)
            failed = server.webhook.service.metrics.certificate_passes.labels("failed")

            async def has_failed() -> bool:
                return bool(failed._value.get() > 0)

            await until(has_failed)
            found = await served_certificate(server.port, server.client_context, name=NAMES[0])
            assert found == leaf(first)

    asyncio.run(scenario())


def test_a_certificate_of_another_key_type_replaces_the_old_one() -> None:
    first = made()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rsa")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    pair = Pair(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    wanted = certificate.public_bytes(serialization.Encoding.DER)

    async def scenario() -> None:
        async with running(first) as server:
            server.source.pair = pair
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE

            async def is_served() -> bool:
                return await served_certificate(server.port, context, name="x") == wanted

            await until(is_served)

    asyncio.run(scenario())


def test_a_source_that_fails_for_a_while_does_not_stop_the_server() -> None:
    async def scenario() -> None:
        async with running(made()) as server, server.client() as client:
            server.source.error = Unavailable("the API server does not answer")
            seen = server.source.fetches

            async def has_failed_twice() -> bool:
                return server.source.fetches > seen + 2

            await until(has_failed_twice)
            assert (await client.get("/readyz")).status_code == 200
            text = (await client.get("/metrics")).text
            assert 'architect_webhook_certificate_passes_total{outcome="failed"}' in text

    asyncio.run(scenario())


def test_a_replica_without_a_certificate_gives_up_with_the_last_error() -> None:
    async def scenario() -> None:
        source = Given(made())
        source.error = Unavailable("the API server does not answer")
        webhook = Webhook(Settings(host="127.0.0.1", port=0, start_seconds=0.0), source)
        with pytest.raises(Unavailable, match="does not answer"):
            await asyncio.wait_for(webhook.run(), DEADLINE_SECONDS)

    asyncio.run(scenario())


def test_a_replica_that_is_told_to_stop_before_it_has_a_certificate_ends() -> None:
    async def scenario() -> None:
        source = Given(made())
        source.error = Unavailable("the API server does not answer")
        webhook = Webhook(Settings(host="127.0.0.1", port=0), source)
        webhook.stop()
        await asyncio.wait_for(webhook.run(), DEADLINE_SECONDS)
        assert not webhook.listening.done(), "it has begun to serve"

    asyncio.run(scenario())


def test_an_expired_certificate_is_not_ready() -> None:
    context = ServingContext()
    assert context.why_not_ready() == "no certificate yet"
    old = made(datetime.now(UTC) - certificates.SERVING_LIFE - timedelta(days=1))
    context.load(Pair(certificate=old.certificate, key=old.key))
    assert "has expired" in (context.why_not_ready() or "")


def test_what_is_no_certificate_is_refused_by_name() -> None:
    context = ServingContext()
    with pytest.raises(FormatError, match="not a PEM certificate"):
        context.load(Pair(certificate=b"nonsense", key=b""))


def test_mounted_files_are_read_again_each_time(tmp_path: Path) -> None:
    source = Mounted(directory=tmp_path)
    with pytest.raises(ArchitectError, match=r"tls\.crt"):
        source.fetch()
    for content in (b"one", b"two"):
        (tmp_path / "tls.crt").write_bytes(content)
        (tmp_path / "tls.key").write_bytes(content)
        assert source.fetch() == Pair(certificate=content, key=content)


def test_a_body_that_says_it_is_over_the_bound_is_refused_before_it_is_sent() -> None:
    length = review.MAX_BODY_BYTES + 1
    head = f"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"

    async def scenario() -> None:
        async with running(made()) as server:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=server.client_context, server_hostname=NAMES[0]
            )
            writer.write(head.encode())
            answer = await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
            assert answer.startswith(b"HTTP/1.1 413")
            assert str(review.MAX_BODY_BYTES).encode() in answer
            writer.close()

    asyncio.run(scenario())


def test_a_body_that_goes_on_past_the_bound_is_cut_off() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(review.MAX_BODY_BYTES // 65536 + 2):
            yield b" " * 65536

    async def scenario() -> None:
        async with running(made()) as server:
            async with server.client() as client:
                # The connection is closed while the client still writes: it may see that first.
                with contextlib.suppress(httpx.TransportError):
                    response = await client.post("/validate", content=chunks())
                    assert response.status_code == 413
            async with server.client() as client:

                async def is_counted() -> bool:
                    text = (await client.get("/metrics")).text
                    return 'admissions_total{path="validate",result="malformed"} 1.0' in text

                await until(is_counted)

    asyncio.run(scenario())


def test_a_body_that_fits_exactly_is_read() -> None:
    async def scenario() -> None:
        async with running(made()) as server, server.client() as client:
            body = json.dumps(pod_review(idle="60s")).encode()
            padded = body + b" " * (review.MAX_BODY_BYTES - len(body))
            assert (await client.post("/mutate", content=padded)).status_code == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b"null", "body is absent"),
        (b"[" * 100_000, "not JSON"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}', "v1"),
        (
            b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}',
            "request is absent",
        ),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_malformed_review_is_a_400_that_says_why(body: bytes, reason: str) -> None:
    async def scenario() -> None:
        async with running(made()) as server, server.client() as client:
            for path in ("/mutate", "/validate"):
                response = await client.post(path, content=body)
                assert response.status_code == 400
                assert reason in response.text

    asyncio.run(scenario())


def test_admissions_are_counted_by_result() -> None:
    async def scenario() -> None:
        async with running(made()) as server, server.client() as client:
            await client.post("/mutate", json=pod_review(idle="60s"))
            await client.post("/mutate", json=pod_review())
            await client.post("/mutate", json=pod_review(idle="soon"))
            await client.post("/mutate", content=b"x")
            text = (await client.get("/metrics")).text
            for result in ("managed", "ignored", "refused", "malformed"):
                line = f'architect_webhook_admissions_total{{path="mutate",result="{result}"}} 1.0'
                assert line in text

    asyncio.run(scenario())


def test_at_its_end_it_serves_on_not_ready_and_closes_each_connection() -> None:
    async def scenario() -> None:
        # A second signal cuts the drain short: the end of the block waits for less.
        async with (
            running(made(), drain_seconds=DEADLINE_SECONDS) as server,
            server.client() as client,
        ):
            assert (await client.get("/readyz")).status_code == 200
            server.webhook.stop()

            async def is_draining() -> bool:
                response = await client.get("/readyz")
                return response.status_code == 503 and response.text == "draining\n"

            await until(is_draining)
            response = await client.post("/mutate", json=pod_review(idle="60s"))
            assert response.status_code == 200
            assert response.headers["connection"] == "close"

    asyncio.run(scenario())


def test_a_request_in_flight_is_finished_before_the_end() -> None:
    body = json.dumps(pod_review(idle="60s")).encode()
    head = (
        b"POST /mutate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        + f"content-length: {len(body)}\r\n\r\n".encode()
    )

    async def scenario() -> None:
        async with running(made(), drain_seconds=0.0) as server:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=server.client_context, server_hostname=NAMES[0]
            )
            writer.write(head + body[:10])
            await writer.drain()
            server.webhook.stop()

            async def refuses_connections() -> bool:
                try:
                    with socket.create_connection(("127.0.0.1", server.port), timeout=1):
                        return False
                except OSError:
                    return True

            await until(refuses_connections)
            writer.write(body[10:])
            answer = await asyncio.wait_for(reader.read(), DEADLINE_SECONDS)
            assert answer.startswith(b"HTTP/1.1 200")
            writer.close()

    asyncio.run(scenario())
