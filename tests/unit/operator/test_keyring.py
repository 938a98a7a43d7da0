"""The cluster's keys as a matter of time, and how they are kept and published."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from architect.checkpoint import keys
from architect.checkpoint.keys import Binding
from architect.core.errors import FormatError, Rejected
from architect.kube.api import Api
from architect.kube.connection import Request
from architect.operator import keyring, keyring_form
from architect.operator.keyring import Action, Keyring, carry_out, decide
from architect.operator.keyring_store import AUTHORITIES, CURRENT, KEY, KeyringStore
from architect.pki import certificates
from architect.pki.certificates import make_authority
from support.keyservices import plain_box

START = datetime(2030, 1, 1, tzinfo=UTC)
SECRET = "/api/v1/namespaces/architect/secrets/architect-checkpoint-key"
CONFIG_MAP = "/api/v1/namespaces/architect/configmaps/architect-checkpoint-key"
BINDING = Binding(namespace="shop", pod_uid="u", owner_uid="o", checkpoint_id="u")


def created() -> Keyring:
    return carry_out(Action.CREATE, None, now=START)


def authority(name: str) -> x509.Certificate:
    return make_authority(name, now=START, life=timedelta(days=1))[0]


def rotated(times: int) -> Keyring:
    ring = created()
    for number in range(1, times + 1):
        ring = carry_out(Action.ROTATE, ring, now=START + number * keyring.ROTATE_AFTER)
    return ring


def test_there_is_a_key_and_it_is_replaced_after_ninety_days() -> None:
    assert decide(None, now=START) is Action.CREATE
    ring = created()
    end = START + timedelta(days=90)
    assert decide(ring, now=end - timedelta(seconds=1)) is Action.KEEP
    assert decide(ring, now=end) is Action.ROTATE
    second = carry_out(Action.ROTATE, ring, now=end)
    assert decide(second, now=end) is Action.KEEP
    assert second.current.id != ring.current.id
    assert second.former == (ring.current,)


def test_what_was_encrypted_for_a_former_key_opens_for_ever() -> None:
    first = created().current
    data_key = keys.new_data_key()
    wrapped = keys.wrap(data_key, first.public, BINDING)
    ring = Keyring(current=first)
    for number in range(1, 20):
        ring = carry_out(Action.ROTATE, ring, now=START + number * keyring.ROTATE_AFTER)
    private = ring.find(first.id)
    assert private is not None
    assert keys.unwrap(wrapped, private, BINDING) == data_key
    assert ring.find("0" * 16) is None
    assert ring.find("") is None


def test_a_clock_that_was_wrong_destroys_nothing() -> None:
    ring = carry_out(Action.CREATE, None, now=START + timedelta(days=4000))
    assert decide(ring, now=START) is Action.KEEP


def test_authorities_are_known_for_ever_and_once() -> None:
    first, second, third = (authority(name) for name in "abc")
    ring = keyring.learn(created(), [first])
    assert keyring.learn(ring, [first]) is ring
    ring = keyring.learn(ring, [second, first])
    ring = carry_out(Action.ROTATE, ring, now=START + keyring.ROTATE_AFTER)
    ring = keyring.learn(ring, [third])
    assert ring.authorities == (third, second, first)


def test_authorities_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MAX_AUTHORITIES", 3)
    made = [authority(str(number)) for number in range(5)]
    ring = created()
    for one in made:
        ring = keyring.learn(ring, [one])
    assert ring.authorities == (made[4], made[3], made[2])


def test_the_secret_holds_everything_and_comes_back() -> None:
    ring = keyring.learn(rotated(2), [authority("a"), authority("b")])
    back = keyring_form.from_json(keyring_form.to_json(ring))
    assert [k.id for k in (back.current, *back.former)] == [
        k.id for k in (ring.current, *ring.former)
    ]
    assert back.current.created == ring.current.created
    assert back.authorities == ring.authorities
    assert keyring_form.to_json(back) == keyring_form.to_json(ring)


def test_nothing_that_is_printed_has_a_key() -> None:
    ring = rotated(1)
    secret = keys.private_to_text(ring.current.private)
    assert secret not in repr(ring) + repr(ring.current)


def _changed(**changes: Any) -> bytes:
    value = json.loads(keyring_form.to_json(rotated(1)))
    value["current"] |= changes
    return json.dumps(value).encode()


def _list(**changes: Any) -> bytes:
    return json.dumps(json.loads(keyring_form.to_json(rotated(1))) | changes).encode()


def _without(key: str) -> bytes:
    value = json.loads(keyring_form.to_json(rotated(1)))
    del value[key]
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"\xff", b"[" * 100_000, b'{"version": 3}', b'{"version": 2}',
        b'{"version": 1}', b'{"version": true}', b'{"version": [1]}',
        _without("current"), _without("former"), _without("authorities"), _list(authorities=["x"]),
        _list(authorities=[7]), _changed(private="AAAA"), _changed(private=7),
        _changed(id="0" * 16), _changed(created="soon"), _changed(created="2030-01-01T00:00:00"),
        _changed(created=None), _changed(private=keys.private_to_text(keys.make_key())),
    ],
)  # fmt: skip
def test_a_secret_that_is_not_ours_is_refused_and_never_quoted(raw: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        keyring_form.from_json(raw)
    for word in raw.decode("latin-1").split('"'):
        if len(word) > 20 and word[0] != "[":
            assert word not in str(caught.value)


class World:
    def __init__(self, api: Api, server: Any) -> None:
        self.now = START
        self.server = server
        self.authorities = [authority("a")]
        self.store = KeyringStore(
            api,
            plain_box(),
            namespace="architect",
            name="architect-checkpoint-key",
            config_map="architect-checkpoint-key",
            clock=lambda: self.now,
        )

    def publish(self) -> None:
        self.store.publish(self.authorities)

    def published(self) -> str:
        return str(self.server.objects[CONFIG_MAP]["data"][CURRENT])

    def published_authorities(self) -> list[x509.Certificate]:
        found = self.server.objects[CONFIG_MAP]["data"][AUTHORITIES]
        return certificates.read_certificates(found.encode())

    def current(self) -> str:
        return keys.public_to_text(self.store.fetch().current.public)


@pytest.fixture
def world(api: Api, server: Any) -> World:
    return World(api, server)


def test_the_keys_are_made_once_and_the_public_one_is_for_all(world: World) -> None:
    world.publish()
    assert world.server.objects[SECRET]["type"] == "Opaque"
    assert world.published() == world.current()
    written = [r for r in world.server.requests if r.method != "GET"]
    world.publish()
    assert [r for r in world.server.requests if r.method != "GET"] == written
    private = keys.private_to_text(world.store.fetch().current.private)
    assert private not in json.dumps(world.server.objects[CONFIG_MAP])


def test_a_rotation_is_published_and_keeps_the_former_key(world: World) -> None:
    world.publish()
    first = world.store.fetch().current.id
    world.now += keyring.ROTATE_AFTER
    world.publish()
    ring = world.store.fetch()
    assert ring.current.id != first
    assert [k.id for k in ring.former] == [first]
    assert world.published() == world.current()


@pytest.mark.parametrize("data", [{}, None, {CURRENT: "another"}, {"other": "x"}])
def test_a_public_key_that_somebody_changed_is_brought_back(world: World, data: Any) -> None:
    world.publish()
    value = world.server.objects[CONFIG_MAP]
    world.server.put(CONFIG_MAP, {**value, "data": data})
    world.publish()
    assert world.published() == world.current()


def test_the_authorities_stand_beside_it_when_their_own_secret_is_lost_too(world: World) -> None:
    world.publish()
    assert world.published_authorities() == world.authorities
    first = world.authorities.pop()
    world.authorities.append(authority("b"))
    world.publish()
    assert world.published_authorities() == [*world.authorities, first]
    assert "PRIVATE" not in json.dumps(world.server.objects[CONFIG_MAP])
    del world.server.objects[CONFIG_MAP]
    world.publish()
    assert world.published_authorities() == [*world.authorities, first]


def test_a_public_key_that_somebody_deleted_is_brought_back(world: World) -> None:
    world.publish()
    del world.server.objects[CONFIG_MAP]
    world.publish()
    assert world.published() == world.current()


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {KEY: "%"},
        {KEY: base64.b64encode(b"{}").decode()},
        {KEY: base64.b64encode(b'{"version": 3}').decode()},
        {KEY: base64.b64encode(b'{"version": 2}').decode()},
    ],
    ids=["none", "empty", "base64", "bare", "version", "no seal"],
)
def test_a_secret_that_cannot_be_read_is_never_written_over(world: World, data: Any) -> None:
    world.publish()
    before = world.published()
    world.server.put(SECRET, {**world.server.objects[SECRET], "data": data})
    world.now += 2 * keyring.ROTATE_AFTER
    world.server.requests.clear()
    with pytest.raises(Rejected, match="left as it is") as caught:
        world.publish()
    assert caught.value.reason == "SecretUnreadable"
    assert "restore the Secret from a backup; or delete it, and lose" in caught.value.hint
    assert [r for r in world.server.requests if r.method != "GET"] == []
    assert world.server.objects[SECRET]["data"] == data
    assert world.published() == before


def test_a_secret_that_was_deleted_on_purpose_is_made_anew(world: World) -> None:
    world.publish()
    first = world.current()
    del world.server.objects[SECRET]
    world.publish()
    assert world.published() == world.current() != first


def test_a_lost_race_takes_the_others_keys(world: World, api: Api) -> None:
    rival = World(api, world.server)
    made: list[str] = []

    def first(request: Request) -> Exception | None:
        if request.method == "POST" and not made:
            made.append("")
            made.append(rival.current())
        return None

    world.server.fail = first
    assert world.current() == made[1]
