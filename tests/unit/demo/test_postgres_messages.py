"""PostgreSQL's messages as the demonstration reads and writes them."""

from __future__ import annotations

import struct

import pytest

from demo import postgres
from demo.errors import ProtocolError

# The example of RFC 7677, section 3; PostgreSQL leaves the user's name out of the first message.
NONCE = "rOprNGfwEbeRWgbNEkqO"
CHALLENGE = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


def test_the_proof_depends_on_the_password_and_carries_the_servers_nonce() -> None:
    right = postgres.Scram(password="pencil", nonce=NONCE).answer(CHALLENGE)
    wrong = postgres.Scram(password="pencils", nonce=NONCE).answer(CHALLENGE)
    assert right.startswith("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=")
    assert right != wrong


def test_a_challenge_that_is_not_for_us_is_refused() -> None:
    with pytest.raises(ProtocolError, match="nonce"):
        postgres.Scram(password="pencil", nonce="other").answer(CHALLENGE)


def test_a_row_has_values_and_nulls() -> None:
    data = struct.pack("!H", 3) + struct.pack("!i", 2) + b"42" + struct.pack("!i", -1)
    data += struct.pack("!i", 3) + "aé".encode()
    assert postgres.read_row(data) == ("42", "", "aé")


def test_an_error_says_severity_code_and_text() -> None:
    data = b'SERROR\0C42P01\0Mrelation "x" does not exist\0F1\0\0'
    assert postgres.read_error(data) == 'ERROR 42P01 relation "x" does not exist'
