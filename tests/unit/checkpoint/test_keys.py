"""The keys of sealed checkpoints: each opens for whom, and for what, it was encrypted."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from architect.checkpoint import keys
from architect.checkpoint.keys import Binding, Claimant
from architect.core.errors import FormatError

CLUSTER = keys.private_from_bytes(bytes(range(32)))
CLAIM = keys.private_from_bytes(bytes(range(1, 33)))
OTHER = keys.private_from_bytes(bytes(range(2, 34)))

BINDING = Binding(
    namespace="default", pod_uid="uid-web", owner_uid="uid-owner", checkpoint_id="web-1234"
)
CLAIMANT = Claimant(pod_uid="uid-new", node="node-b")
DATA_KEY = b"k" * 32

WRAPPED = keys.wrap(DATA_KEY, CLUSTER.public_key(), BINDING)
RELEASED = keys.release(DATA_KEY, CLAIM.public_key(), BINDING, claimant=CLAIMANT)


def test_a_data_key_goes_from_a_node_to_the_operator_to_another_node() -> None:
    data_key = keys.new_data_key()
    cluster, claim = keys.make_key(), keys.make_key()
    at_operator = keys.unwrap(keys.wrap(data_key, cluster.public_key(), BINDING), cluster, BINDING)
    sealed = keys.release(at_operator, claim.public_key(), BINDING, claimant=CLAIMANT)
    assert keys.accept(sealed, claim, BINDING, claimant=CLAIMANT) == data_key


@given(st.binary(min_size=32, max_size=32), st.text(), st.text(), st.text(), st.text())
def test_any_data_key_with_any_names_comes_back(
    data_key: bytes, namespace: str, pod_uid: str, owner_uid: str, checkpoint_id: str
) -> None:
    binding = Binding(
        namespace=namespace, pod_uid=pod_uid, owner_uid=owner_uid, checkpoint_id=checkpoint_id
    )
    wrapped = keys.wrap(data_key, CLUSTER.public_key(), binding)
    assert len(wrapped) == keys.SEALED_BYTES
    assert keys.unwrap(wrapped, CLUSTER, binding) == data_key


def test_what_this_version_encrypted_is_opened_by_later_ones() -> None:
    wrapped = keys.sealed_from_text(
        "o2diRwvGEIGfxhz0YN1KMTF6b7qb5dq504KUCuRFnSbLugPnc8tCu/sHHyd2Nm3YLtG/Hmw5XVT9HkwTQBFDtZB5"
        "a/Fx0oacWmtnQQAayes="
    )
    released = keys.sealed_from_text(
        "r07QivXjw8HJgi5mOjaxgUKLb91X5SrKIgp89mdUKDTjT2u7SDY8fz07RuZDUB8Ob0oeptzKS222egpUcsckvTzj"
        "mpF/oFxkiXyeJiykcOw="
    )
    assert keys.key_id(CLUSTER.public_key()) == "eedd883da0a94515"
    assert keys.unwrap(wrapped, CLUSTER, BINDING) == DATA_KEY
    assert keys.accept(released, CLUSTER, BINDING, claimant=CLAIMANT) == DATA_KEY


def test_the_same_key_encrypted_twice_looks_different() -> None:
    assert keys.wrap(DATA_KEY, CLUSTER.public_key(), BINDING) != WRAPPED
    assert len({keys.new_data_key() for _ in range(8)}) == 8


@given(st.integers(0, keys.SEALED_BYTES - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    # The highest bit of a point counts for nothing in X25519, and is bound all the same.
    for sealed, opened in (
        (WRAPPED, lambda raw: keys.unwrap(raw, CLUSTER, BINDING)),
        (RELEASED, lambda raw: keys.accept(raw, CLAIM, BINDING, claimant=CLAIMANT)),
    ):
        raw = bytearray(sealed)
        raw[at] ^= change
        with pytest.raises(FormatError, match="damaged, or was encrypted for another key"):
            opened(bytes(raw))


@pytest.mark.parametrize(
    "raw",
    [b"", WRAPPED[:-1], WRAPPED + b"\0", bytes(80), b"\xff" * 5000],
    ids=["none", "shorter", "longer", "zeros", "long"],
)
def test_other_lengths_are_refused(raw: bytes) -> None:
    with pytest.raises(FormatError, match="damaged"):
        keys.unwrap(raw, CLUSTER, BINDING)


@given(st.sampled_from([f.name for f in dataclasses.fields(Binding)]), st.text())
def test_a_key_of_one_checkpoint_does_not_open_as_anothers(field: str, other: str) -> None:
    assume(getattr(BINDING, field) != other)
    change: dict[str, Any] = {field: other}
    binding = dataclasses.replace(BINDING, **change)
    with pytest.raises(FormatError, match="or for another checkpoint"):
        keys.unwrap(WRAPPED, CLUSTER, binding)
    with pytest.raises(FormatError, match="or for another checkpoint"):
        keys.accept(RELEASED, CLAIM, binding, claimant=CLAIMANT)


@given(st.sampled_from([f.name for f in dataclasses.fields(Claimant)]), st.text())
def test_a_released_key_does_not_open_for_another_claimant(field: str, other: str) -> None:
    assume(getattr(CLAIMANT, field) != other)
    change: dict[str, Any] = {field: other}
    with pytest.raises(FormatError, match="checkpoint or claimant"):
        keys.accept(RELEASED, CLAIM, BINDING, claimant=dataclasses.replace(CLAIMANT, **change))


def test_names_that_only_meet_elsewhere_are_other_names() -> None:
    one = Binding(namespace="a", pod_uid='b","c', owner_uid="", checkpoint_id="d")
    two = Binding(namespace="a", pod_uid="b", owner_uid="", checkpoint_id='c","d')
    with pytest.raises(FormatError):
        keys.unwrap(keys.wrap(DATA_KEY, CLUSTER.public_key(), one), CLUSTER, two)


def test_another_private_key_opens_nothing() -> None:
    with pytest.raises(FormatError, match="another key"):
        keys.unwrap(WRAPPED, OTHER, BINDING)
    with pytest.raises(FormatError, match="another key"):
        keys.accept(RELEASED, OTHER, BINDING, claimant=CLAIMANT)


def test_a_wrapped_key_is_no_released_one_and_the_other_way_round() -> None:
    with pytest.raises(FormatError):
        keys.accept(WRAPPED, CLUSTER, BINDING, claimant=CLAIMANT)
    with pytest.raises(FormatError):
        keys.unwrap(RELEASED, CLAIM, BINDING)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_what_is_no_data_key_is_not_encrypted(size: int) -> None:
    with pytest.raises(FormatError, match=f"{size} bytes are not a data key"):
        keys.wrap(bytes(size), CLUSTER.public_key(), BINDING)
    with pytest.raises(FormatError, match=f"{size} bytes are not a data key"):
        keys.release(bytes(size), CLAIM.public_key(), BINDING, claimant=CLAIMANT)


def test_keys_come_back_as_they_were() -> None:
    public = CLUSTER.public_key()
    assert keys.public_from_bytes(keys.public_to_bytes(public)) == public
    assert keys.public_from_text(keys.public_to_text(public)) == public
    assert keys.private_from_text(keys.private_to_text(CLUSTER)).public_key() == public
    assert keys.private_to_bytes(CLUSTER) == bytes(range(32))
    assert keys.sealed_from_text(keys.sealed_to_text(WRAPPED)) == WRAPPED


def test_a_point_with_which_nothing_is_secret_is_refused() -> None:
    point = keys.public_from_bytes(bytes(32))
    with pytest.raises(FormatError, match="secret"):
        keys.wrap(DATA_KEY, point, BINDING)
    with pytest.raises(FormatError, match="secret"):
        keys.release(DATA_KEY, point, BINDING, claimant=CLAIMANT)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        bytes(31),
        bytes(33),
        (2**255 - 19).to_bytes(32, "little"),
        bytes(31) + b"\x80",
        b"\xff" * 32,
    ],
    ids=["empty", "short", "long", "the field", "highest bit", "all bits"],
)
def test_another_form_of_a_public_key_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError, match="not an X25519 public key"):
        keys.public_from_bytes(raw)


TEXT = keys.public_to_text(CLUSTER.public_key())
READERS: list[Callable[[str], Any]] = [keys.public_from_text, keys.private_from_text]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT + "=",
        TEXT + "\n",
        " " + TEXT,
        TEXT[:20] + "\n" + TEXT[20:],
        TEXT[:-2] + "9=",
        TEXT.replace("D", "-"),
        TEXT.replace("D", "ä"),
        TEXT.replace("D", "\udcff"),
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        "A" * 10_000_000,
    ],
)
def test_another_form_of_base64_is_refused_and_not_quoted(
    read: Callable[[str], Any], text: str
) -> None:
    with pytest.raises(FormatError, match="base64 of 32 bytes") as caught:
        read(text)
    assert len(str(caught.value)) < 100
    assert not text or text[:8] not in str(caught.value)


@given(st.binary(max_size=100).map(lambda raw: base64.b64encode(raw).decode()) | st.text())
def test_no_text_makes_the_readers_fail_otherwise(text: str) -> None:
    for read in (*READERS, keys.sealed_from_text):
        try:
            read(text)
        except FormatError:
            continue
        assert len(base64.b64decode(text)) in (keys.KEY_BYTES, keys.SEALED_BYTES)


def test_errors_tell_nothing_of_a_key() -> None:
    secret = b"S3CRET-S3CRET-S3CRET-S3CRET-S3CR"
    said = []
    for attempt in (
        lambda: keys.wrap(secret + b"!", CLUSTER.public_key(), BINDING),
        lambda: keys.private_from_bytes(secret + b"!"),
        lambda: keys.private_from_text(base64.b64encode(secret).decode() + "="),
        lambda: keys.unwrap(keys.wrap(secret, CLUSTER.public_key(), BINDING), OTHER, BINDING),
    ):
        with pytest.raises(FormatError) as caught:
            attempt()
        said.append(str(caught.value) + str(caught.value.__cause__))
    assert "S3CRET" not in "".join(said)
    assert base64.b64encode(secret).decode()[:8] not in "".join(said)
