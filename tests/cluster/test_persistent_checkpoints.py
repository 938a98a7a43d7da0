"""A warm pod is saved while it runs; as many as may start from it have its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from architect.api import names
from architect.checkpoint import keys
from architect.kube import checkpoints, resources
from architect.kube.api import Api
from architect.kube.resources import CHECKPOINTS, ObjectRef
from lab import errors
from lab.cluster import Cluster
from support import moves, parts
from support.daemontokens import open_as
from support.moves import Pod
from support.objectstore import in_store
from support.persistent import (
    allow,
    ask,
    begin_from,
    condition,
    saved,
    start_from,
    starts_fresh_without_the_right,
)
from support.tiers import sized
from support.workloads import (
    Workload,
    apply,
    eventually,
    memory_server,
    pod_template,
    workload,
)

pytestmark = [pytest.mark.timeout(900), pytest.mark.concurrent]

MIB = 24
TRIES = 3
"""Where a machine that stands still may take the time of somebody who waits."""
STARTED = sized(3, 10)


@contextmanager
def _warm(cluster: Cluster, namespace: str, name: str) -> Iterator[tuple[Workload, Pod, str]]:
    with workload(cluster, namespace, name, mebibytes=MIB) as app:
        (pod,) = moves.ready(app)
        yield app, pod, str(moves.answer(app, pod)["identity"])


def test_replicas_start_with_the_memory_of_one(architect: Cluster, namespace: str) -> None:
    with _warm(architect, namespace, "model") as (app, pod, identity):
        made = saved(app)
        assert moves.answer(app, pod)["identity"] == identity, "the saved pod goes on"
        assert app.restarts() == 0
        assert app.state() == "awake"
        status = made["status"]
        assert status["podRef"]["uid"] == pod["metadata"]["uid"]
        assert status["bytes"] > MIB << 20
        uid = made["metadata"]["uid"]
        assert in_store(architect, uid)
        allow(app)
        start_from(app, replicas=STARTED)
        new = moves.ready(app, STARTED, apart_from=[pod], seconds=240)
        assert moves.identities(app, new) == [identity] * STARTED
        # Later ones as well: it restores many.
        app.kubectl("scale", f"deploy/{app.name}", f"--replicas={STARTED + 1}")
        more = moves.ready(app, STARTED + 1, apart_from=[pod], seconds=240)
        assert moves.identities(app, more) == [identity] * (STARTED + 1)
        for one in more:
            (told,) = eventually(
                lambda one=one: moves.events(app, one, names.EVENT_RESTORED),  # type: ignore[misc]
                what="event Restored",
            )
            assert pod["metadata"]["name"] in told
        claims = [
            c
            for c in app.get_json("checkpoints.architect.dev")["items"]
            if c["spec"].get("startFrom", {}).get("uid") == uid
        ]
        assert len({c["status"]["claimedBy"]["uid"] for c in claims}) == len(claims)
        assert len({c["status"]["claimedBy"]["publicKey"] for c in claims}) == len(claims)
        used = eventually(
            lambda: app.get_json("persistentcheckpoints.architect.dev", "warm")["status"].get(
                "lastUsedAt"
            ),
            what="it is told when it was used",
        )
        assert used >= status["capturedAt"]
        said = app.kubectl("describe", "persistentcheckpoint", "warm")
        assert set(status["durations"]) == {"freeze", "capture", "upload"}
        for text in (
            f"the pod was copied on node {pod['spec']['nodeName']}, and goes on",
            "pods can start from what lies in bucket",
            *(pod["metadata"]["name"], status["size"], status["capturedAt"], used),
            *status["durations"].values(),
        ):
            assert text in said, text
        app.kubectl("delete", "persistentcheckpoint", "warm")
        eventually(lambda: not in_store(architect, uid), what="the data goes with the object")


def test_without_the_right_pods_start_fresh_and_say_so(architect: Cluster, namespace: str) -> None:
    with _warm(architect, namespace, "private") as (app, pod, _):
        starts_fresh_without_the_right(app, pod)


@pytest.mark.long
def test_another_template_does_not_get_it(architect: Cluster, namespace: str) -> None:
    with _warm(architect, namespace, "changed") as (app, _, identity):
        saved(app)
        allow(app)
        app.kubectl("set", "env", f"deploy/{app.name}", "COLOUR=blue")
        start_from(app, replicas=1)

        def newest() -> Pod | None:
            living = [p for p in moves.pods(app) if moves.is_ready(p)]
            asked = [p for p in living if names.START_FROM in p["metadata"]["annotations"]]
            return asked[0] if len(living) == 1 and asked else None

        new: Pod = eventually(newest, what="the rollout is over", seconds=240)
        assert moves.answer(app, new)["identity"] != identity
        (told,) = eventually(
            lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED), what="event RestoreFailed"
        )
        assert "TemplateDiffers" in told
        assert "env" in told


@pytest.mark.long
def test_a_pod_that_is_not_there_yet_is_waited_for(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "early", mebibytes=MIB) as app:
        app.kubectl("scale", "deploy/early", "--replicas=0")
        # Nor one that ends, which might be taken for it.
        eventually(
            lambda: not app.get_json("pods", labels=f"app={app.name}")["items"],
            what="there is no pod",
        )
        ask(app)

        def accepted() -> str:
            found = app.get_json("persistentcheckpoints.architect.dev", "warm")
            return condition(found, "Accepted")["status"]

        eventually(lambda: accepted() == "Unknown", what="it waits for a pod")
        app.kubectl("scale", "deploy/early", "--replicas=1")
        (pod,) = moves.ready(app)
        made = saved(app)
        assert made["status"]["podRef"]["uid"] == pod["metadata"]["uid"]


def test_one_of_another_namespace_is_nobodys(
    architect: Cluster, namespace: str, theme: str
) -> None:
    """Pods know those of their own namespace by name; who forges a claim gets no key for it."""
    asks = {names.IDLE: "1h", names.START_FROM: "warm"}
    with _warm(architect, namespace, "model") as (_, _, identity):
        warm = saved(Workload(cluster=architect, namespace=namespace, name="model"))
        allow(Workload(cluster=architect, namespace=theme, name="model"))
        with workload(architect, theme, "model", mebibytes=MIB, annotations=asks) as app:
            (pod,) = moves.ready(app)
            assert moves.answer(app, pod)["identity"] != identity
            (told,) = eventually(
                lambda: moves.events(app, pod, names.EVENT_RESTORE_FAILED),
                what="event RestoreFailed",
            )
            assert "NoPersistentCheckpoint: PersistentCheckpoint warm: it is not there" in told
            wrong = {names.IDLE: "1h", names.START_FROM: f"{namespace}/warm"}
            value = pod_template("foreign", [memory_server()], annotations=wrong)
            value["metadata"]["name"] = "foreign"
            with pytest.raises(errors.CommandFailed, match="in the pod's namespace"):
                apply(app, {"apiVersion": "v1", "kind": "Pod", **value})
            assert _key_for(open_as(architect.kubeconfig), warm, pod) == "NotAvailable"


def _key_for(administrator: Api, warm: dict[str, Any], pod: Pod) -> str:
    """Claim *warm* in the name of *pod*; return the reason for which no key is given."""
    metadata = pod["metadata"]
    who = resources.pod(metadata["namespace"], metadata["name"], uid=metadata["uid"])
    made = checkpoints.build_start(who, warm, template_hash=warm["status"]["templateHash"])
    ref = ObjectRef(resource=CHECKPOINTS, namespace=who.namespace, name=made["metadata"]["name"])
    administrator.create(ref, made)
    claim = {
        "name": who.name,
        "uid": who.uid,
        "node": pod["spec"]["nodeName"],
        "publicKey": keys.public_to_text(keys.make_key().public_key()),
    }
    administrator.patch(ref, {"status": {"claimedBy": claim}}, subresource="status")

    def said() -> dict[str, str]:
        found = administrator.get(CHECKPOINTS, ref.name, namespace=ref.namespace)
        assert "keyRelease" not in found["status"]
        released = condition(found, "KeyReleased")
        return released if released["status"] == "False" else {}

    reason: str = eventually(said, what="the key is refused")["reason"]
    administrator.delete(ref)
    return reason


def test_pods_that_come_before_what_they_start_from_wait_for_it(
    architect: Cluster, namespace: str
) -> None:
    """First it is not there, then it is not ready."""
    for tries in range(TRIES, 0, -1):
        if _came_first(architect, namespace, f"first-{tries}"):
            return
    raise AssertionError(f"none of {TRIES} was made within the time that a pod waits for it")


def _came_first(cluster: Cluster, namespace: str, name: str) -> bool:
    """Whether a pod that asked first has gone on from what was made and saved after that.

    It waits for 10 s until the object is there, which a machine that stands still may need: False.
    """
    with _warm(cluster, namespace, name) as (app, old, identity):
        allow(app, name)
        begin_from(app, name, replicas=1)
        new: Pod = eventually(
            lambda: next(
                (p for p in moves.pods(app) if p["metadata"]["uid"] != _uid(old)
                 and p["spec"].get("nodeName")), None
            ),
            what="a new pod has a node",
        )  # fmt: skip
        node = cluster.node(new["spec"]["nodeName"])
        parts.until_logged(node, f" waits for PersistentCheckpoint {name}")
        made = saved(app, name)
        (ready,) = moves.ready(app, apart_from=[old])
        assert _uid(ready) == _uid(new)
        failed = moves.events(app, new, names.EVENT_RESTORE_FAILED)
        if failed and "NoPersistentCheckpoint" in failed[0]:
            return False
        assert made["status"]["podRef"]["uid"] == _uid(old), "not the one that waits"
        assert moves.answer(app, ready)["identity"] == identity
        assert not failed
        assert app.restarts() == 0
        return True


def _uid(pod: Pod) -> str:
    return str(pod["metadata"]["uid"])
