"""The keys' Secret under a real service: at rest, through changes, and while it is away or odd."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from architect.checkpoint import keys
from architect.checkpoint.keys import Binding
from architect.core.errors import Rejected, Unavailable
from architect.operator import keyring, metrics
from architect.operator.keyring_store import KEY, KeyringStore
from architect.operator.kms import aws as module
from architect.operator.kms import errors
from architect.operator.kms.aws import Aws
from architect.operator.kms.service import OpensOnly, SecretAlone
from kernel.kms.operators import SECRET_PATH, Cluster
from support.faultproxy import FaultProxy
from support.keyservices import CLUSTER, NAMESPACE, SECRET
from support.kmsserver import Server
from support.patience import patient
from support.vaults import until

BINDING = Binding(namespace="shop", pod_uid="u", owner_uid="o", checkpoint_id="u")
CONFIG_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{SECRET}"


def everything(store: KeyringStore) -> dict[str, bytes]:
    """Return all private keys by their ids."""
    ring = store.fetch()
    return {key.id: keys.private_to_bytes(key.private) for key in (ring.current, *ring.former)}


def refused(store: KeyringStore, cluster: Cluster) -> Rejected:
    """Return why the Secret cannot be read, and see that it is left as it is."""
    before = copy.deepcopy(cluster.server.objects)
    for ask in (store.fetch, lambda: store.publish([])):
        with pytest.raises(Rejected, match="left as it is") as caught:
            ask()
    assert cluster.server.objects == before
    return caught.value


def test_no_private_key_is_in_the_secret(cluster: Cluster, aws: Callable[[], Aws]) -> None:
    store = cluster.operator(aws())
    store.publish([])
    cluster.now += keyring.ROTATE_AFTER
    store.publish([])
    found = everything(store)
    assert len(found) == 2
    everywhere = json.dumps([cluster.server.objects, [r.body for r in cluster.server.requests]])
    for text in (everywhere, cluster.raw()):
        for private in found.values():
            for spelling in (private.hex(), base64.b64encode(private).decode()):
                assert spelling not in text
    decoded = base64.b64decode(cluster.form()["current"]["sealed"])
    assert not any(private in decoded for private in found.values())


CHILD = """
import json, sys
from architect.operator import keyring_form
from architect.operator.kms.aws import Aws
from architect.operator.kms.settings import KmsSettings
from architect.operator.metrics import Metrics
from architect.operator.strongbox import Strongbox
settings, place, raw = json.load(sys.stdin)
ring = Strongbox(Aws(KmsSettings(**settings)), Metrics(), **place).read(raw.encode())
print(json.dumps([key.id for key in (ring.current, *ring.former)]))
"""


def test_another_process_opens_it(
    cluster: Cluster, aws: Callable[[], Aws], server: Server, key: str
) -> None:
    store = cluster.operator(aws())
    store.publish([])
    settings = {
        "key_id": key,
        "cluster": CLUSTER,
        "region": server.region,
        "endpoint": server.endpoint,
    }
    place = {"cluster": CLUSTER, "namespace": NAMESPACE, "secret": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps([settings, place, cluster.raw()]),
        capture_output=True,
        text=True,
        check=True,
        timeout=patient(60),
    )
    assert json.loads(done.stdout) == list(everything(store))


def test_what_was_encrypted_opens_through_every_change(
    cluster: Cluster, aws: Callable[[], Aws], server: Server
) -> None:
    """Plain, sealed, rotated, sealed by another key, plain, and sealed again."""
    second = server.new_key("alias/second")
    first_store = cluster.operator(SecretAlone())
    first_store.publish([])
    current = first_store.fetch().current
    data_key = keys.new_data_key()
    wrapped = keys.wrap(data_key, current.public, BINDING)
    known: dict[str, bytes] = {}
    for version, service in (
        (1, SecretAlone()),
        (2, aws()),
        (2, aws()),
        (2, Aws(server.settings("alias/second"))),
        (1, OpensOnly(Aws(server.settings("alias/second")))),
        (1, SecretAlone()),
        (2, aws()),
    ):
        cluster.now += timedelta(days=40)
        store = cluster.operator(service)
        store.publish([])
        assert cluster.form()["version"] == version
        found = everything(store)
        assert found.items() >= known.items()
        known = found
        private = store.fetch().find(current.id)
        assert private is not None
        assert keys.unwrap(wrapped, private, BINDING) == data_key
    assert second != cluster.form()["seal"]["usedKey"]
    assert len(known) == 4


def test_after_a_change_of_keys_the_first_one_is_not_needed(
    cluster: Cluster, aws: Callable[[], Aws], server: Server, key: str
) -> None:
    found = everything(cluster.operator(aws()))
    second = server.new_key()
    assert everything(cluster.operator(Aws(server.settings(second)))) == found
    assert cluster.form()["seal"]["usedKey"] == second
    server.admin().disable_key(KeyId=key)
    assert everything(cluster.operator(Aws(server.settings(second)))) == found


def test_a_key_that_is_disabled(
    cluster: Cluster, aws: Callable[[], Aws], server: Server, key: str
) -> None:
    working = cluster.operator(aws())
    working.publish([])
    found = everything(working)
    server.admin().disable_key(KeyId=key)
    assert refused(cluster.operator(aws()), cluster).reason == errors.KEY_DISABLED
    cluster.now += keyring.ROTATE_AFTER
    working.publish([])
    assert everything(working) == found, "what was opened stays usable, and rotation waits"
    server.admin().enable_key(KeyId=key)
    assert everything(cluster.operator(aws())).items() > found.items()


def test_a_key_that_is_to_be_deleted(
    cluster: Cluster, aws: Callable[[], Aws], server: Server, key: str
) -> None:
    found = everything(cluster.operator(aws()))
    server.admin().schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    assert refused(cluster.operator(aws()), cluster).reason == errors.KEY_PENDING_DELETION
    server.admin().cancel_key_deletion(KeyId=key)
    server.admin().enable_key(KeyId=key)
    assert everything(cluster.operator(aws())) == found


def test_a_secret_that_was_copied_elsewhere(cluster: Cluster, aws: Callable[[], Aws]) -> None:
    cluster.operator(aws()).publish([])
    assert refused(cluster.operator(aws(), cluster="red"), cluster).reason == errors.WRONG_CONTEXT
    copied = f"/api/v1/namespaces/elsewhere/secrets/{SECRET}"
    cluster.put(cluster.form(), copied)
    store = cluster.operator(aws(), namespace="elsewhere")
    error = refused(store, cluster)
    assert error.reason == errors.WRONG_CONTEXT
    assert f"namespace is {NAMESPACE!r}, and here 'elsewhere'" in str(error)
    # And who changes what it says about itself does not convince the service.
    form = cluster.form()
    form["seal"]["context"]["namespace"] = "elsewhere"
    cluster.put(form, copied)
    assert refused(cluster.operator(aws(), namespace="elsewhere"), cluster).reason == errors.DAMAGED


def damage(form: dict[str, Any], part: str) -> dict[str, Any]:
    if part == "data key":
        raw = bytearray(base64.b64decode(form["seal"]["dataKey"]))
        raw[-1] ^= 1
        form["seal"]["dataKey"] = base64.b64encode(raw).decode()
    elif part == "a sealed key":
        raw = bytearray(base64.b64decode(form["current"]["sealed"]))
        raw[-1] ^= 1
        form["current"]["sealed"] = base64.b64encode(raw).decode()
    else:
        form["seal"] = {}
    return form


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("data key", errors.DAMAGED),
        ("a sealed key", "SecretUnreadable"),
        ("seal", "SecretUnreadable"),
    ],
)
def test_what_is_damaged(cluster: Cluster, aws: Callable[[], Aws], part: str, reason: str) -> None:
    cluster.operator(aws()).publish([])
    backup = cluster.form()
    cluster.put(damage(cluster.form(), part))
    error = refused(cluster.operator(aws()), cluster)
    assert error.reason == reason
    assert "backup" in error.hint
    cluster.put(backup)
    assert everything(cluster.operator(aws()))


def test_a_sealed_secret_without_a_service_is_an_error_by_name(
    cluster: Cluster, aws: Callable[[], Aws]
) -> None:
    cluster.operator(aws()).publish([])
    error = refused(cluster.operator(SecretAlone()), cluster)
    assert error.reason == errors.NOT_CONFIGURED
    assert "unseal" in error.hint


def test_a_server_that_is_away_at_the_start(
    cluster: Cluster, aws: Callable[[], Aws], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "RETRY_SECONDS", 0.0)
    found = everything(cluster.operator(aws()))
    store = cluster.operator(aws())
    with server.away():
        for ask in (store.fetch, lambda: store.publish([])):
            with pytest.raises(Unavailable, match="left as it is"):
                ask()
        assert CONFIG_MAP not in cluster.server.objects
    store.publish([])
    assert everything(store) == found
    assert cluster.numbers.get(metrics.KEY_SERVICE, request="open", result="Unavailable") == 2


def test_a_server_that_is_away_at_the_first_start_of_all(
    cluster: Cluster, aws: Callable[[], Aws], server: Server
) -> None:
    with server.away(), pytest.raises(Unavailable):
        cluster.operator(aws()).publish([])
    assert cluster.server.objects == {}
    cluster.operator(aws()).publish([])
    assert cluster.form()["version"] == 2


def test_a_server_that_goes_later(
    cluster: Cluster, aws: Callable[[], Aws], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "RETRY_SECONDS", 3600.0)
    store = cluster.operator(aws())
    store.publish([])
    found = everything(store)
    before = cluster.server.objects[SECRET_PATH]
    with server.away():
        cluster.now += keyring.ROTATE_AFTER
        for _ in range(50):
            store.publish([])
            assert everything(store) == found
        asked = cluster.numbers.get(metrics.KEY_SERVICE, request="make", result="Unavailable")
        assert asked == 1, "it is not asked each time"
        assert cluster.server.objects[SECRET_PATH] == before


def test_a_slow_server(
    cluster: Cluster,
    server: Server,
    proxy: FaultProxy,
    key: str,
    aws: Callable[[], Aws],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "READ_SECONDS", 0.3)
    monkeypatch.setattr(errors, "RETRY_SECONDS", 3600.0)
    found = everything(cluster.operator(aws()))
    proxy.delay_seconds = 3600
    store = cluster.operator(Aws(server.settings(key, endpoint=proxy.endpoint)))
    for _ in range(20):
        with pytest.raises(Unavailable):
            store.fetch()
    until(lambda: len(proxy.requests) >= module.ATTEMPTS)  # who gave up was not heard yet
    assert len(proxy.requests) == module.ATTEMPTS, "one question, and then its answer again"
    assert everything(cluster.operator(aws())) == found


def test_a_server_that_answers_nonsense(
    cluster: Cluster, server: Server, proxy: FaultProxy, key: str, aws: Callable[[], Aws]
) -> None:
    found = everything(cluster.operator(SecretAlone()))
    before = cluster.raw()
    proxy.failures, proxy.status = 1000, 200
    assert everything(cluster.operator(Aws(server.settings(key, endpoint=proxy.endpoint)))) == found
    assert cluster.raw() == before, "it is plain until somebody seals it"
    assert cluster.numbers.get(metrics.KEYS_SEALED, provider="aws") == 0
    everything(cluster.operator(aws()))
    sealed = cluster.raw()
    store = cluster.operator(Aws(server.settings(key, endpoint=proxy.endpoint)))
    with pytest.raises(Unavailable):
        store.fetch()
    assert cluster.raw() == sealed
    assert cluster.numbers.get(metrics.KEYS_SEALED, provider="aws") == 1


def test_its_data_is_one_secret_with_one_key(cluster: Cluster, aws: Callable[[], Aws]) -> None:
    cluster.operator(SecretAlone()).publish([])
    cluster.operator(aws()).publish([])
    assert list(cluster.server.objects[SECRET_PATH]["data"]) == [KEY]
