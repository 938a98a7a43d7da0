"""A daemon's certificate, from an operator's real code over an API server in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from architect.core.errors import FormatError, Rejected, Unavailable
from architect.daemon.peer import credentials
from architect.daemon.peer.identity import Identity
from architect.kube.connection import Request
from architect.operator import authority
from architect.operator.authority import Action
from architect.operator.authority_store import AuthorityStore
from architect.operator.metrics import Metrics
from architect.operator.signer import Signer
from architect.pki import certificates, node_identity
from support.signingserver import SigningServer

ACCOUNT = "system:serviceaccount:architect:architect-daemon"
START = datetime(2030, 1, 1, tzinfo=UTC)
Eventually = Callable[..., None]


class World:
    """A clock, an API server, and an operator that answers when it is asked to."""

    def __init__(self) -> None:
        self.now = START
        self.server = SigningServer()
        api = self.server.as_operator()
        self.store = AuthorityStore(api, namespace="architect", name="ca", clock=lambda: self.now)
        self.signer = Signer(api, self.store, Metrics(), account=ACCOUNT, clock=lambda: self.now)
        self.stop = threading.Event()
        self._answering = threading.Event()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while not self.stop.wait(0.02):
            if self._answering.is_set():
                self.signer.sweep()

    def answer(self, is_there: bool) -> None:
        (self._answering.set if is_there else self._answering.clear)()

    def identity(self, node: str = "node-a", *, token_of: str = "node-a") -> Identity:
        return Identity(
            self.server.as_daemon(token_of),
            node=node,
            clock=lambda: self.now,
            answer_seconds=120,
            poll_seconds=0.02,
        )

    def end(self) -> None:
        self.stop.set()
        self._thread.join()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


def test_a_certificate_is_asked_for_and_given(world: World) -> None:
    world.answer(True)
    identity = world.identity()
    with pytest.raises(Unavailable, match="no certificate yet"):
        identity.current()
    found = identity.obtain(threading.Event())
    assert identity.current() is found
    leaf = certificates.read_certificates(found.certificate)[0]
    assert node_identity.node_of(leaf) == "node-a"
    assert certificates.belong_together(leaf, certificates.read_key(found.key))
    (request,) = world.server.requests()
    assert request["metadata"]["name"].startswith("architect-daemon-node-a-")


def test_what_the_operator_refused_is_said_with_its_words(world: World) -> None:
    world.answer(True)
    with pytest.raises(Rejected, match="WrongNode: asked for") as caught:
        world.identity("node-b", token_of="node-a").obtain(threading.Event())
    assert caught.value.reason == "Denied"


def test_an_operator_that_is_not_there_is_named(world: World) -> None:
    identity = Identity(
        world.server.as_daemon("node-a"), node="node-a", answer_seconds=0.1, poll_seconds=0.02
    )
    with pytest.raises(Unavailable, match=r"not answered in 0 s.*does the operator run"):
        identity.obtain(threading.Event())


def test_it_is_renewed_at_two_thirds_and_serves_on_without_an_operator(
    world: World, eventually: Eventually
) -> None:
    world.answer(True)
    identity = world.identity()
    changes: list[datetime] = []
    identity.on_change = lambda c: changes.append(c.ends_at)
    runner = threading.Thread(target=identity.run, args=(world.stop,))
    runner.start()
    try:
        eventually(lambda: len(changes) == 1)
        first = identity.current()
        assert timedelta(hours=14) < timedelta(seconds=identity.seconds_left())
        assert timedelta(seconds=identity.seconds_left()) <= timedelta(hours=16)
        world.answer(False)
        world.now += timedelta(hours=17)
        identity.poke()
        eventually(lambda: len(world.server.requests()) == 2)
        assert identity.current() is first
        world.answer(True)
        eventually(lambda: len(changes) == 2)
        assert identity.current().ends_at > first.ends_at
    finally:
        world.stop.set()
        identity.poke()
        runner.join(20)
    assert not runner.is_alive()


def test_one_that_has_ended_is_not_used(world: World) -> None:
    world.answer(True)
    identity = world.identity()
    identity.obtain(threading.Event())
    world.now += timedelta(hours=24)
    with pytest.raises(Unavailable, match="certificate ended"):
        identity.current()


def test_suspicion_renews_once_a_minute_at_most(world: World) -> None:
    world.answer(True)
    identity = world.identity()
    identity.obtain(threading.Event())
    identity.suspect()
    assert identity.seconds_left() > 0
    world.now += timedelta(seconds=61)
    identity.suspect()
    assert identity.seconds_left() == 0
    identity.obtain(threading.Event())
    identity.suspect()
    assert identity.seconds_left() > 0


def test_a_stop_ends_the_wait_for_an_answer(world: World) -> None:
    identity = Identity(
        world.server.as_daemon("node-a"), node="node-a", answer_seconds=600, poll_seconds=300
    )
    stop = threading.Event()
    runner = threading.Thread(target=identity.run, args=(stop,))
    runner.start()
    stop.set()
    identity.poke()
    runner.join(20)
    assert not runner.is_alive()


def test_two_daemons_at_different_times_of_a_rotation_trust_each_other(world: World) -> None:
    world.answer(True)
    old = world.identity().obtain(threading.Event())
    ca = world.store.fetch().current.certificate
    world.now = certificates.due_at(ca)
    before = world.identity().obtain(threading.Event())
    world.now += authority.LIFE - timedelta(minutes=1)
    during = world.identity().obtain(threading.Event())
    assert old.authorities != before.authorities
    for one in (before, during):
        for other in (before, during):
            leaf = certificates.read_certificates(one.certificate)[0]
            trusted = certificates.read_certificates(other.authorities)
            assert any(certificates.is_signed_by(leaf, c) for c in trusted)


def chain_for(
    key: certificates.PrivateKey, *, node: str = "node-a", now: datetime = START
) -> bytes:
    authorities = authority.carry_out(Action.CREATE, None, now=now)
    return authority.issue(authorities, key.public_key(), node=node, now=now)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda k: chain_for(certificates.make_key()), "another key"),
        (lambda k: chain_for(k, node="node-b"), "for node 'node-b' instead of 'node-a'"),
        (lambda k: chain_for(k, now=START - timedelta(days=2)), "clocks"),
        (lambda k: chain_for(k, now=START + timedelta(days=2)), "clocks"),
        (lambda k: chain_for(k).split(b"-----BEGIN")[1].join([b"-----BEGIN", b""]), "authority"),
        (lambda k: b"nothing", "not a PEM"),
    ],
    ids=["key", "node", "past", "future", "no authority", "no PEM"],
)
def test_what_others_would_refuse_is_refused_here(
    make: Callable[[certificates.PrivateKey], bytes], said: str
) -> None:
    key = certificates.make_key()
    with pytest.raises(FormatError, match=said):
        credentials.from_chain(key, make(key), node="node-a", now=START)


def test_a_certificate_that_is_no_base64_is_named(world: World) -> None:
    def spoil(request: Request) -> None:
        for value in world.server.objects.values():
            value["status"]["certificate"] = "%%%"

    world.server.fail = spoil
    with pytest.raises(FormatError, match="base64"):
        world.identity().obtain(threading.Event())


@pytest.mark.parametrize("node", ["", "A", "a_b", "-a", "a..b", "*", "a" * 64, "a." * 120 + "a"])
def test_a_node_that_no_certificate_can_name_is_refused(node: str) -> None:
    with pytest.raises(FormatError):
        node_identity.dns_name_of(node)


@pytest.mark.parametrize("node", ["a", "node-1", "ip-10-0-0-1.eu-west-1.compute.internal", "1"])
def test_the_name_in_the_certificate_leads_back_to_the_node(node: str) -> None:
    key = certificates.make_key()
    leaf = certificates.read_certificates(chain_for(key, node=node))[0]
    assert node_identity.node_of(leaf) == node
