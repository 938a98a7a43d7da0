"""A warm gVisor pod is saved while it runs; others start with its memory, on any node."""

from __future__ import annotations

import pytest

from architect.api import names
from lab.cluster import Cluster
from support import moves
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
from support.workloads import Workload, eventually, memory_server, workload

pytestmark = [pytest.mark.timeout(900), pytest.mark.concurrent]

MIB = 24
GVISOR = {names.RUNTIME: "runsc", names.IDLE: "never"}
ONE_AFTER_THE_OTHER = {"strategy": {"type": "Recreate", "rollingUpdate": None}}


def apart(app: str) -> dict[str, object]:
    """Return the affinity of pods of which no two are on one node."""
    term = {
        "labelSelector": {"matchLabels": {"app": app}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_pods_of_both_nodes_start_with_the_memory_of_one(
    architect: Cluster, namespace: str
) -> None:
    hook = {names.AFTER_RESTORE: '{"app": ["sh", "-c", "hostname > /root/hook"]}'}
    with workload(
        architect,
        namespace,
        "model",
        mebibytes=MIB,
        annotations={**GVISOR, **hook},
        more_containers=[memory_server("side", port=8081)],
        spec={"affinity": apart("model")},
    ) as app:
        (pod,) = moves.ready(app)
        identity = moves.answer(app, pod)["identity"]
        app.kubectl("exec", "deploy/model", "-c", "app", "--", "sh", "-c", "echo it >/root/layer")
        made = saved(app)
        before = moves.answer(app, pod, "/digest")
        assert before["identity"] == identity, "the saved pod goes on"
        needs = made["status"]["requirements"]
        assert needs["gvisor"]["version"] and "criu" not in needs
        (told,) = eventually(
            lambda: moves.events(app, pod, names.EVENT_CAPTURED), what="event Captured"
        )
        assert "stood still" in told
        allow(app)
        start_from(app, replicas=2, spec=ONE_AFTER_THE_OTHER)
        new = moves.ready(app, 2, apart_from=[pod], seconds=240)
        assert len({p["spec"]["nodeName"] for p in new}) == 2
        for one in new:
            name = one["metadata"]["name"]
            after = moves.answer(app, one, "/digest")
            assert (after["identity"], after["digest"]) == (identity, before["digest"])
            assert after["host"] == name
            (text,) = eventually(
                lambda one=one: moves.events(app, one, names.EVENT_RESTORED),  # type: ignore[misc]
                what="event Restored",
            )
            assert pod["metadata"]["name"] in text
            eventually(
                lambda one=one: moves.events(app, one, names.EVENT_HOOK_RAN),  # type: ignore[misc]
                what="event HookRan",
            )
            files = app.kubectl("exec", name, "-c", "app", "--", "cat", "/root/layer", "/root/hook")
            assert files.split() == ["it", name]
        app.kubectl("delete", "persistentcheckpoint", "warm")
        uid = made["metadata"]["uid"]
        eventually(lambda: not in_store(architect, uid), what="the data goes with the object")


@pytest.mark.long
def test_what_cannot_go_on_starts_fresh_and_says_why(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "changed", mebibytes=MIB, annotations=GVISOR) as app:
        (pod,) = moves.ready(app)
        starts_fresh_without_the_right(app, pod)


@pytest.mark.long
def test_one_that_must_have_its_memory_is_not_made_before(
    architect: Cluster, namespace: str
) -> None:
    wish = {names.ON_RESTORE_FAILURE: "retry"}
    with workload(
        architect, namespace, "held", mebibytes=MIB, annotations={**GVISOR, **wish}
    ) as app:
        (pod,) = moves.ready(app)
        identity = moves.answer(app, pod)["identity"]
        saved(app)
        begin_from(app, replicas=1, spec=ONE_AFTER_THE_OTHER)

        def refused() -> list[str]:
            living = [p for p in moves.pods(app) if p["metadata"]["uid"] != pod["metadata"]["uid"]]
            return [
                text for p in living for text in moves.events(app, p, names.EVENT_RESTORE_FAILED)
            ]

        told = eventually(refused, what="event RestoreFailed")
        assert "is not started" in told[0] and "NotAllowed" in told[0]
        allow(app)
        (new,) = moves.ready(app, apart_from=[pod], seconds=240)
        assert moves.answer(app, new)["identity"] == identity


def test_one_with_an_init_container_is_not_saved(architect: Cluster, namespace: str) -> None:
    first = {**memory_server("first"), "command": ["true"], "readinessProbe": None}
    with workload(
        architect, namespace, "begun", annotations=GVISOR, spec={"initContainers": [first]}
    ) as app:
        ask(app)
        assert _refusal(app) == "InitContainers"


def _refusal(app: Workload) -> str:
    def found() -> str:
        value = app.get_json("persistentcheckpoints.architect.dev", "warm")
        said = condition(value, "Accepted")
        return said["reason"] if said["status"] == "False" else ""

    reason: str = eventually(found, what="it is refused")
    return reason
