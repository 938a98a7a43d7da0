"""Who is believed, and who is let in: by certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from architect.core.errors import (
    Rejected,
    Unavailable,
)
from architect.daemon.peer import protocol
from architect.daemon.peer.credentials import Credentials
from architect.pki import certificates, node_identity
from support.issuer import Issuer
from support.transfers import ID, Source, channel_of, describe, refused


def test_a_server_of_another_authority_is_not_believed(source: Source, foreign: Issuer) -> None:
    source.credentials = foreign.credentials("node-a")
    source.serve()
    assert refused(source.fetch, Rejected).reason == "Untrusted"
    assert source.suspicions
    assert source.asked == []


def test_a_server_that_is_another_node_is_not_believed(source: Source, issuer: Issuer) -> None:
    source.credentials = issuer.credentials("node-c")
    source.serve()
    assert refused(source.fetch, Rejected).reason == "Untrusted"
    assert source.asked == []


def test_a_node_whose_name_begins_like_anothers_is_another(source: Source, issuer: Issuer) -> None:
    for node in ("node", "node-a.evil", "evil.node-a", "node-a1"):
        source.credentials = issuer.credentials(node)
        source.serve()
        assert refused(source.fetch, Rejected).reason == "Untrusted"


def test_a_servers_certificate_that_has_ended_is_not_believed(
    source: Source, issuer: Issuer
) -> None:
    source.credentials = issuer.expired("node-a")
    source.serve()
    assert refused(source.fetch, Rejected).reason == "Untrusted"


def unwelcome(source: Source, credentials: Credentials) -> None:
    """Try a fetch that the server's TLS does not let in."""
    source.serve()
    source.mine = credentials
    refused(lambda: source.fetch(patience_seconds=1.0), Unavailable)
    assert source.asked == []
    assert source.suspicions
    assert source.nothing_arrived()


def test_a_client_of_another_authority_is_not_let_in(
    source: Source, issuer: Issuer, foreign: Issuer
) -> None:
    mine, theirs = issuer.credentials("node-b"), foreign.credentials("node-b")
    unwelcome(
        source,
        Credentials(
            key=theirs.key,
            certificate=theirs.certificate,
            authorities=mine.authorities,
            due_at=mine.due_at,
            ends_at=mine.ends_at,
        ),
    )


def test_a_client_whose_certificate_has_ended_is_not_let_in(source: Source, issuer: Issuer) -> None:
    unwelcome(source, issuer.expired("node-b"))


def leaf_of(
    issuer: Issuer, *, names: list[str], usages: list[Any], life: timedelta = timedelta(hours=1)
) -> Credentials:
    """Return a certificate that no operator would issue, though its authority did."""
    key, current = certificates.make_key(), issuer.authorities.current
    now = datetime.now(UTC)
    leaf = certificates.issue(
        current.certificate, current.key, key.public_key(), common_name="x", dns_names=names,
        usages=usages, now=now, life=life,
    )  # fmt: skip
    return Credentials(
        key=certificates.key_to_pem(key),
        certificate=certificates.to_pem(leaf),
        authorities=certificates.to_pem(current.certificate),
        due_at=now + life,
        ends_at=now + life,
    )


def test_a_servers_certificate_is_no_clients(source: Source, issuer: Issuer) -> None:
    name = node_identity.dns_name_of("node-b")
    unwelcome(source, leaf_of(issuer, names=[name], usages=[ExtendedKeyUsageOID.SERVER_AUTH]))


@pytest.mark.parametrize(
    "names",
    [["node-b"], ["node-b.node.architect.example"], ["*.node.architect.internal"],
     ["node-b.node.architect.internal", "node-c.node.architect.internal"]],
)  # fmt: skip
def test_a_certificate_that_names_no_node_is_no_daemons(
    source: Source, issuer: Issuer, names: list[str]
) -> None:
    source.serve()
    source.mine = leaf_of(issuer, names=names, usages=list(node_identity.USAGES))
    error = refused(source.fetch, Rejected)
    assert error.reason == "NotAllowed"
    assert "not a daemon's certificate" in str(error)
    assert source.asked == []


def test_without_a_certificate_nobody_gets_in(source: Source) -> None:
    source.serve()
    secured = grpc.ssl_channel_credentials(root_certificates=source.mine.authorities)
    name = ("grpc.ssl_target_name_override", node_identity.dns_name_of("node-a"))
    with grpc.secure_channel(f"ipv4:{source.address}", secured, options=[name]) as channel:
        error = describe(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"ipv4:{source.address}") as channel:
        error = describe(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert source.asked == []


def test_a_certificate_that_ends_while_the_connection_lives_is_noticed(source: Source) -> None:
    server = source.serve()
    with channel_of(source) as channel:
        ask = channel.unary_unary(protocol.method(protocol.DESCRIBE))
        raw = protocol.DescribeRequest(id=ID).to_bytes()
        assert ask(raw, timeout=20)
        server._clock = lambda: datetime.now(UTC) + timedelta(days=2)
        with pytest.raises(grpc.RpcError) as caught:
            ask(raw, timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_renewed_certificate_is_served_without_a_restart(
    source: Source, issuer: Issuer, foreign: Issuer
) -> None:
    source.serve()
    source.credentials = foreign.credentials("node-a")
    assert refused(source.fetch, Rejected).reason == "Untrusted"
    source.credentials = issuer.credentials("node-a")
    assert source.fetch() == source.manifest


def test_a_server_whose_own_certificate_ended_still_listens(source: Source) -> None:
    server = source.serve()

    def ended() -> Credentials:
        raise Unavailable("ended")

    server._credentials = ended
    assert source.fetch() == source.manifest
