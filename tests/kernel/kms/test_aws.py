"""One client of AWS KMS' protocol, against a real server and against what is none."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.core.errors import Rejected, Unavailable
from architect.operator.kms import aws as module
from architect.operator.kms import errors
from architect.operator.kms.aws import Aws
from architect.operator.kms.seal import Keeper, Seal
from architect.operator.kms.service import DataKey
from architect.operator.kms.settings import KmsSettings
from support.faultproxy import FaultProxy
from support.kmsserver import Server
from support.patience import patient
from support.s3server import Tls
from support.vaults import until

CONTEXT = {"cluster": "blue", "purpose": "test"}
ARN = "arn:aws:kms:eu-west-2:111122223333:key/bc436485-5092-42b8-92a3-0aa8b93536dc"
SEAL = Seal(
    keeper=Keeper(provider="aws", key=ARN), used_key=ARN, context=CONTEXT, wrapped=b"wrapped"
)


def test_a_data_key_is_opened_by_another_client(aws: Callable[[], Aws], key: str) -> None:
    made = aws().make(CONTEXT)
    assert len(made.plain) == 32
    assert made.plain not in made.seal.wrapped
    assert made.seal.used_key == key
    assert aws().open(made.seal) == made.plain
    assert aws().make(CONTEXT).plain != made.plain


@pytest.mark.parametrize("form", ["arn", "id", "alias"])
def test_every_name_of_a_key_works(server: Server, form: str) -> None:
    arn = server.new_key("alias/architect")
    name = {"arn": arn, "id": arn.partition("key/")[2], "alias": "alias/architect"}[form]
    client = Aws(server.settings(name))
    made = client.make(CONTEXT)
    assert (made.seal.keeper.key, made.seal.used_key) == (name, arn)
    assert client.open(made.seal) == made.plain


def test_an_alias_that_names_another_key_now_opens_what_it_sealed(server: Server) -> None:
    server.new_key("alias/architect")
    client = Aws(server.settings("alias/architect"))
    made = client.make(CONTEXT)
    second = server.new_key()
    server.admin().update_alias(AliasName="alias/architect", TargetKeyId=second)
    assert client.open(made.seal) == made.plain
    assert client.make(CONTEXT).seal.used_key == second


def refusal(of: Callable[[], object]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        of()
    return caught.value


def test_a_disabled_key_has_a_name_and_works_again(
    server: Server, aws: Callable[[], Aws], key: str
) -> None:
    client = aws()
    made = client.make(CONTEXT)
    server.admin().disable_key(KeyId=key)
    for ask in (lambda: client.open(made.seal), lambda: client.make(CONTEXT)):
        error = refusal(ask)
        assert error.reason == errors.KEY_DISABLED
        assert error.hint == "enable the key"
        assert key in str(error)
    server.admin().enable_key(KeyId=key)
    assert client.open(made.seal) == made.plain


def test_a_key_that_is_to_be_deleted_has_a_name_and_a_way_back(
    server: Server, aws: Callable[[], Aws], key: str
) -> None:
    client = aws()
    made = client.make(CONTEXT)
    server.admin().schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    for ask in (lambda: client.open(made.seal), lambda: client.make(CONTEXT)):
        error = refusal(ask)
        assert error.reason == errors.KEY_PENDING_DELETION
        assert "cancel the deletion" in error.hint
    server.admin().cancel_key_deletion(KeyId=key)
    server.admin().enable_key(KeyId=key)
    assert client.open(made.seal) == made.plain


def test_a_key_that_is_not_there_has_a_name(server: Server, aws: Callable[[], Aws]) -> None:
    made = aws().make(CONTEXT)
    nobodys = ARN
    assert refusal(lambda: Aws(server.settings(nobodys)).make(CONTEXT)).reason == errors.KEY_MISSING
    assert (
        refusal(lambda: aws().open(dataclasses.replace(made.seal, used_key=nobodys))).reason
        == errors.KEY_MISSING
    )


def test_a_key_that_seals_nothing_has_a_name(server: Server) -> None:
    arn = server.admin().create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"][
        "Arn"
    ]
    assert refusal(lambda: Aws(server.settings(arn)).make(CONTEXT)).reason == errors.WRONG_KIND


def test_another_keys_data_key_does_not_open(server: Server, aws: Callable[[], Aws]) -> None:
    made = aws().make(CONTEXT)
    other = server.new_key()
    error = refusal(lambda: aws().open(dataclasses.replace(made.seal, used_key=other)))
    assert error.reason in (errors.WRONG_KEY, errors.DAMAGED)


@pytest.mark.parametrize(
    "context", [{}, {"cluster": "red", "purpose": "test"}, {**CONTEXT, "more": "x"}]
)
def test_the_service_itself_refuses_another_context(
    aws: Callable[[], Aws], context: dict[str, str]
) -> None:
    made = aws().make(CONTEXT)
    error = refusal(lambda: aws().open(dataclasses.replace(made.seal, context=context)))
    assert error.reason == errors.DAMAGED


@pytest.mark.parametrize("place", [0, -60, -30, -1])
def test_a_damaged_data_key_does_not_open(aws: Callable[[], Aws], place: int) -> None:
    made = aws().make(CONTEXT)
    damaged = bytearray(made.seal.wrapped)
    damaged[place] ^= 1
    error = refusal(lambda: aws().open(dataclasses.replace(made.seal, wrapped=bytes(damaged))))
    assert error.reason == errors.DAMAGED
    assert "backup" in error.hint


def test_another_providers_seal_is_not_asked_about(aws: Callable[[], Aws]) -> None:
    seal = dataclasses.replace(SEAL, keeper=Keeper(provider="vault", key="k"))
    error = refusal(lambda: aws().open(seal))
    assert error.reason == errors.OTHER_PROVIDER
    assert "sealed by vault, key k" in str(error)


SEED = """\
Keys:
  Symmetric:
    Aes:
      - Metadata: {KeyId: mrk-bc436485509242b892a30aa8b93536dc}
        BackingKeys: [5cdaead27fe7da2de47945d73cd6d79e36494e73802f3cd3869f1d2cb0b5d7a9]
"""


def test_a_key_of_two_regions_opens_in_the_other(tmp_path: Path) -> None:
    key = "mrk-bc436485509242b892a30aa8b93536dc"
    with Server(tmp_path / "one", region="eu-west-1", seed=SEED) as one:
        made = Aws(one.settings(key)).make(CONTEXT)
    with Server(tmp_path / "two", region="eu-north-1", seed=SEED) as two:
        client = Aws(two.settings(key))
        assert client.open(made.seal) == made.plain
        assert client.make(CONTEXT).seal.used_key.startswith("arn:aws:kms:eu-north-1:")


def test_a_server_that_goes_and_comes(server: Server, aws: Callable[[], Aws]) -> None:
    client = aws()
    made = client.make(CONTEXT)
    with server.away():
        began = time.monotonic()
        with pytest.raises(Unavailable, match="is the key management service reachable"):
            client.open(made.seal)
        assert time.monotonic() - began < patient(60)
    assert client.open(made.seal) == made.plain


def until_asked(proxy: FaultProxy, times: int) -> None:
    """See that it is asked so often: who has given up does not wait until it was heard."""
    until(lambda: len(proxy.requests) >= times)
    assert len(proxy.requests) == times


def test_a_slow_server_is_given_up(
    server: Server, proxy: FaultProxy, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    client = Aws(server.settings(key, endpoint=proxy.endpoint))
    proxy.delay_seconds = 3600
    with pytest.raises(Unavailable):
        client.make(CONTEXT)
    until_asked(proxy, module.ATTEMPTS)


def test_failures_that_pass_are_not_noticed(server: Server, proxy: FaultProxy, key: str) -> None:
    client = Aws(server.settings(key, endpoint=proxy.endpoint))
    proxy.failures, proxy.status = 1, 500
    made = client.make(CONTEXT)
    proxy.failures, proxy.status = 1000, 503
    with pytest.raises(Unavailable):
        client.open(made.seal)
    assert len(proxy.requests) == 2 + module.ATTEMPTS


@pytest.mark.parametrize("after", [1, 30, 200])
def test_an_answer_that_is_cut_is_none(
    server: Server, proxy: FaultProxy, key: str, after: int
) -> None:
    client = Aws(server.settings(key, endpoint=proxy.endpoint))
    proxy.cut_answer_after = after
    with pytest.raises(Unavailable):
        client.make(CONTEXT)


class Answers:
    """An HTTP server that gives one answer to all."""

    def __init__(self, status: int, body: bytes) -> None:
        self.heads: list[dict[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.heads.append(dict(self.headers))
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Be silent."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Answers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def settings(self) -> KmsSettings:
        return KmsSettings(
            key_id=ARN,
            cluster="blue",
            region="eu-west-2",
            endpoint=f"http://127.0.0.1:{self._server.server_port}",
        )


GOOD = {"KeyId": ARN, "Plaintext": "A" * 43 + "=", "CiphertextBlob": "AAAA"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"7", b'"text"', b"<html>Sign in to the hotel's network",
        b"\xff\xfe", b"[" * 5000,
        *(json.dumps(GOOD | change).encode() for change in (
            {"Plaintext": "AAAA"}, {"Plaintext": ""}, {"Plaintext": None}, {"Plaintext": 7},
            {"Plaintext": "%"}, {"Plaintext": ["A"]}, {"Plaintext": "A" * 200_000},
        )),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_an_error_of_ours_and_not_quoted(body: bytes) -> None:
    with Answers(200, body) as server:
        client = Aws(server.settings)
        for ask in (lambda: client.open(SEAL), lambda: client.make(CONTEXT)):
            with pytest.raises(Unavailable) as caught:
                ask()
            assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"CiphertextBlob": None}, {"CiphertextBlob": ""}, {"CiphertextBlob": "A" * 20_000},
        {"KeyId": None}, {"KeyId": 7}, {"KeyId": "another"}, {"KeyId": "x\n" * 10_000},
    ],
)  # fmt: skip
def test_a_data_key_that_could_not_be_opened_later_is_none(change: dict[str, object]) -> None:
    with Answers(200, json.dumps(GOOD | change).encode()) as server, pytest.raises(Unavailable):
        Aws(server.settings).make(CONTEXT)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("AccessDeniedException", errors.ACCESS_DENIED),
        ("UnrecognizedClientException", errors.WRONG_CREDENTIALS),
        ("IncorrectKeyException", errors.WRONG_KEY),
    ],
)
def test_what_the_local_server_never_says_has_a_name(code: str, reason: str) -> None:
    body = json.dumps({"__type": code, "message": "User: x is not authorized"}).encode()
    with Answers(400, body) as server:
        client = Aws(server.settings)
        for ask in (lambda: client.open(SEAL), lambda: client.make(CONTEXT)):
            error = refusal(ask)
            assert error.reason == reason
            assert "is not authorized" in str(error)
        assert len(server.heads) == 2, "a refusal is not asked for again"


def test_credentials_of_ones_own_go_before_the_stores(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = OF-THE-KMS\naws_secret_access_key = secret\n")
    body = json.dumps(GOOD).encode()
    with Answers(200, body) as server:
        Aws(dataclasses.replace(server.settings, credentials_file=str(path))).make(CONTEXT)
        Aws(server.settings).make(CONTEXT)
    used = [head["Authorization"].partition("Credential=")[2][:10] for head in server.heads]
    assert used == ["OF-THE-KMS", "architect-"]


ROLE = """\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>OF-A-ROLE-</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/a/b</Arn><AssumedRoleId>A:b</AssumedRoleId>
</AssumedRoleUser></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>
"""


@pytest.fixture
def role(tmp_path: Path) -> Path:
    """A credentials file by which the role is asked for with a token, as in a pod."""
    token, path = tmp_path / "token", tmp_path / "credentials"
    token.write_text("a token")
    path.write_text(
        f"[default]\nrole_arn = arn:aws:iam::1:role/a\nweb_identity_token_file = {token}\n"
    )
    return path


def test_a_role_is_had_by_a_token(role: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Answers(200, ROLE.encode()) as tokens, Answers(200, json.dumps(GOOD).encode()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", tokens.settings.endpoint)
        Aws(dataclasses.replace(server.settings, credentials_file=str(role))).make(CONTEXT)
    (head,) = server.heads
    assert "Credential=OF-A-ROLE-/" in head["Authorization"]


def test_a_role_that_is_not_given_has_a_name_and_a_slow_one_is_given_up(
    role: Path, server: Server, proxy: FaultProxy, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.2)
    body = b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"
    settings = server.settings(key, credentials_file=str(role))
    with Answers(403, body) as tokens:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", tokens.settings.endpoint)
        assert refusal(lambda: Aws(settings).make(CONTEXT)).reason == errors.ACCESS_DENIED
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", proxy.endpoint)
    proxy.delay_seconds = 3600
    with pytest.raises(Unavailable):
        Aws(settings).make(CONTEXT)
    until_asked(proxy, module.ATTEMPTS)


@pytest.mark.parametrize("text", [None, "", "[other]\na = b\n", "[default]\n", "no = section"])
def test_a_credentials_file_without_any_has_a_name(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "credentials"
    if text is not None:
        path.write_text(text)
    client = Aws(dataclasses.replace(KmsSettings(
        key_id=ARN, cluster="blue", region="eu-west-2", endpoint="http://127.0.0.1:1",
    ), credentials_file=str(path)))  # fmt: skip
    assert refusal(lambda: client.make(CONTEXT)).reason == errors.NO_CREDENTIALS


def test_no_credentials_have_a_name(
    aws: Callable[[], Aws], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert refusal(lambda: aws().make(CONTEXT)).reason == errors.NO_CREDENTIALS


def test_https_by_an_authority_of_ones_own(server: Server, key: str, tmp_path: Path) -> None:
    tls = Tls.make(tmp_path / "tls")
    with terminating(tls, server.port) as endpoint:
        settings = server.settings(key, endpoint=endpoint, ca_file=str(tls.authority))
        made: DataKey = Aws(settings).make(CONTEXT)
        assert Aws(settings).open(made.seal) == made.plain
        error = refusal(lambda: Aws(dataclasses.replace(settings, ca_file="")).make(CONTEXT))
        assert error.reason == errors.UNTRUSTED


def test_a_ca_file_that_is_none_has_a_name(tmp_path: Path) -> None:
    settings = KmsSettings(
        key_id=ARN, cluster="b", region="eu-west-2", ca_file=str(tmp_path / "missing")
    )
    error = refusal(lambda: Aws(settings).make(CONTEXT))
    assert error.reason == errors.UNTRUSTED
    assert "missing" in str(error)


@contextlib.contextmanager
def terminating(tls: Tls, port: int) -> Iterator[str]:
    """Speak TLS for the server at *port*."""
    import socket
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain:
                front = context.wrap_socket(plain, server_side=True)
                with front, socket.create_connection(("127.0.0.1", port)) as back:
                    answers = threading.Thread(target=pump, args=(back, front))
                    answers.start()
                    pump(front, back)
                    back.shutdown(socket.SHUT_WR)
                    answers.join()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def pump(source: object, target: object) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):  # type: ignore[attr-defined]
            target.sendall(data)  # type: ignore[attr-defined]


def test_no_log_of_a_library_has_the_key(
    aws: Callable[[], Aws], caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG, botocore tells whole answers, unless it is kept from that."""
    import base64

    with caplog.at_level(logging.DEBUG):
        made = aws().make(CONTEXT)
        aws().open(made.seal)
    assert base64.b64encode(made.plain).decode() not in caplog.text
    assert repr(made.plain) not in caplog.text
