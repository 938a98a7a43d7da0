"""Whose credentials the store is used with: a Secret's, the instance's role, or the account's.

The first are variables of the environment, and so in all other tests here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import pytest

from architect.core.errors import ArchitectError, Rejected
from architect.daemon.vault.store import Store
from architect.objectstore.control import Control
from architect.objectstore.settings import StoreSettings
from support import tokenservice
from support.cloudmetadata.aws import Imds
from support.cloudmetadata.server import MetadataServer, Reply, Request
from support.issuer import Issuer
from support.patience import patient
from support.tokenstore import Keys, TokenStore
from support.vaults import Vaults

SECONDS = patient(60)
TESTS = Path(__file__).parents[2]
ROLE = "/latest/meta-data/iam/security-credentials/node"
FIRST = Keys(access_key="key-1", secret_key="secret-1", token="token-1")
SECOND = Keys(access_key="key-2", secret_key="secret-2", token="token-2")

SOON_SECONDS = 5.0
"""A life that awscrt sees the end of."""


@pytest.fixture(autouse=True)
def nothing_else(credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the keys away that all other tests have."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name)


@pytest.fixture
def imds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Imds]:
    with Imds() as made:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", made.url)
        yield made


@pytest.fixture
def server() -> Iterator[TokenStore]:
    with TokenStore(FIRST, SECOND) as made:
        yield made


def role(keys: Keys = FIRST, *, seconds: float = 3600.0) -> dict[str, str]:
    """Return a role's credentials as the metadata service gives them."""
    ends = time.gmtime(time.time() + seconds)
    return {
        "Code": "Success",
        "LastUpdated": "2026-11-29T00:00:00Z",
        "Type": "AWS-HMAC",
        "AccessKeyId": keys.access_key,
        "SecretAccessKey": keys.secret_key,
        "Token": keys.token,
        "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", ends),
    }


@contextlib.contextmanager
def opened(settings: StoreSettings) -> Iterator[Store]:
    store = Store(settings)
    try:
        yield store
    finally:
        store.close()


def put(store: Store) -> None:
    store.put("key", b"body", timeout_seconds=SECONDS)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refusal(store: Store) -> str:
    """Return why nothing can be put; empty: it can."""
    try:
        put(store)
    except ArchitectError as error:
        return error.reason if isinstance(error, Rejected) else f"{type(error).__name__}: {error}"
    return ""


def uses(store: Store, server: TokenStore, keys: Keys) -> bool:
    """Whether a request is signed with *keys* now."""
    put(store)
    return server.used[-1] == keys.access_key


def test_the_instances_role_is_used(server: TokenStore, imds: Imds) -> None:
    imds.give_role("node", role())
    with opened(server.settings) as store:
        put(store)
        # Once, unless the double has to be asked again because it took its time.
        once = imds.asked("GET", ROLE), imds.asked("PUT", "/latest/api/token")
        assert min(once) >= 1
        put(store)
    assert set(server.used) == {"key-1"}
    assert (imds.asked("GET", ROLE), imds.asked("PUT", "/latest/api/token")) == once, "kept"
    asked = [r for r in imds.requests if r.path == ROLE]
    assert all("x-aws-ec2-metadata-token" in r.headers for r in asked)


def test_the_operator_uses_it_as_well(server: TokenStore, imds: Imds) -> None:
    imds.give_role("node", role())
    control = Control(server.settings)
    control.check()
    control.close()
    assert server.used == ["key-1"]


def test_credentials_are_renewed_before_they_end(server: TokenStore, imds: Imds) -> None:
    imds.give_role("node", role(seconds=SOON_SECONDS))
    with opened(server.settings) as store:
        assert uses(store, server, FIRST)
        imds.give_role("node", role(SECOND))
        until(lambda: uses(store, server, SECOND))
    assert imds.asked("GET", ROLE) > 1


def test_credentials_that_have_ended_are_used_if_there_are_no_others(
    server: TokenStore, imds: Imds
) -> None:
    """The store says whether they are good; Amazon prolongs them while its service fails."""
    imds.give_role("node", role(seconds=-60))
    with opened(server.settings) as store:
        put(store)


def test_a_service_that_fails_at_a_renewal_is_asked_again(server: TokenStore, imds: Imds) -> None:
    imds.give_role("node", role(seconds=SOON_SECONDS))
    with opened(server.settings) as store:
        put(store)
        imds.replies[ROLE] = Reply(status=500)
        until(lambda: refusal(store) == "NoCredentials")
        imds.replies.clear()
        imds.give_role("node", role(SECOND))
        until(lambda: refusal(store) == "")
    assert server.used[-1] == "key-2"


def credentials_fail(store: Store, imds: Imds) -> None:
    """Let the role's credentials end while the metadata service fails."""
    imds.give_role("node", role(seconds=SOON_SECONDS))
    put(store)
    imds.replies[ROLE] = Reply(status=500)
    until(lambda: refusal(store) == "NoCredentials")


@pytest.mark.parametrize("why", ["in a hurry", "since it worked before"])
def test_an_upload_waits_out_a_renewal_that_fails(
    server: TokenStore, imds: Imds, tmp_path: Path, why: str
) -> None:
    """The last minute of a machine is no time to give up for that."""
    with opened(server.settings) as store, futures.ThreadPoolExecutor(1) as pool:
        vaults = Vaults(tmp_path / "v", Issuer(), store)
        uploader = vaults.uploader(is_hurried=lambda: why == "in a hurry")
        if why == "since it worked before":
            imds.give_role("node", role())
            vaults.upload(uploader=uploader)
            vaults.notes.unlink()
        with opened(server.settings) as vaults.store:
            uploader._store = vaults.store
            credentials_fail(vaults.store, imds)
            asked, used = imds.asked("GET", ROLE), len(server.used)
            upload = pool.submit(vaults.upload, uploader=uploader)
            until(lambda: imds.asked("GET", ROLE) >= asked + 4)
            assert not upload.done()
            assert len(server.used) == used
            imds.replies.clear()
            imds.give_role("node", role(SECOND))
            upload.result(SECONDS)
    assert set(server.used[used:]) == {"key-2"}


def test_an_upload_that_never_had_credentials_says_so_at_once(
    server: TokenStore, imds: Imds, tmp_path: Path
) -> None:
    with opened(server.settings) as store:
        vaults = Vaults(tmp_path / "v", Issuer(), store)
        with pytest.raises(Rejected) as caught:
            vaults.upload(patience_seconds=SECONDS)
        assert caught.value.reason == "NoCredentials"


def test_an_instance_without_a_role_is_named(server: TokenStore, imds: Imds) -> None:
    with opened(server.settings) as store:
        assert refusal(store) == "NoCredentials"


def test_a_token_that_does_not_get_here_is_named(server: TokenStore, imds: Imds) -> None:
    """As with the hop limit of 1: ``kernel/notices`` has the real thing."""
    imds.give_role("node", role())
    imds.silent.add("PUT /latest/api/token")
    with opened(server.settings) as store, pytest.raises(Rejected, match="hop limit") as caught:
        put(store)
    assert caught.value.reason == "NoCredentials"


def test_the_double_takes_no_others(server: TokenStore, imds: Imds) -> None:
    """Without this, tests could pass with any credentials."""
    for keys, reason in (
        (Keys(access_key="key-1", secret_key="secret-2", token="token-1"), "WrongCredentials"),
        (Keys(access_key="key-1", secret_key="secret-1", token="token-2"), "WrongCredentials"),
        (Keys(access_key="key-3", secret_key="secret-1", token="token-1"), "WrongCredentials"),
    ):
        imds.give_role("node", role(keys))
        with opened(server.settings) as store:
            assert refusal(store) == reason
    assert server.used == []


# The ServiceAccount's role


class PodIdentity(MetadataServer):
    """EKS' agent, which gives a pod's role to whoever has its token."""

    def answer(self, request: Request) -> Reply:
        if request.headers.get("authorization") != "a token of the pod's":
            return Reply(status=401)
        value = {**role(), "AccountId": "111122223333"}
        return Reply(body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})


def test_the_role_of_eks_pod_identity_is_used(
    server: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("a token of the pod's")
    with PodIdentity() as agent:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
        with opened(server.settings) as store:
            assert uses(store, server, FIRST)
        token.write_text("another")
        with opened(server.settings) as store:
            assert refusal(store) == "NoCredentials"


def test_the_role_by_web_identity_is_used_and_renewed(tmp_path: Path) -> None:
    """IRSA: the variables and the token file that EKS' webhook gives a pod."""
    done = subprocess.run(
        tokenservice.command(tmp_path, sys.executable, __file__, tmp_path),
        cwd=TESTS,
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/checkpoints",
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"),
            "AWS_REGION": tokenservice.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert {a["Action"] for a in asked} == {"AssumeRoleWithWebIdentity"}
    assert asked[0]["RoleArn"] == "arn:aws:iam::111122223333:role/checkpoints"
    assert asked[0]["WebIdentityToken"] == "first"
    assert asked[-1]["WebIdentityToken"] == "second", "kubelet renews the token in its file"


def inside(directory: Path) -> None:
    """Use the role, and its next credentials: run where the token service is."""

    def give(keys: Keys, seconds: float) -> None:
        value = {
            "access_key": keys.access_key,
            "secret_key": keys.secret_key,
            "token": keys.token,
            "seconds": seconds,
        }
        replace("credentials", json.dumps(value))

    def replace(name: str, text: str) -> None:
        """Never half there for those who read it, as kubelet writes."""
        (directory / f"{name}.new").write_text(text)
        (directory / f"{name}.new").rename(directory / name)

    replace("token", "first")
    give(FIRST, SOON_SECONDS)
    with TokenStore(FIRST, SECOND) as server, opened(server.settings) as store:
        assert uses(store, server, FIRST)
        replace("token", "second")
        give(SECOND, 3600)
        until(lambda: uses(store, server, SECOND))


if __name__ == "__main__":
    inside(Path(sys.argv[1]))
