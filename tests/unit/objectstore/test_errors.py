"""Answers of object stores as errors of ours."""

from __future__ import annotations

import pytest

from architect.core.errors import ArchitectError, Rejected, Retryable, Unavailable
from architect.objectstore import errors


def answer(code: str, message: str = "says the store") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
        f"<Message>{message}</Message><Resource>/b/k</Resource></Error>"
    ).encode()


def translate(status: int, body: bytes = b"") -> ArchitectError:
    return errors.translate(status, body, what="put bucket/key")


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (404, "NoSuchKey", "NoSuchKey"),
        (404, "NoSuchBucket", "BucketMissing"),
        (412, "PreconditionFailed", "Exists"),
        (409, "PreconditionFailed", "Exists"),
        (403, "AccessDenied", "AccessDenied"),
        (403, "InvalidAccessKeyId", "WrongCredentials"),
        (403, "SignatureDoesNotMatch", "WrongCredentials"),
        (403, "SomethingNew", "AccessDenied"),
        (403, "RequestTimeTooSkewed", "WrongClock"),
        (301, "PermanentRedirect", "WrongRegion"),
        (400, "AuthorizationHeaderMalformed", "WrongRegion"),
        (403, "QuotaExceeded", "StoreFull"),
        (507, "InsufficientStorage", "StoreFull"),
        (507, "XMinioStorageFull", "StoreFull"),
        (400, "SomethingNew", "SomethingNew"),
        (400, "something-new", "Status400"),
    ],
)
def test_refusals_have_reasons(status: int, code: str, reason: str) -> None:
    error = translate(status, answer(code))
    assert isinstance(error, Rejected)
    assert error.reason == reason
    assert f"cannot put bucket/key: {status} {code}: says the store" in str(error)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "WrongCredentials"), (403, "AccessDenied"), (412, "Exists"), (507, "StoreFull")],
)
def test_a_status_alone_is_enough(status: int, reason: str) -> None:
    error = translate(status, b"<html>a proxy's page</html>")
    assert isinstance(error, Rejected)
    assert error.reason == reason


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (500, "InternalError"),
        (502, ""),
        (503, "SlowDown"),
        (504, "SomethingNew"),
        (400, "RequestTimeout"),
        (429, "TooManyRequests"),
    ],
)
def test_a_busy_store_is_asked_again(status: int, code: str) -> None:
    assert isinstance(translate(status, answer(code)), Unavailable)


@pytest.mark.parametrize(
    ("status", "code"),
    [(409, "ConditionalRequestConflict"), (400, "ExpiredToken"), (400, "BadDigest")],
)
def test_what_another_try_may_settle(status: int, code: str) -> None:
    assert isinstance(translate(status, answer(code)), Retryable)


def test_a_message_is_one_bounded_line() -> None:
    error = translate(400, answer("Bad", "it&#39;s\n  &lt;wrong&gt;" + "x" * 1500))
    assert "it's <wrong>xxx" in error.message
    assert len(error.message) < 600
    assert "\n" not in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"<Error><Code>" * 100_000,
        b"<Message>" + b"x" * 10_000_000,
        b"<Code>" + b" " * 1_000_000,
        b"\xff\xfe<Message>\xff</Message>",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><Error><Code>&a;</Code></Error>',
    ],
)
def test_a_hostile_body_says_nothing(body: bytes) -> None:
    error = translate(400, body)
    assert isinstance(error, Rejected)
    assert error.reason == "Status400"
