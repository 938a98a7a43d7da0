"""The keys' Secret, as it is sealed, sealed anew and made plain again: nothing is lost."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.checkpoint import keys
from architect.core.errors import Rejected, Unavailable
from architect.kube.api import Api
from architect.kube.connection import Request
from architect.operator import keyring
from architect.operator.keyring_store import AUTHORITIES, CURRENT, KEY, KeyringStore
from architect.operator.kms import errors
from architect.operator.kms.service import KeyService, OpensOnly, SecretAlone
from architect.pki import certificates
from architect.pki.certificates import make_authority
from support.keyservices import CLUSTER, NAMESPACE, SECRET, MemoryService, box_of
from support.memoryserver import MemoryServer

START = datetime(2030, 1, 1, tzinfo=UTC)
SECRET_PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}"
CONFIG_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{SECRET}"
AUTHORITY = make_authority("a", now=START, life=timedelta(days=1))[0]
AWAY = errors.unreachable("no route", what="ask")


class World:
    def __init__(self, api: Api, server: MemoryServer) -> None:
        self.api = api
        self.server = server
        self.now = START
        self.service = MemoryService()

    def operator(
        self, service: KeyService | None = None, *, cluster: str = CLUSTER
    ) -> KeyringStore:
        """Return a new process' store, which remembers nothing."""
        return KeyringStore(
            self.api,
            box_of(service or self.service, cluster=cluster),
            namespace=NAMESPACE,
            name=SECRET,
            config_map=SECRET,
            clock=lambda: self.now,
        )

    def again(self, key: str = "one") -> MemoryService:
        """Return another client of the same service."""
        return MemoryService(key, self.service.known)

    def form(self) -> dict[str, Any]:
        data = self.server.objects[SECRET_PATH]["data"][KEY]
        return dict(json.loads(base64.b64decode(data)))

    def published(self) -> str:
        return str(self.server.objects[CONFIG_MAP]["data"][CURRENT])

    def writes(self) -> list[Request]:
        return [r for r in self.server.requests if r.method != "GET" and "secrets" in r.path]


@pytest.fixture
def world(api: Api, server: MemoryServer) -> World:
    return World(api, server)


def ids(store: KeyringStore) -> list[str]:
    ring = store.fetch()
    return [key.id for key in (ring.current, *ring.former)]


def test_new_keys_were_never_plain(world: World) -> None:
    ring = world.operator().fetch()
    assert world.form()["version"] == 2
    written = json.dumps([r.body for r in world.writes()])
    form = json.dumps(world.form())
    for text in (keys.private_to_text(ring.current.private),):
        assert text not in written + form
        assert base64.b64encode(text.encode()).decode()[4:-4] not in written
    assert ids(world.operator(world.again())) == [ring.current.id]


def test_no_keys_are_made_that_could_not_be_sealed(world: World) -> None:
    world.service.failure = AWAY
    with pytest.raises(Unavailable):
        world.operator().publish([AUTHORITY])
    assert world.server.objects == {}


def test_what_was_plain_is_sealed_and_a_key_that_never_was_takes_over(world: World) -> None:
    world.operator(SecretAlone()).publish([AUTHORITY])
    before = world.operator(SecretAlone()).fetch()
    world.now += timedelta(days=1)
    store = world.operator()
    store.publish([AUTHORITY])
    after = store.fetch()
    assert world.form()["version"] == 2
    assert [key.id for key in after.former] == [before.current.id]
    assert after.authorities == before.authorities
    assert world.published() == keys.public_to_text(after.current.public)
    writes = len(world.writes())
    store.publish([AUTHORITY])
    assert len(world.writes()) == writes, "it is settled"


def test_and_plain_again_and_sealed_again_nothing_is_lost(world: World) -> None:
    known = set(ids(world.operator(SecretAlone())))
    for service in (world.again(), OpensOnly(world.again()), SecretAlone(), world.again()):
        known_before, known = known, set(ids(world.operator(service)))
        assert known >= known_before
    assert world.form()["version"] == 2
    world.operator(OpensOnly(world.again())).fetch()
    assert world.form()["version"] == 1
    assert set(ids(world.operator(SecretAlone()))) == known


def test_another_key_seals_anew_and_changes_no_key(world: World) -> None:
    before = ids(world.operator())
    wrapped = world.form()["seal"]["dataKey"]
    assert ids(world.operator(world.again("two"))) == before
    assert world.form()["seal"]["key"] == "two"
    assert world.form()["seal"]["dataKey"] != wrapped


def test_a_rotation_has_a_data_key_of_its_own(world: World) -> None:
    store = world.operator()
    store.publish([AUTHORITY])
    first, wrapped = ids(store), world.form()["seal"]["dataKey"]
    world.now += keyring.ROTATE_AFTER
    store.publish([AUTHORITY])
    assert ids(store)[1:] == first
    assert world.form()["seal"]["dataKey"] != wrapped


def test_a_service_that_is_away_keeps_nobody_from_what_was_opened(world: World) -> None:
    store = world.operator()
    store.publish([])
    before = ids(store)
    world.service.failure = AWAY
    world.now += keyring.ROTATE_AFTER
    asked = len(world.service.asked)
    for _ in range(20):
        store.publish([AUTHORITY])
        assert ids(store) == before
    assert len(world.service.asked) == asked + 1
    found = world.server.objects[CONFIG_MAP]["data"][AUTHORITIES].encode()
    assert certificates.read_certificates(found) == [AUTHORITY], "published all the same"


def test_a_key_that_is_set_and_does_not_work_costs_nothing(world: World) -> None:
    before = ids(world.operator())
    form = world.form()
    broken = world.again("broken")
    make = errors.named(400, "NotFoundException", "no such key", what="make")

    def no_data_key(context: object) -> Any:
        raise make

    broken.make = no_data_key  # type: ignore[method-assign]
    assert ids(world.operator(broken)) == before
    assert world.form() == form
    plain = World(world.api, world.server)
    del world.server.objects[SECRET_PATH]
    before = ids(plain.operator(SecretAlone()))
    assert ids(plain.operator(broken)) == before
    assert plain.form()["version"] == 1


REFUSALS: dict[str, tuple[Callable[[World], KeyringStore], str]] = {
    "no service": (lambda w: w.operator(SecretAlone()), errors.NOT_CONFIGURED),
    "another cluster": (lambda w: w.operator(cluster="red"), errors.WRONG_CONTEXT),
}


@pytest.mark.parametrize(("make", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_what_does_not_open_is_never_written_over(
    world: World, make: Callable[[World], KeyringStore], reason: str
) -> None:
    world.operator().publish([AUTHORITY])
    before = world.server.objects[SECRET_PATH]
    published = world.published()
    world.server.requests.clear()
    world.now += 2 * keyring.ROTATE_AFTER
    store = make(world)
    for ask in (store.fetch, lambda: store.publish([AUTHORITY])):
        with pytest.raises(Rejected, match="left as it is") as caught:
            ask()
        assert caught.value.reason == reason
        assert caught.value.hint
    assert world.writes() == []
    assert world.server.objects[SECRET_PATH] == before
    assert world.published() == published


def test_a_sealed_key_that_is_damaged_is_never_written_over(world: World) -> None:
    world.operator().publish([AUTHORITY])
    form = world.form()
    form["current"]["sealed"] = form["current"]["sealed"][:-8] + "AAAAAAAA"
    data = {KEY: base64.b64encode(json.dumps(form).encode()).decode()}
    world.server.put(SECRET_PATH, {**world.server.objects[SECRET_PATH], "data": data})
    world.server.requests.clear()
    with pytest.raises(Rejected, match="sealed key that is damaged") as caught:
        world.operator().publish([AUTHORITY])
    assert caught.value.reason == "SecretUnreadable"
    assert world.writes() == []


def test_who_seals_at_the_same_time_as_another_takes_the_others(world: World) -> None:
    world.operator(SecretAlone()).fetch()
    rival: list[list[str]] = []

    def first(request: Request) -> Exception | None:
        if request.method == "PATCH" and not rival:
            rival.append([])
            rival[0] = ids(world.operator(world.again()))
        return None

    world.server.fail = first
    assert ids(world.operator(world.again())) == rival[0]
