"""How the keys stand in their Secret: sealed and plain."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from architect.checkpoint import keys
from architect.core.errors import FormatError
from architect.operator import keyring, keyring_form
from architect.operator.keyring import Action, Keyring, carry_out, decide
from architect.operator.kms.seal import PLAIN, Keeper, Seal, context_of, difference
from architect.pki.certificates import make_authority, to_pem

START = datetime(2030, 1, 1, tzinfo=UTC)
DATA_KEY = secrets.token_bytes(32)
KEEPER = Keeper(provider="aws", key="alias/one")
SEAL = Seal(
    keeper=KEEPER,
    used_key="arn:aws:kms:eu-west-2:111122223333:key/1",
    context=context_of(cluster="blue", namespace="architect", secret="s"),
    wrapped=b"wrapped",
)


def ring() -> Keyring:
    made = carry_out(Action.CREATE, None, now=START)
    made = carry_out(Action.ROTATE, made, now=START + keyring.ROTATE_AFTER)
    return keyring.learn(made, [make_authority("a", now=START, life=timedelta(days=1))[0]])


RING = ring()
SEALED = keyring_form.to_sealed_json(RING, SEAL, DATA_KEY)


def changed(path: str, value: Any) -> bytes:
    """Return the sealed form with the item at *path* (``seal.provider``) replaced."""
    whole = json.loads(SEALED)
    *parents, last = path.split(".")
    at = whole
    for name in parents:
        at = at[int(name)] if name.isdigit() else at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return json.dumps(whole).encode()


def test_what_is_sealed_comes_back_with_its_seal() -> None:
    assert keyring_form.seal_of(SEALED) == SEAL
    back = keyring_form.from_json(SEALED, DATA_KEY)
    assert keyring_form.to_json(back) == keyring_form.to_json(RING)
    assert (back.keeper, RING.keeper) == (KEEPER, PLAIN)


def test_private_keys_are_sealed_and_nothing_else_is() -> None:
    text = SEALED.decode()
    for key in (RING.current, *RING.former):
        raw = keys.private_to_bytes(key.private)
        assert keys.private_to_text(key.private) not in text
        assert raw.hex() not in text
        assert key.id in text
        assert key.created.isoformat() in text
    assert json.loads(text)["authorities"] == [to_pem(RING.authorities[0]).decode()]
    assert keyring_form.to_sealed_json(RING, SEAL, DATA_KEY) != SEALED, "a nonce is used once"


def test_a_sealed_form_needs_its_data_key_and_a_plain_one_none() -> None:
    with pytest.raises(FormatError, match="is sealed"):
        keyring_form.from_json(SEALED)
    with pytest.raises(FormatError, match="damaged"):
        keyring_form.from_json(SEALED, secrets.token_bytes(32))
    assert keyring_form.seal_of(keyring_form.to_json(RING)) is None
    with pytest.raises(FormatError, match="is not sealed"):
        keyring_form.from_json(keyring_form.to_json(RING), DATA_KEY)


SEALED_TEXT = json.loads(SEALED)["former"][0]["sealed"]


@pytest.mark.parametrize(
    ("path", "value"),
    # Without ids of their values: those that are random would have other names in each process.
    [
        ("seal", None), ("seal", []), ("seal", "aws"), ("seal.provider", None),
        ("seal.provider", ""),
        ("seal.key", 7), ("seal.key", "a\nb"), ("seal.key", "x" * 5000), ("seal.usedKey", None),
        ("seal.context", []), ("seal.context", {"a": 7}),
        ("seal.context", {str(number): "x" for number in range(9)}),
        ("seal.context", {"": "x"}), ("seal.context", None),
        ("seal.dataKey", "%"), ("seal.dataKey", ""), ("seal.dataKey", "A" * 20_000),
        ("seal.dataKey", 7), ("version", 1), ("version", 3), ("version", None),
        ("current", None), ("current", []), ("former", None), ("former", 7),
        ("current.sealed", None), ("current.sealed", 7), ("current.sealed", "AAAA"),
        ("current.sealed", SEALED_TEXT[:-4] + "AAA="), ("current.sealed", SEALED_TEXT),
        ("current.id", "0" * 16), ("current.id", None), ("current.created", "soon"),
        ("former.0.sealed", json.loads(SEALED)["current"]["sealed"]),
    ],
    ids=lambda _: "case",
)  # fmt: skip
def test_what_is_damaged_is_refused_and_not_quoted(path: str, value: Any) -> None:
    raw = changed(path, value)
    with pytest.raises(FormatError) as caught:
        keyring_form.seal_of(raw)
        keyring_form.from_json(raw, DATA_KEY)
    assert SEALED_TEXT not in str(caught.value)


def test_every_changed_byte_of_a_sealed_key_is_noticed() -> None:
    text = json.loads(SEALED)["current"]["sealed"]
    for place in range(len(text) - 2):
        other = "A" if text[place] != "A" else "B"
        with pytest.raises(FormatError):
            keyring_form.from_json(
                changed("current.sealed", text[:place] + other + text[place + 1 :]), DATA_KEY
            )


def test_keys_exchanged_among_themselves_do_not_open() -> None:
    whole = json.loads(SEALED)
    one, two = whole["current"], whole["former"][0]
    one["sealed"], two["sealed"] = two["sealed"], one["sealed"]
    with pytest.raises(FormatError, match="damaged"):
        keyring_form.from_json(json.dumps(whole).encode(), DATA_KEY)


def test_who_is_to_seal_decides_what_is_done() -> None:
    other = Keeper(provider="aws", key="alias/two")
    sealed = keyring_form.from_json(SEALED, DATA_KEY)
    now = sealed.current.created
    assert decide(RING, now=now) is Action.KEEP
    assert decide(RING, now=now, keeper=KEEPER) is Action.SEAL
    assert decide(sealed, now=now, keeper=KEEPER) is Action.KEEP
    assert decide(sealed, now=now, keeper=other) is Action.RESEAL
    assert decide(sealed, now=now) is Action.UNSEAL
    assert decide(None, now=now, keeper=KEEPER) is Action.CREATE
    late = now + keyring.ROTATE_AFTER
    assert decide(sealed, now=late, keeper=KEEPER) is Action.ROTATE


def test_a_key_that_was_plain_is_used_no_more_once_there_is_a_service() -> None:
    now = RING.current.created + timedelta(days=1)
    after = carry_out(Action.SEAL, RING, now=now)
    assert after.former == (RING.current, *RING.former)
    assert after.current.created == now
    for action in (Action.RESEAL, Action.UNSEAL, Action.KEEP):
        assert carry_out(action, RING, now=now) is RING


def test_a_context_says_where_it_differs() -> None:
    here = context_of(cluster="blue", namespace="a", secret="s")
    assert difference(here, here) == ""
    there = context_of(cluster="red", namespace="a", secret="s")
    assert difference(there, here) == "cluster is 'red', and here 'blue'"
    assert "purpose is ''" in difference({}, here)
    assert difference({**here, "more": "x"}, here) == "more is 'x', and here ''"
