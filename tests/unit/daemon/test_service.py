"""The daemon's loops against a keeper on a real socket and an API server in memory."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.api.policy import ContainerPolicy
from architect.checkpoint import keys
from architect.core.errors import Unavailable
from architect.daemon import foresight, housekeeping, install, keeper_link, preflight
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.installer import Installer
from architect.daemon.service import Daemon
from architect.kube.api import Api
from architect.kube.conditions import find
from architect.kube.connection import Request
from support.daemons import CHECKPOINT, NODE, config
from support.patience import patient

Eventually = Callable[..., None]


@pytest.fixture
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What the daemon of a test is told besides: a parameter of it."""
    given: dict[str, Any] = getattr(request, "param", {})
    return given


@pytest.fixture
def running(
    tmp_path: Path,
    api: Api,
    keeper: Any,
    layout: Layout,
    nodes: None,
    fields: dict[str, Any],
    monkeypatch: Any,
) -> Iterator[Daemon]:
    # What would look at, or change, this machine.
    monkeypatch.setattr(preflight, "probe_criu", lambda *_, **__: "")
    monkeypatch.setattr(Installer, "ensure", lambda self: setattr(self, "problem", ""))
    monkeypatch.setattr(install, "prune", lambda _: [])
    host = Host(root=tmp_path, is_entered=False, proc=tmp_path)
    daemon = Daemon(config(tmp_path, **fields), api=api, host=host, layout=layout)
    before = threading.excepthook
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        thread.join(patient(60))
        threading.excepthook = before
    assert not thread.is_alive()
    assert not daemon._threads.have_failed


@pytest.mark.parametrize("fields", [{"store_bucket": "checkpoints"}], indirect=True)
def test_the_clusters_key_is_known_before_any_pod_leaves(
    running: Daemon, cluster: Any, eventually: Eventually
) -> None:
    """At a notice there may be nobody to ask."""
    vault = running._vault
    assert vault is not None
    with pytest.raises(Unavailable, match="is not there"):
        vault._cluster_key.current()
    text = keys.public_to_text(keys.make_key().public_key())
    data = {"metadata": {"name": "architect-checkpoint-key"}, "data": {"current": text}}
    cluster.put("/api/v1/namespaces/architect/configmaps/architect-checkpoint-key", data)
    vault.poke()
    eventually(lambda: vault._cluster_key._known is not None)


def quick(make: Any, name: str = "web", **arguments: Any) -> dict[str, Any]:
    policy = make.policy(app=ContainerPolicy(idle_seconds=1.2))
    value: dict[str, Any] = make.pod_json(name, policy=policy, **arguments)
    return value


def reason(cluster: Any) -> str:
    found = find(cluster.pod("web")["status"]["conditions"], names.CONDITION_ASLEEP)
    return str(found["reason"]) if found else ""


def label(cluster: Any) -> str:
    return str(cluster.pod("web")["metadata"]["labels"].get("status.architect.dev/app", ""))


def requests_of(cluster: Any) -> Any:
    return cluster.pod("web")["spec"]["containers"][0]["resources"]["requests"]


BUSY = {"exec_sessions": [{"pid": 9, "command": "sh", "argv": ["sh"]}]}
"""What the keeper sees of a pod that stays awake."""


def test_an_idle_pod_falls_asleep_and_the_api_says_so_and_back(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    # Idle only once it was seen awake: it would be asleep before the first look of a slow test.
    keeper.observations["uid-web"] = BUSY
    keeper.add("uid-web")
    keeper.emit({"event": "registered", "pod": "uid-web"})
    cluster.put_pod(quick(make))
    eventually(lambda: label(cluster) == "RUNNING")
    keeper.observations["uid-web"] = {}
    # What is written last, by each thread that writes; all else is there by then.
    eventually(lambda: "status" in cluster.objects.get(CHECKPOINT, {}))
    eventually(lambda: "Slept" in cluster.events())
    assert label(cluster) == "SCALED_DOWN"
    assert requests_of(cluster) == {"cpu": "1m", "memory": "1Ki"}
    condition = find(cluster.pod("web")["status"]["conditions"], names.CONDITION_ASLEEP)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("True", "Slept")
    status = cluster.objects[CHECKPOINT]["status"]
    assert status["location"]["node"]["name"] == "node1"

    keeper.observations["uid-web"] = BUSY
    keeper.pods["uid-web"]["state"] = "awake"
    keeper.emit({"event": "woke", "pod": "uid-web", "duration_seconds": 0.02, "reason": "exec"})
    eventually(lambda: CHECKPOINT not in cluster.objects)
    assert label(cluster) == "RUNNING"
    assert requests_of(cluster) == {"cpu": "100m", "memory": "64Mi"}
    assert names.ORIGINAL_REQUESTS not in cluster.pod("web")["metadata"]["annotations"]
    eventually(lambda: "Woke" in cluster.events())
    eventually(lambda: reason(cluster) == "ExecSession")
    eventually(
        lambda: any("exec session: sh (pid 9)" in " ".join(n["why"]) for n in keeper.ops("note"))
    )
    eventually(lambda: [call["containers"] for call in keeper.ops("ready")[:1]] == [{"app": True}])


def test_requests_by_which_an_autoscaler_divides_stay_and_the_event_says_so(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    target = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web"}
    scaler = {
        "metadata": {"namespace": "default", "name": "scaler"},
        "spec": {"scaleTargetRef": target},
    }
    cluster.put("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/scaler", scaler)
    keeper.observations["uid-web"] = BUSY
    keeper.add("uid-web")
    keeper.emit({"event": "registered", "pod": "uid-web"})
    owner = {**target, "uid": "s", "controller": True}
    cluster.put_pod(quick(make, ownerReferences=[owner]))
    eventually(lambda: label(cluster) == "RUNNING")
    keeper.observations["uid-web"] = {}
    eventually(lambda: "status" in cluster.objects.get(CHECKPOINT, {}))
    eventually(lambda: "Slept" in cluster.events())
    assert requests_of(cluster) == {"cpu": "100m", "memory": "1Ki"}
    (slept,) = (o for p, o in cluster.objects.items() if "/events/" in p and o["reason"] == "Slept")
    assert slept["note"].endswith(
        "requests for cpu stay, since what it uses is divided by them: "
        "HorizontalPodAutoscaler scaler"
    )


def test_the_image_of_a_deleted_pod_goes_soon(
    running: Daemon,
    make: Any,
    keeper: Any,
    cluster: Any,
    layout: Layout,
    eventually: Eventually,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(housekeeping, "UNINSTALL_POLL_SECONDS", 0.2)
    cluster.put_pod(make.pod_json())
    keeper.add("uid-web")
    keeper.emit({"event": "registered", "pod": "uid-web"})
    eventually(lambda: label(cluster) == "RUNNING")
    (layout.pods / "uid-web").mkdir()
    owner = {"version": 1, "namespace": "default", "name": "web"}
    (layout.pods / "uid-web/pod.json").write_text(json.dumps(owner))
    del keeper.pods["uid-web"]
    cluster.remove("/api/v1/namespaces/default/pods/web")
    keeper.emit({"event": "removed", "pod": "uid-web"})
    # It may be asked for more than once: the directory stays, which the real keeper removes.
    eventually(lambda: {c["pod"] for c in keeper.ops("forget")} == {"uid-web"})


def test_what_happened_while_the_keeper_was_away_is_found_out(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    keeper.add("uid-web")
    cluster.put_pod(make.pod_json())
    keeper.emit({"event": "registered", "pod": "uid-web"})
    eventually(lambda: label(cluster) == "RUNNING")
    keeper.stop()
    keeper.pods["uid-web"]["state"] = "asleep"
    keeper.start()
    eventually(lambda: label(cluster) == "SCALED_DOWN")


def test_a_keeper_that_stays_away_is_started(
    running: Daemon, keeper: Any, eventually: Eventually, monkeypatch: Any
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(keeper_link, "start", lambda _, *, current: started.append(current))
    eventually(lambda: keeper.ops("list"))
    keeper.stop()
    eventually(lambda: started)
    listed = len(keeper.ops("list"))
    keeper.start()
    eventually(lambda: len(keeper.ops("list")) > listed)


def test_an_outage_of_the_api_loses_nothing(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    keeper.add("uid-web")
    cluster.put_pod(make.pod_json())
    keeper.emit({"event": "registered", "pod": "uid-web"})
    eventually(lambda: label(cluster) == "RUNNING")

    refused: list[Request] = []

    def refuse(request: Request) -> Unavailable | None:
        if request.method != "PATCH":
            return None
        refused.append(request)
        return Unavailable("down")

    cluster.failures.append(refuse)
    keeper.pods["uid-web"]["state"] = "asleep"
    keeper.emit({"event": "slept", "pod": "uid-web"})
    eventually(lambda: any("SCALED_DOWN" in str(request.body) for request in refused))
    assert label(cluster) == "RUNNING"
    cluster.failures.clear()
    eventually(lambda: label(cluster) == "SCALED_DOWN")


def test_a_failed_sleep_is_told_and_not_repeated(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    keeper.add("uid-web")
    keeper.refusals["sleep"] = {"code": "failed", "reason": "IoUring", "message": "uses io_uring"}
    keeper.emit({"event": "registered", "pod": "uid-web"})
    cluster.put_pod(quick(make))
    eventually(lambda: keeper.ops("sleep"))
    keeper.emit({"event": "sleep-failed", "pod": "uid-web", "reason": "IoUring", "message": "x"})
    eventually(lambda: "SleepFailed" in cluster.events())
    looks = len(keeper.ops("observe"))
    eventually(lambda: reason(cluster) == "SleepFailed")
    eventually(lambda: len(keeper.ops("observe")) > looks + 5)
    assert len(keeper.ops("sleep")) == 1


def test_a_sleep_that_fails_while_its_pod_is_looked_at_is_not_repeated(
    running: Daemon,
    make: Any,
    keeper: Any,
    cluster: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler, judge = running._sampler, running._sampler._judge
    ends = keeper.gates["sleep"] = threading.Event()

    def judge_before_it_has_failed(pod: Any, seen: Any) -> Any:
        verdict = judge(pod, seen)
        if keeper.ops("sleep") and not ends.is_set():
            ends.set()
            eventually(lambda: not sampler._falling)
        return verdict

    monkeypatch.setattr(sampler, "_judge", judge_before_it_has_failed)
    keeper.add("uid-web")
    keeper.refusals["sleep"] = {"code": "failed", "reason": "IoUring", "message": "uses io_uring"}
    keeper.emit({"event": "registered", "pod": "uid-web"})
    cluster.put_pod(quick(make))
    eventually(ends.is_set)
    looks = len(keeper.ops("observe"))
    eventually(lambda: len(keeper.ops("observe")) > looks + 5)
    assert len(keeper.ops("sleep")) == 1


FOUND = {
    "container": "app",
    "reason": "Socket",
    "message": "process 7 (web) has a socket of the kind AF_VSOCK",
    "hint": "close it",
    "is_blocking": True,
    "about": "processes",
}


def test_a_pod_that_cannot_be_dumped_is_told_of_and_not_tried(
    running: Daemon,
    make: Any,
    keeper: Any,
    cluster: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(foresight, "AGAIN_SECONDS", 0.1)
    keeper.findings = [FOUND, {**FOUND, "reason": "NoSpace", "about": "pod"}]
    keeper.add("uid-web")
    keeper.emit({"event": "registered", "pod": "uid-web"})
    cluster.put_pod(quick(make))
    eventually(lambda: reason(cluster) == "CannotSleep")
    eventually(lambda: "CannotSleep" in cluster.events())
    looks = len(keeper.ops("check"))
    eventually(lambda: len(keeper.ops("check")) > looks + 2)
    assert keeper.ops("sleep") == []
    assert cluster.events().count("CannotSleep") == 1
    condition = find(cluster.pod("web")["status"]["conditions"], names.CONDITION_ASLEEP)
    assert condition is not None
    assert condition["message"] == f"app: Socket: {FOUND['message']} (hint: close it)"
    # The keeper says it by itself; it is told of the rest.
    assert all("VSOCK" not in text for call in keeper.ops("note") for text in call["why"])
    keeper.findings = []
    eventually(lambda: label(cluster) == "SCALED_DOWN")


def test_what_is_found_while_its_pod_is_judged_keeps_it_awake(
    running: Daemon,
    make: Any,
    keeper: Any,
    cluster: Any,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead = running._sampler._foresight
    consider = ahead.consider
    ends = keeper.gates["check"] = threading.Event()

    def consider_once_it_has_ended(pod: Any, **given: Any) -> bool:
        if given["left_seconds"] == 0.0 and not ends.is_set():
            ends.set()
            eventually(lambda: not ahead._under_way)
        return consider(pod, **given)

    monkeypatch.setattr(ahead, "consider", consider_once_it_has_ended)
    keeper.findings = [FOUND]
    keeper.add("uid-web")
    keeper.emit({"event": "registered", "pod": "uid-web"})
    cluster.put_pod(quick(make))
    eventually(lambda: reason(cluster) == "CannotSleep")
    assert ends.is_set()
    assert keeper.ops("sleep") == []


def test_a_pod_is_looked_at_before_its_first_sleep_and_not_before_each(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    keeper.add("uid-web")
    keeper.emit({"event": "registered", "pod": "uid-web"})
    cluster.put_pod(quick(make))
    eventually(lambda: label(cluster) == "SCALED_DOWN")
    order = [call["op"] for call in keeper.calls if call["op"] in ("check", "sleep")]
    assert order == ["check", "sleep"]
    keeper.pods["uid-web"]["state"] = "awake"
    keeper.emit({"event": "woke", "pod": "uid-web"})
    eventually(lambda: len(keeper.ops("sleep")) == 2)
    assert len(keeper.ops("check")) == 1


def test_metrics_and_health_are_served(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    def get(path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{running.metrics_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    eventually(lambda: keeper.ops("list"))
    keeper.add("uid-web")
    cluster.put_pod(make.pod_json())
    keeper.emit({"event": "woke", "pod": "uid-web", "duration_seconds": 0.02, "reason": "exec"})
    eventually(lambda: 'architect_wakes_total{reason="exec"} 1.0' in get("/metrics")[1])
    eventually(lambda: 'architect_pods{state="awake"} 1.0' in get("/metrics")[1])
    assert get("/healthz") == (200, "ok\n")
    assert get("/nothing")[0] == 404
    eventually(lambda: "pre-flight" not in get("/readyz")[1])


def plan_of(daemon: Daemon, query: str = "") -> str:
    url = f"http://127.0.0.1:{daemon.metrics_port}/spot/plan{query}"
    with urllib.request.urlopen(url, timeout=60) as found:
        return str(found.read().decode())


def test_the_daemon_tells_what_a_notice_would_save(
    running: Daemon, make: Any, keeper: Any, cluster: Any, eventually: Eventually
) -> None:
    keeper.add("uid-web")
    keeper.memory["uid-web"] = 60 << 20
    keeper.emit({"event": "registered", "pod": "uid-web"})
    cluster.put_pod(make.pod_json("web"))

    def planned() -> list[tuple[str, int, str]]:
        pods = json.loads(plan_of(running, "?output=json"))["pods"]
        return [(pod["name"], pod["bytes"], pod["state"]) for pod in pods]

    eventually(lambda: planned() == [("default/web", 64 << 20, "awake")])
    assert plan_of(running).startswith("node node1: 25 s can be used; nothing has to be saved")
    # It has no object store here.
    assert "does not fit: NoObjectStore: no object store is configured" in plan_of(running)
    # No cloud has said that this is a spot machine.
    assert names.SPOT_NEEDS not in (cluster.objects[NODE]["metadata"].get("annotations") or {})
