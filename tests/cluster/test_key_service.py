"""The keys of what is stored, sealed by a key management service: on, while it is away, and off.

Its server is beside the control plane, as the object store is. It is not Amazon's, and judges
neither credentials nor rights.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from architect.api import names
from architect.kube import checkpoints
from architect.operator import keyring_form
from architect.operator.kms import errors
from lab import key_service, release
from lab.cluster import Cluster
from lab.key_service import KeyService
from support import chart, moves, parts
from support.moves import Pod
from support.storing import Gate, leave, lose_copy
from support.workloads import Workload, eventually, workload

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

SECRET = f"{release.NAME}-checkpoint-key"
CREDENTIALS = "key-service"
SET = (
    "objectStore.kms.provider=aws",
    f"objectStore.kms.keyId={key_service.FIRST.alias}",
    "objectStore.kms.cluster=blue",
    f"objectStore.kms.region={key_service.REGION}",
    f"objectStore.kms.endpoint={key_service.ENDPOINT}",
    f"objectStore.kms.credentials.secretName={CREDENTIALS}",
)
"""As docs/operations.md has it, of a service of one's own."""

MIB = 24
RETRY = {names.IDLE: "1h", names.ON_RESTORE_FAILURE: "retry"}
"""So that a test may take longer than a pod waits for its key."""


@pytest.fixture(scope="module")
def service(architect: Cluster) -> Iterator[KeyService]:
    """Give the service, and the Secret with credentials for it, beside the chart's parts."""
    file = "[default]\naws_access_key_id = kms\naws_secret_access_key = anything\n"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": CREDENTIALS, "namespace": release.NAMESPACE},
        "stringData": {"credentials": file},
    }
    with key_service.running(architect) as running:
        architect.kubectl("apply", "-f", "-", input=json.dumps(secret))
        yield running
        architect.kubectl("-n", release.NAMESPACE, "delete", "secret", CREDENTIALS)


@contextmanager
def _sealed(cluster: Cluster, *more: str) -> Iterator[None]:
    """Have the keys sealed for a ``with`` block, then plain, and no service set."""
    before = chart.values(cluster)
    try:
        chart.change(cluster, *SET, *more)
        _until_sealed(cluster)
        yield
    finally:
        _unseal(cluster, before)


def _unseal(cluster: Cluster, before: dict[str, Any]) -> None:
    chart.change(cluster, *SET, "objectStore.kms.unseal=true")
    _until_plain(cluster)
    chart.install(cluster, before)


def _until_sealed(cluster: Cluster, key: key_service.Key = key_service.FIRST) -> None:
    def is_so() -> bool:
        form = _form(cluster)
        return (form.get("seal") or {}).get("key") == key.alias

    eventually(is_so, what=f"the keys are sealed by {key.alias}")
    eventually(
        lambda: f"they are sealed by aws, key {key.alias}" in _log(cluster), what="the log says so"
    )
    eventually(lambda: _sealed_number(cluster) == 1, what="the metric says so")


def _until_plain(cluster: Cluster) -> None:
    eventually(lambda: _form(cluster)["version"] == keyring_form.VERSION, what="they are plain")
    eventually(lambda: "they are plain" in _log(cluster), what="the log says so")


def _sealed_number(cluster: Cluster) -> float:
    return parts.operator_numbers(cluster).value("architect_operator_keys_sealed", provider="aws")


def _questions(cluster: Cluster, **labels: str) -> float:
    numbers = parts.operator_numbers(cluster)
    return numbers.value("architect_operator_key_service_requests_total", **labels)


def _log(cluster: Cluster) -> str:
    return cluster.kubectl(
        *("-n", release.NAMESPACE, "logs", "--tail=-1", "-l", f"{parts.COMPONENT}=operator")
    )


def _secret(cluster: Cluster) -> dict[str, Any]:
    said = cluster.kubectl(
        *("-n", release.NAMESPACE, "get", "secret", SECRET, "-o", "json", "--show-managed-fields")
    )
    found: dict[str, Any] = json.loads(said)
    return found


def _form(cluster: Cluster) -> dict[str, Any]:
    """Return what the Secret holds."""
    found: dict[str, Any] = json.loads(base64.b64decode(_secret(cluster)["data"]["keys.json"]))
    return found


def _keys(form: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {key["id"]: key for key in (form["current"], *form["former"])}


def _holds_nothing_plain(cluster: Cluster, plain: Mapping[str, Any]) -> None:
    """See that no private key can be read in the Secret, of those before or of the new ones."""
    secret = _secret(cluster)
    inside = base64.b64decode(secret["data"]["keys.json"]).decode()
    assert list(secret["data"]) == ["keys.json"]
    for key in _keys(plain).values():
        for text in (json.dumps(secret), inside):
            assert key["private"] not in text
    found = _keys(json.loads(inside))
    assert all(set(key) == {"id", "sealed", "created"} for key in found.values())
    assert found.keys() > _keys(plain).keys(), "there is a new one, and none is lost"


@contextmanager
def _kept(cluster: Cluster, namespace: str) -> Iterator[tuple[Workload, Gate, dict[str, Any]]]:
    """Run a pod that comes back only if its gate is open; give what it has in memory."""
    gate = Gate(cluster=cluster, name=namespace)
    gate.open()
    try:
        with workload(
            cluster,
            namespace,
            "kept",
            mebibytes=MIB,
            annotations=RETRY,
            spec={"nodeSelector": gate.selector},
        ) as app:
            yield app, gate, app.get("/digest")
    finally:
        gate.close()


def _leave(app: Workload, gate: Gate) -> Pod:
    """Have the pod lie in the object store, and nowhere else."""
    gate.close()
    old = leave(app)
    lose_copy(app, old)
    return old


def _goes_on(app: Workload, old: Pod, memory: Mapping[str, Any]) -> None:
    (new,) = moves.ready(app, apart_from=[old])
    now = moves.answer(app, new, "/digest")
    assert (now["identity"], now["digest"]) == (memory["identity"], memory["digest"])
    assert moves.ended(app, old)["Restored"] == ("True", "Restored")
    assert moves.conditions(app, old)["KeyReleased"] == ("True", "Released")


def _waits(app: Workload, old: Pod, reason: str) -> str:
    """Return what the claim of *old* says once it waits for its key, for that reason."""

    def told() -> str | None:
        if moves.conditions(app, old).get("KeyReleased") != ("Unknown", reason):
            return None
        found = moves.checkpoint(app, old)
        assert found is not None
        listed: list[dict[str, str]] = found["status"]["conditions"]
        return next(c["message"] for c in listed if c["type"] == checkpoints.KEY_RELEASED)

    said: str = eventually(told, what=f"the claim waits for its key: {reason}")
    assert not any(map(moves.is_ready, moves.pods(app))), "it does not start without its memory"
    return said


def test_keys_are_sealed_and_plain_again_and_nothing_that_is_stored_is_lost(
    architect: Cluster, namespace: str, service: KeyService
) -> None:
    with (
        _kept(architect, namespace) as (app, gate, memory),
        workload(architect, namespace, "sleeper") as sleeper,
    ):
        identity = sleeper.get()["identity"]
        plain = _form(architect)
        first = _leave(app, gate)
        with _sealed(architect):
            _holds_nothing_plain(architect, plain)
            with service.away():
                # What was opened is used on, for what was stored before there was a service.
                gate.open()
                _goes_on(app, first, memory)
                second = _leave(app, gate)
                parts.restart_operators(architect)
                sleeper.sleep()
                assert sleeper.get()["identity"] == identity
                gate.open()
                assert "key management service" in _waits(app, second, "Unavailable")
                assert _questions(architect, request="open", result="Unavailable") > 0
            _goes_on(app, second, memory)
            assert _sealed_number(architect) == 1
            assert sleeper.restarts() == 0
            sealed = _form(architect)
            third = _leave(app, gate)
        assert _keys(_form(architect)).keys() == _keys(sealed).keys()
        gate.open()
        _goes_on(app, third, memory)


def test_a_key_that_somebody_disabled_is_named_and_works_again(
    architect: Cluster, namespace: str, service: KeyService
) -> None:
    with _kept(architect, namespace) as (app, gate, memory), _sealed(architect):
        old = _leave(app, gate)
        service.disable(key_service.FIRST)
        try:
            parts.restart_operators(architect)
            gate.open()
            assert "enable the key" in _waits(app, old, errors.KEY_DISABLED)
            assert _questions(architect, request="open", result=errors.KEY_DISABLED) > 0
            assert errors.KEY_DISABLED in _restore_failed(app)
        finally:
            service.enable(key_service.FIRST)
        _goes_on(app, old, memory)


def _restore_failed(app: Workload) -> str:
    """Return what the event on the new pod says, once it has waited too long."""
    said = eventually(lambda: app.events(names.EVENT_RESTORE_FAILED), what="event RestoreFailed")
    return str(said[0])


def test_another_key_seals_and_the_first_one_is_not_needed_any_more(
    architect: Cluster, namespace: str, service: KeyService
) -> None:
    with _kept(architect, namespace) as (app, gate, memory), _sealed(architect):
        old = _leave(app, gate)
        chart.change(architect, f"objectStore.kms.keyId={key_service.SECOND.alias}")
        _until_sealed(architect, key_service.SECOND)
        assert _form(architect)["seal"]["usedKey"] == key_service.SECOND.arn
        service.disable(key_service.FIRST)
        try:
            parts.restart_operators(architect)
            gate.open()
            _goes_on(app, old, memory)
        finally:
            service.enable(key_service.FIRST)


def test_a_service_that_is_away_when_it_is_set_delays_the_seal_and_nothing_else(
    architect: Cluster, namespace: str, service: KeyService
) -> None:
    with _kept(architect, namespace) as (app, gate, memory):
        before, given = _form(architect), chart.values(architect)
        old = _leave(app, gate)
        try:
            with service.away():
                chart.change(architect, *SET)
                eventually(
                    lambda: _questions(architect, request="make", result="Unavailable"),
                    what="the metric says that no data key is made",
                )
                assert _sealed_number(architect) == 0
                gate.open()
                _goes_on(app, old, memory)
                assert _form(architect) == before
            _until_sealed(architect)
        finally:
            _unseal(architect, given)


def test_a_service_that_is_taken_away_too_early_is_missed_by_name(
    architect: Cluster, namespace: str, service: KeyService
) -> None:
    with _kept(architect, namespace) as (app, gate, memory), _sealed(architect):
        old = _leave(app, gate)
        chart.change(architect, "objectStore.kms.provider=")
        gate.open()
        assert "unseal" in _waits(app, old, errors.NOT_CONFIGURED)
        assert _questions(architect, request="open", result=errors.NOT_CONFIGURED) > 0
        chart.change(architect, *SET)
        _goes_on(app, old, memory)


def test_the_secret_of_another_cluster_is_refused_by_name_and_left_alone(
    architect: Cluster, namespace: str, service: KeyService
) -> None:
    with _kept(architect, namespace) as (app, gate, memory), _sealed(architect):
        before = _form(architect)
        old = _leave(app, gate)
        chart.change(architect, "objectStore.kms.cluster=red")
        gate.open()
        assert "cluster is 'blue', and here 'red'" in _waits(app, old, errors.WRONG_CONTEXT)
        assert _questions(architect, request="open", result=errors.WRONG_CONTEXT) > 0
        assert _form(architect) == before
        chart.change(architect, "objectStore.kms.cluster=blue")
        _goes_on(app, old, memory)
