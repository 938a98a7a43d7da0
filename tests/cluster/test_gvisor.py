"""Pods in gVisor's sandbox under a real kubelet, by nothing but the chart."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from architect.api import names
from lab import errors
from lab.cluster import Cluster
from support import moves
from support.workloads import Workload, apply, eventually, memory_server, workload

pytestmark = pytest.mark.concurrent

SANDBOXED = {"runtimeClassName": names.RUNTIME_CLASS_GVISOR}
ASKS_IN_VAIN = {names.RUNTIME: "runsc", names.IDLE: "1s", names.MIGRATE: "true"}


@pytest.fixture(scope="module")
def pair(architect: Cluster, theme: str) -> Iterator[Workload]:
    """Two containers in one sandbox, under the class that the webhook gave them."""
    side = memory_server("side", port=8081)
    with workload(
        architect, theme, "pair", annotations=ASKS_IN_VAIN, more_containers=[side]
    ) as made:
        yield made


def _in(app: Workload, container: str, *command: str) -> str:
    return app.kubectl("exec", f"deploy/{app.name}", "-c", container, "--", *command).strip()


def test_every_node_says_that_a_container_of_gvisor_ran(architect: Cluster) -> None:
    def labelled() -> bool:
        labels = [node["metadata"]["labels"] for node in _nodes(architect)]
        return all(each.get(names.NODE_GVISOR_LABEL) == "true" for each in labels)

    eventually(labelled, what="every node has the label")
    for node in _nodes(architect):
        conditions = {c["type"]: c for c in node["status"]["conditions"]}
        found = conditions[names.NODE_GVISOR_CONDITION]
        assert (found["status"], found["reason"]) == ("True", "Ready")
        assert found["message"].startswith("a container ran")


def _nodes(cluster: Cluster) -> list[dict[str, Any]]:
    return list(json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"])


def test_two_containers_of_a_sandbox_are_a_pod_like_any_other(pair: Workload) -> None:
    spec = pair.pod()["spec"]
    assert spec["runtimeClassName"] == names.RUNTIME_CLASS_GVISOR
    assert spec["overhead"].keys() == {"memory"}, "what gVisor itself needs counts"
    assert _in(pair, "app", "uname", "-r").endswith("gvisor")
    first, second = pair.get(), pair.get(port=8081, host=pair.pod_ip())
    assert first["host"] == second["host"] == pair.pod_name()
    assert first["identity"] != second["identity"]
    pair.get("/say/spoken-in-a-sandbox")
    said = ("logs", f"deploy/{pair.name}", "-c", "app")
    eventually(lambda: "spoken-in-a-sandbox" in pair.kubectl(*said), what="its log")
    with pytest.raises(errors.CommandFailed, match="exit code 7"):
        _in(pair, "side", "sh", "-c", "exit 7")
    # A container that ends is started again in the same sandbox, beside the other.
    with contextlib.suppress(errors.CommandFailed):  # its end may come before its answer
        pair.get("/exit/3")
    eventually(lambda: pair.restarts() == 1 and pair.is_ready(), what="it was started again")
    last = pair.container_status("app")["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (3, "Error")
    assert pair.get_itself()["identity"] != first["identity"]
    assert pair.get(port=8081, host=pair.pod_ip())["identity"] == second["identity"]


def test_it_does_not_sleep_and_says_so(pair: Workload) -> None:
    eventually(lambda: pair.asleep_reason()[1] == "Gvisor", what="the condition says why")
    status, _, message = pair.asleep_reason()
    assert status == "False"
    assert "does not sleep" in message
    assert "does not sleep" in pair.why()
    assert pair.labels() == dict.fromkeys(("app", "side"), names.STATUS_RUNNING)
    with pytest.raises(errors.CommandFailed):
        pair.runtime("sleep")


def test_its_owner_is_told_what_means_nothing_for_it(pair: Workload) -> None:
    value = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "told", "annotations": ASKS_IN_VAIN},
        "spec": {"containers": [memory_server(volumeMounts=[])]},
    }
    with pytest.raises(errors.CommandFailed) as refused:
        pair.kubectl(
            *("create", "--dry-run=server", "--warnings-as-errors", "-f", "-"),
            input=json.dumps(value),
        )
    for key in (names.IDLE, names.MIGRATE):
        assert f"{key} has no effect: a gVisor pod does not" in str(refused.value)


def test_it_starts_fresh_after_its_end_and_nothing_of_it_is_saved(pair: Workload) -> None:
    old, before = pair.pod(), pair.get_itself()["identity"]
    pair.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
    (new,) = moves.ready(pair, apart_from=[old])
    assert moves.answer(pair, new)["identity"] != before
    assert pair.get_json("checkpoints.architect.dev")["items"] == []
    events = pair.get_json("events")["items"]
    ours = {e["reason"] for e in events if "architect" in str(e.get("reportingComponent"))}
    assert ours == set(), "a move that was not to be is no event"


def test_its_exit_code_is_its_pods_and_nothing_stays_on_the_node(
    architect: Cluster, theme: str
) -> None:
    made = Workload(cluster=architect, namespace=theme, name="job")
    command = [
        *("sh", "-c"),
        "while [ ! -e /tmp/now ]; do sleep 0.2; done; echo done in $(uname -r); exit 5",
    ]
    container = {**memory_server(volumeMounts=[]), "command": command, "readinessProbe": None}
    value = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "job"},
        "spec": {**SANDBOXED, "restartPolicy": "Never", "containers": [container]},
    }
    apply(made, value)

    def running() -> bool:
        statuses = made.get_json("pod", "job")["status"].get("containerStatuses", [{}])
        return "running" in statuses[0].get("state", {})

    eventually(running, what="it runs")
    # While it does: its sandbox ends soon after it.
    pod = made.get_json("pod", "job")
    node = architect.node(pod["spec"]["nodeName"])
    records = node.exec(["sh", "-c", f"cat {names.GVISOR_RECORDS}/*.json"])
    assert pod["metadata"]["uid"] in records
    made.kubectl("exec", "job", "--", "touch", "/tmp/now")

    def ended() -> int | None:
        statuses = made.get_json("pod", "job")["status"].get("containerStatuses", [{}])
        code: int | None = statuses[0].get("state", {}).get("terminated", {}).get("exitCode")
        return code

    assert eventually(ended, what="it ends") == 5
    assert "gvisor" in made.kubectl("logs", "job")
    made.kubectl("delete", "pod", "job")

    def is_forgotten() -> bool:
        look = f"cat {names.GVISOR_RECORDS}/*.json 2>/dev/null || true"
        return pod["metadata"]["uid"] not in node.exec(["sh", "-c", look])

    eventually(is_forgotten, what="nothing of it is left")
