"""The daemons' authority as a matter of time: what signs, and what is trusted meanwhile."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.core.errors import FormatError
from architect.operator import authority
from architect.operator.authority import Action, Authorities, carry_out, decide
from architect.pki import certificates, node_identity

START = datetime(2030, 1, 1, tzinfo=UTC)


def created(now: datetime = START) -> Authorities:
    return carry_out(Action.CREATE, None, now=now)


def settled(authorities: Authorities | None, now: datetime) -> tuple[Authorities, list[Action]]:
    """Do what is to be done, as the store does."""
    actions: list[Action] = []
    while (action := decide(authorities, now=now)) is not Action.KEEP:
        actions.append(action)
        authorities = carry_out(action, authorities, now=now)
        assert len(actions) < 5
    assert authorities is not None
    return authorities, actions


def test_nothing_there_is_created_and_then_kept() -> None:
    authorities, actions = settled(None, START)
    assert actions == [Action.CREATE]
    assert len(authorities.trusted) == 1


def test_the_next_authority_is_trusted_long_before_it_signs() -> None:
    first = created()
    due = certificates.due_at(first.current.certificate)
    prepared, actions = settled(first, due)
    assert actions == [Action.PREPARE]
    assert prepared.current is first.current
    assert prepared.next is not None
    assert prepared.next.certificate in prepared.trusted
    again, actions = settled(prepared, due + authority.LIFE)
    assert actions == []
    promoted, actions = settled(again, due + authority.SETTLE)
    assert actions == [Action.PROMOTE]
    assert promoted.current is prepared.next
    assert first.current.certificate in promoted.trusted


def test_a_retired_authority_is_trusted_until_it_expires() -> None:
    first = created()
    due = certificates.due_at(first.current.certificate)
    prepared, _ = settled(first, due)
    promoted, _ = settled(prepared, due + authority.SETTLE)
    end = first.current.certificate.not_valid_after_utc
    assert len(settled(promoted, end - timedelta(seconds=1))[0].retired) == 1
    pruned, actions = settled(promoted, end)
    assert actions == [Action.PRUNE]
    assert pruned.retired == ()


def test_an_authority_that_expired_while_nobody_was_there_is_made_anew() -> None:
    first = created()
    later = first.current.certificate.not_valid_after_utc
    second, actions = settled(first, later)
    assert actions == [Action.CREATE]
    assert first.current.certificate not in second.trusted


@settings(max_examples=25)
@given(st.lists(st.floats(min_value=0.1, max_value=20.0), min_size=1, max_size=30))
def test_any_two_valid_certificates_always_trust_each_other(days: list[float]) -> None:
    """Whenever the operator happens to be there, unless it was away until its authority ended."""
    now = START
    authorities = created()
    issued: list[tuple[x509.Certificate, list[x509.Certificate]]] = []
    for step in days:
        before, now = authorities, now + timedelta(days=step)
        if before.current.certificate.not_valid_after_utc <= now:
            return
        authorities, _ = settled(before, now)
        key = certificates.make_key()
        chain = authority.issue(authorities, key.public_key(), node="n", now=now)
        leaf, *roots = certificates.read_certificates(chain)
        valid = [(other, trusted) for other, trusted in issued if other.not_valid_after_utc > now]
        issued = [*valid, (leaf, roots)]
        for one, _ in issued:
            for _, trusted in issued:
                assert any(certificates.is_signed_by(one, root) for root in trusted)


def test_what_is_issued_is_for_both_sides_and_short_lived() -> None:
    authorities = created()
    key = certificates.make_key()
    chain = authority.issue(authorities, key.public_key(), node="node-1.example", now=START)
    leaf, *roots = certificates.read_certificates(chain)
    assert tuple(roots) == authorities.trusted
    assert node_identity.node_of(leaf) == "node-1.example"
    assert leaf.not_valid_after_utc - START == timedelta(hours=24)
    assert certificates.is_signed_by(leaf, roots[0])
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)


def test_no_certificate_outlives_its_authority() -> None:
    authorities = created()
    end = authorities.current.certificate.not_valid_after_utc
    key = certificates.make_key()
    chain = authority.issue(authorities, key.public_key(), node="n", now=end - timedelta(hours=1))
    assert certificates.read_certificates(chain)[0].not_valid_after_utc == end


def test_the_secret_holds_everything_and_comes_back() -> None:
    first = created()
    due = certificates.due_at(first.current.certificate)
    promoted, _ = settled(settled(first, due)[0], due + authority.SETTLE)
    prepared = carry_out(Action.PREPARE, promoted, now=due + authority.SETTLE)
    back = authority.from_json(authority.to_json(prepared))
    assert back.trusted == prepared.trusted
    assert back.current.key.private_numbers() == prepared.current.key.private_numbers()
    assert back.next is not None and prepared.next is not None
    assert back.next.key.private_numbers() == prepared.next.key.private_numbers()


def _without(key: str) -> bytes:
    value = json.loads(authority.to_json(created()))
    del value[key]
    return json.dumps(value).encode()


def _with_another_key() -> bytes:
    value = json.loads(authority.to_json(created()))
    value["current"]["key"] = json.loads(authority.to_json(created()))["current"]["key"]
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b'{"version": 2}', b'{"version": 1}', _without("current"), _without("retired"),
     _without("next"), _with_another_key(), b"\xff", b"[" * 100_000],
    ids=["empty", "list", "version", "bare", "current", "retired", "next", "key", "utf8", "deep"],
)  # fmt: skip
def test_a_secret_that_is_not_ours_is_refused_and_never_quoted(raw: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        authority.from_json(raw)
    assert "BEGIN" not in str(caught.value)
