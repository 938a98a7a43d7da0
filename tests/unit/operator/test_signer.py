"""Approving, denying and signing, against an API server in memory."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.api import names
from architect.kube.connection import Request
from architect.kube.resources import SIGNING_REQUESTS, ObjectRef
from architect.operator import authority, metrics
from architect.operator.authority_store import KEY, AuthorityStore
from architect.operator.metrics import Metrics
from architect.operator.signer import Signer
from architect.pki import certificates, node_identity
from support.signingserver import REQUESTS, SigningServer, refuse

ACCOUNT = "system:serviceaccount:architect:architect-daemon"
SECRET = "/api/v1/namespaces/architect/secrets/architect-daemon-ca"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class World:
    def __init__(self) -> None:
        self.now = NOW
        self.server = SigningServer()
        self.numbers = Metrics()
        api = self.server.as_operator()
        self.store = AuthorityStore(
            api, namespace="architect", name="architect-daemon-ca", clock=lambda: self.now
        )
        self.signer = Signer(api, self.store, self.numbers, account=ACCOUNT, clock=lambda: self.now)

    def ask(self, name: str = "r1", *, node: str = "node-a", of: str = "node-a") -> None:
        request = node_identity.make_request(certificates.make_key(), of)
        self.server.as_daemon(node).create(
            ObjectRef(resource=SIGNING_REQUESTS, name=name),
            {
                "metadata": {"name": name},
                "spec": {
                    "signerName": names.DAEMON_SIGNER,
                    "usages": list(node_identity.REQUEST_USAGES),
                    "request": base64.b64encode(request).decode(),
                },
            },
        )

    def status(self, name: str = "r1") -> dict[str, Any]:
        status: dict[str, Any] = self.server.objects[f"{REQUESTS}/{name}"]["status"]
        return status

    def conditions(self, name: str = "r1") -> dict[str, str]:
        return {c["type"]: c["reason"] for c in self.status(name).get("conditions", ())}


@pytest.fixture
def world() -> World:
    return World()


def test_a_daemon_is_given_a_chain_that_its_authority_signed(world: World) -> None:
    world.ask()
    world.signer.sweep()
    leaf, *roots = certificates.read_certificates(base64.b64decode(world.status()["certificate"]))
    assert node_identity.node_of(leaf) == "node-a"
    assert roots == list(world.store.fetch().trusted)
    assert certificates.is_signed_by(leaf, roots[0])
    assert world.conditions() == {"Approved": "DaemonOfNode"}
    assert world.numbers.get(metrics.CERTIFICATES, result="issued") == 1


def test_another_nodes_certificate_is_denied_aloud(world: World) -> None:
    world.ask(node="node-b", of="node-a")
    world.signer.sweep()
    assert world.conditions() == {"Denied": "WrongNode"}
    assert "certificate" not in world.status()
    assert world.numbers.get(metrics.CERTIFICATES, result="WrongNode") == 1
    world.signer.sweep()
    assert world.numbers.get(metrics.CERTIFICATES, result="WrongNode") == 1


def test_what_somebody_else_approved_wrongly_fails_aloud(world: World) -> None:
    world.ask(node="", of="node-a")
    value = world.server.objects[f"{REQUESTS}/r1"]
    value["status"]["conditions"] = [{"type": "Approved", "status": "True", "reason": "Admin"}]
    world.signer.sweep()
    assert world.conditions() == {"Approved": "Admin", "Failed": "NoNode"}
    assert "certificate" not in world.status()


def test_an_operator_that_ended_between_approval_and_signature_goes_on(world: World) -> None:
    world.ask()

    def no_status(request: Request) -> Exception | None:
        return refuse(500, "InternalError", request) if request.path.endswith("/status") else None

    world.server.fail = no_status
    world.signer.sweep()
    assert world.conditions() == {"Approved": "DaemonOfNode"}
    assert "certificate" not in world.status()
    world.server.fail = lambda _: None
    world.signer.sweep()
    assert "certificate" in world.status()


def test_nothing_is_approved_while_the_authority_cannot_be_had(world: World) -> None:
    world.ask()
    value = world.server.requests()[0]
    world.server.fail = lambda r: (
        refuse(500, "InternalError", r) if r.path.endswith("/architect-daemon-ca") else None
    )
    world.signer.look_at(value)
    world.signer.sweep()
    assert world.status() == {}
    assert world.numbers.get(metrics.CERTIFICATES, result="error") == 1


def test_two_replicas_at_once_do_no_harm(world: World) -> None:
    world.ask()
    stale = world.server.requests()[0]
    world.signer.look_at(stale)
    first = world.status()["certificate"]
    world.signer.look_at(stale)
    assert world.status()["certificate"] == first


def test_the_secret_is_made_once_and_by_whoever_is_first(world: World) -> None:
    one = world.store.fetch()
    other = AuthorityStore(
        world.server.as_operator(), namespace="architect", name="architect-daemon-ca",
        clock=lambda: NOW,
    )  # fmt: skip
    assert other.fetch().trusted == one.trusted
    assert world.server.objects[SECRET]["type"] == "Opaque"


def test_a_lost_race_takes_the_others_authority(world: World) -> None:
    rival = AuthorityStore(
        world.server.as_operator(), namespace="architect", name="architect-daemon-ca",
        clock=lambda: NOW,
    )  # fmt: skip
    made: list[tuple[Any, ...]] = []

    def first(request: Request) -> Exception | None:
        if request.method == "POST" and not made:
            made.append(())
            made.append(rival.fetch().trusted)
        return None

    world.server.fail = first
    assert world.store.fetch().trusted == made[1]


def test_the_authority_is_renewed_by_the_sweep_alone(world: World) -> None:
    first = world.store.fetch()
    world.now = certificates.due_at(first.current.certificate)
    world.signer.sweep()
    prepared = authority.from_json(base64.b64decode(world.server.objects[SECRET]["data"][KEY]))
    assert prepared.next is not None
    world.now += authority.SETTLE
    world.signer.sweep()
    world.ask()
    world.signer.sweep()
    leaf, *roots = certificates.read_certificates(base64.b64decode(world.status()["certificate"]))
    assert certificates.is_signed_by(leaf, prepared.next.certificate)
    assert first.current.certificate in roots


def test_a_damaged_secret_is_replaced_aloud(world: World, caplog: pytest.LogCaptureFixture) -> None:
    first = world.store.fetch()
    world.server.objects[SECRET]["data"][KEY] = base64.b64encode(b"{}").decode()
    second = world.store.fetch()
    assert second.trusted != first.trusted
    assert "a new one takes its place" in caplog.text


def test_a_certificate_ends_with_what_was_asked_for(world: World) -> None:
    world.ask()
    world.server.objects[f"{REQUESTS}/r1"]["spec"]["expirationSeconds"] = 3600
    world.signer.sweep()
    leaf = certificates.read_certificates(base64.b64decode(world.status()["certificate"]))[0]
    assert leaf.not_valid_after_utc == NOW + timedelta(hours=1)
