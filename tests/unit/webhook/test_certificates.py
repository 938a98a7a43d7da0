"""Certificates as a pure matter of time: what is renewed when, and what is trusted meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given, settings
from hypothesis import strategies as st

from architect.pki.certificates import read_certificates
from architect.webhook import certificates
from architect.webhook.certificates import Action, Material, carry_out, decide

NAMES = ("architect-webhook", "architect-webhook.architect.svc")
START = datetime(2030, 1, 1, tzinfo=UTC)


def created(now: datetime = START) -> Material:
    return carry_out(Action.CREATE, None, now=now, dns_names=NAMES)


def step(material: Material, now: datetime) -> tuple[Action, Material]:
    action = decide(material, now=now, dns_names=NAMES)
    return action, carry_out(action, material, now=now, dns_names=NAMES)


def is_trusted(material: Material, bundle: bytes, now: datetime) -> bool:
    """Whether a client that trusts *bundle* accepts what *material* serves, by a second reading."""
    verifier = (
        PolicyBuilder()
        .store(Store(read_certificates(bundle)))
        .time(now)
        .build_server_verifier(x509.DNSName(NAMES[-1]))
    )
    try:
        verifier.verify(read_certificates(material.certificate)[0], [])
    except x509.verification.VerificationError:
        return False
    return True


def test_nothing_there_is_created_and_then_kept() -> None:
    assert decide(None, now=START, dns_names=NAMES) is Action.CREATE
    material = created()
    assert decide(material, now=START, dns_names=NAMES) is Action.KEEP
    assert is_trusted(material, material.ca_bundle, START)


def test_new_certificates_hold_for_machines_whose_clock_is_behind() -> None:
    material = created()
    assert is_trusted(material, material.ca_bundle, START - timedelta(minutes=4))


def test_the_serving_certificate_is_renewed_after_two_thirds_under_the_same_authority() -> None:
    material = created()
    before = START + certificates.SERVING_LIFE * 0.66
    assert decide(material, now=before, dns_names=NAMES) is Action.KEEP
    now = START + certificates.SERVING_LIFE * 0.67
    action, renewed = step(material, now)
    assert action is Action.RENEW_SERVING
    assert renewed.ca_bundle == material.ca_bundle
    assert renewed.ca_key == material.ca_key
    assert renewed.key != material.key
    assert decide(renewed, now=now, dns_names=NAMES) is Action.KEEP


def test_a_renewed_authority_leaves_the_old_one_trusted_and_serving_as_it_was() -> None:
    now = START + certificates.CA_LIFE * 0.67
    material = renewed_serving(created(), now)
    action, renewed = step(material, now)
    assert action is Action.RENEW_CA
    assert renewed.certificate == material.certificate
    assert renewed.ca_bundle.endswith(material.ca_bundle)
    assert len(read_certificates(renewed.ca_bundle)) == 2
    assert is_trusted(renewed, material.ca_bundle, now)
    assert decide(renewed, now=now, dns_names=NAMES) is Action.KEEP


def renewed_serving(material: Material, now: datetime) -> Material:
    return carry_out(Action.RENEW_SERVING, material, now=now, dns_names=NAMES)


def test_a_new_authority_signs_nothing_before_the_api_server_can_know_it() -> None:
    now = START + certificates.CA_LIFE * 0.67
    # Both are due at once: the authority comes first, its first signature later.
    issued = START + certificates.CA_LIFE * 0.67 - certificates.SERVING_LIFE * 0.7
    material = renewed_serving(created(), issued)
    action, material = step(material, now)
    assert action is Action.RENEW_CA
    assert decide(material, now=now, dns_names=NAMES) is Action.KEEP
    action, renewed = step(material, now + certificates.SETTLE)
    assert action is Action.RENEW_SERVING
    newest = read_certificates(renewed.ca_bundle)[0].public_bytes(Encoding.PEM)
    assert is_trusted(renewed, newest, now + certificates.SETTLE)


def test_an_expired_authority_leaves_the_bundle_with_the_next_write() -> None:
    now = START + certificates.CA_LIFE * 0.67
    _, material = step(renewed_serving(created(), now), now)
    later = START + certificates.CA_LIFE + timedelta(days=1)
    action, renewed = step(material, later)
    assert action is Action.RENEW_SERVING
    assert len(read_certificates(renewed.ca_bundle)) == 1


def test_after_a_year_of_silence_everything_is_made_anew() -> None:
    later = START + certificates.CA_LIFE + timedelta(days=1)
    action, renewed = step(created(), later)
    assert action is Action.CREATE
    assert is_trusted(renewed, renewed.ca_bundle, later)


def test_a_changed_name_is_taken_up_at_once() -> None:
    material = created()
    names = (*NAMES, "other.architect.svc")
    assert decide(material, now=START, dns_names=names) is Action.RENEW_SERVING
    renewed = carry_out(Action.RENEW_SERVING, material, now=START, dns_names=names)
    assert decide(renewed, now=START, dns_names=names) is Action.KEEP


@pytest.mark.parametrize(
    ("broken", "action"),
    [
        ({"ca_bundle": b""}, Action.CREATE),
        ({"ca_bundle": b"nonsense"}, Action.CREATE),
        ({"ca_key": b"nonsense"}, Action.CREATE),
        ({"certificate": b"nonsense"}, Action.RENEW_SERVING),
        ({"key": b"nonsense"}, Action.RENEW_SERVING),
    ],
)
def test_what_cannot_be_read_is_replaced(broken: dict[str, bytes], action: Action) -> None:
    assert decide(replace(created(), **broken), now=START, dns_names=NAMES) is action


@pytest.mark.parametrize(
    ("part", "action"),
    [
        ("ca_key", Action.CREATE),
        ("key", Action.RENEW_SERVING),
        ("certificate", Action.RENEW_SERVING),
    ],
)
def test_what_does_not_belong_together_is_replaced(part: str, action: Action) -> None:
    other = created()
    mixed = replace(created(), **{part: getattr(other, part)})
    assert decide(mixed, now=START, dns_names=NAMES) is action


def test_a_namesake_authority_does_not_pass_for_the_signer() -> None:
    first, second = created(), created()
    mixed = replace(first, certificate=second.certificate, key=second.key)
    assert decide(mixed, now=START, dns_names=NAMES) is Action.RENEW_SERVING


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(min_value=0.0, max_value=45.0), min_size=1, max_size=25))
def test_with_passes_at_least_every_45_days_the_last_bundle_always_trusts_what_is_served(
    gaps_days: list[float],
) -> None:
    now, material = START, created()
    for gap in gaps_days:
        known = material.ca_bundle
        now += timedelta(days=gap)
        for _ in range(4):
            action, material = step(material, now)
            # The API server still has the bundle of the pass before.
            assert is_trusted(material, known, now)
            if action is Action.KEEP:
                break
        assert action is Action.KEEP
