"""The daemon's loops against a keeper on a real socket and an API server in memory."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.api.policy import ContainerPolicy
from architect.checkpoint import keys
from architect.core.errors import Rejected, Unavailable
from architect.daemon import foresight, gvisor, housekeeping, install, keeper_link, preflight
from architect.daemon import writer as writer_module
from architect.daemon.counting import Counting
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.installer import Installer
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.observation import read_pod
from architect.daemon.registry import Registry
from architect.daemon.service import Daemon
from architect.daemon.settings import DaemonSettings, Engine, SpotProvider
from architect.daemon.store import PodStore
from architect.daemon.workqueue import WorkQueue
from architect.daemon.writer import Writer
from architect.kube.api import Api
from architect.kube.conditions import find
from architect.kube.connection import Request
from architect.kube.events import Recorder
from architect.kube.watch import Snapshot
from support.patience import patient

Eventually = Callable[..., None]
DAEMON_SET = "/apis/apps/v1/namespaces/architect/daemonsets/architect-daemon"
NODE = "/api/v1/nodes/node1"
CHECKPOINT = "/apis/architect.dev/v1alpha1/namespaces/default/checkpoints/web-uid-web"


def config(tmp_path: Path, **fields: Any) -> DaemonSettings:
    given: dict[str, Any] = {
        "node_name": "node1",
        "engine": Engine.NONE,
        "bundle": tmp_path / "no-bundle",
        "metrics_address": "127.0.0.1:0",
        "peer_address": "127.0.0.1:0",
        "keeper_timeout_seconds": 60.0,
        "sample_min_seconds": 0.1,
        "condition_interval_seconds": 0.2,
        "free_floor_bytes": 0,
        "spot_provider": SpotProvider.NONE,  # this machine's is not asked
        **fields,
    }
    return DaemonSettings(**given)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "pods").mkdir()
    return Layout(
        install=tmp_path / "opt",
        run=tmp_path,
        pods=tmp_path / "pods",
        checkpoints=tmp_path / "checkpoints",
        arrivals=tmp_path / "arrivals",
        requests=tmp_path / "requests",
    )


@pytest.fixture
def nodes(cluster: Any) -> None:
    cluster.put(NODE, {"kind": "Node", "metadata": {"name": "node1", "uid": "n"}, "status": {}})
    cluster.put(DAEMON_SET, {"metadata": {"name": "architect-daemon", "uid": "d"}})


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
    assert not daemon._failed


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


def test_an_uninstall_wakes_all_and_answers_with_its_token(
    tmp_path: Path, api: Api, keeper: Any, cluster: Any, layout: Layout, nodes: None
) -> None:
    keeper.add("uid-web", state="asleep")
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/c1.json").write_text("{}")
    cluster.objects[DAEMON_SET]["metadata"]["annotations"] = {names.UNINSTALL: "token-1"}
    cluster.objects[NODE]["metadata"]["labels"] = {names.NODE_READY_LABEL: "true"}
    chores = make_chores(tmp_path, api, keeper, layout)
    chores._look_for_uninstall()
    assert keeper.ops("wake")[0]["pod"] == "uid-web"
    node = cluster.objects[NODE]["metadata"]
    assert node["annotations"] == {names.UNINSTALLED: "token-1"}
    assert names.NODE_READY_LABEL not in node["labels"]
    assert [r.kind.value for r in chores.extra_reasons()] == ["Uninstalling"]
    assert "RuntimeKept" in cluster.events()


def test_an_uninstall_is_not_answered_while_the_api_says_that_a_pod_sleeps(
    tmp_path: Path, api: Api, keeper: Any, cluster: Any, layout: Layout, nodes: None, make: Any
) -> None:
    keeper.add("uid-web", state="awake")
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/c1.json").write_text("{}")
    cluster.objects[DAEMON_SET]["metadata"]["annotations"] = {names.UNINSTALL: "token-1"}
    down = make.pod_json(labels={"status.architect.dev/app": "SCALED_DOWN"})
    chores = make_chores(tmp_path, api, keeper, layout, pods=(down,))
    chores._look_for_uninstall()
    assert "annotations" not in cluster.objects[NODE]["metadata"]
    up = make.pod_json(labels={"status.architect.dev/app": "RUNNING"}, resourceVersion="2")
    chores._store.take(Snapshot(objects=(up,)))
    chores._look_for_uninstall()
    assert cluster.objects[NODE]["metadata"]["annotations"] == {names.UNINSTALLED: "token-1"}


def test_an_uninstall_with_a_pod_that_does_not_wake_is_not_answered(
    tmp_path: Path, api: Api, keeper: Any, cluster: Any, layout: Layout, nodes: None
) -> None:
    keeper.add("uid-web", state="failed")
    keeper.refusals["wake"] = {"code": "failed", "reason": "ImageLost", "message": "no image"}
    cluster.objects[DAEMON_SET]["metadata"]["annotations"] = {names.UNINSTALL: "token-1"}
    chores = make_chores(tmp_path, api, keeper, layout)
    chores._look_for_uninstall()
    assert "annotations" not in cluster.objects[NODE]["metadata"]


def test_an_old_answer_to_an_uninstall_is_taken_back(
    tmp_path: Path, api: Api, keeper: Any, cluster: Any, layout: Layout, nodes: None
) -> None:
    cluster.objects[NODE]["metadata"]["annotations"] = {names.UNINSTALLED: "old", "other": "x"}
    make_chores(tmp_path, api, keeper, layout)._look_for_uninstall()
    assert cluster.objects[NODE]["metadata"]["annotations"] == {"other": "x"}


def test_images_go_only_when_a_consistent_read_says_that_the_pod_is_gone(
    tmp_path: Path, api: Api, keeper: Any, cluster: Any, layout: Layout, nodes: None, make: Any
) -> None:
    for name in ("gone", "here", "unsure"):
        (layout.pods / f"uid-{name}").mkdir()
        value = {"version": 1, "namespace": "default", "name": name}
        (layout.pods / f"uid-{name}/pod.json").write_text(json.dumps(value))
    cluster.put_pod(make.pod_json("here"))
    chores = make_chores(tmp_path, api, keeper, layout)
    chores._forget_gone()
    assert {c["pod"] for c in keeper.ops("forget")} == {"uid-gone", "uid-unsure"}
    keeper.calls.clear()
    cluster.failures.append(lambda r: Unavailable("down") if r.method == "GET" else None)
    with pytest.raises(Unavailable):
        chores._forget_gone()
    assert keeper.ops("forget") == []


def test_a_node_that_is_not_ready_is_looked_at_again_soon(
    tmp_path: Path, api: Api, keeper: Any, layout: Layout, nodes: None, monkeypatch: Any
) -> None:
    monkeypatch.setattr(preflight, "probe_criu", lambda *_, **__: "CRIU does not start yet")
    monkeypatch.setattr(preflight, "probe_packet_queue", lambda: "")
    monkeypatch.setattr(Installer, "ensure", lambda self: setattr(self, "problem", ""))
    chores = make_chores(tmp_path, api, keeper, layout)
    chores.check()
    assert not chores.standing.is_ready
    assert chores._due["preflight"] - time.monotonic() <= housekeeping.RECHECK_SECONDS


def test_gvisor_is_tried_until_it_works_and_the_node_says_how_it_went(
    tmp_path: Path,
    api: Api,
    keeper: Any,
    cluster: Any,
    layout: Layout,
    nodes: None,
    monkeypatch: Any,
) -> None:
    cluster.objects[NODE]["metadata"]["labels"] = {names.NODE_GVISOR_LABEL: "true"}
    trials = [gvisor.Trial(problem="no CAP_SYS_ADMIN"), gvisor.Trial()]

    def attempt(*_: Any) -> gvisor.Trial:
        if len(trials) == 2:  # what an earlier daemon said holds as long as nothing is known
            assert names.NODE_GVISOR_LABEL in cluster.objects[NODE]["metadata"]["labels"]
        return trials.pop(0)

    monkeypatch.setattr(gvisor, "attempt", attempt)
    monkeypatch.setattr(Installer, "ensure", lambda self: setattr(self, "problem", ""))
    chores = make_chores(tmp_path, api, keeper, layout, has_gvisor=True)

    def told() -> tuple[str | None, str, str]:
        chores.check()
        assert chores._gvisor_trying is not None
        chores._gvisor_trying.join()
        chores.check()
        node = cluster.objects[NODE]
        (found,) = [
            c for c in node["status"]["conditions"] if c["type"] == names.NODE_GVISOR_CONDITION
        ]
        label = node["metadata"].get("labels", {}).get(names.NODE_GVISOR_LABEL)
        return label, found["status"], found["reason"]

    assert told() == (None, "False", "RunscFails")
    assert told() == (None, "False", "RunscFails"), "not tried again at once"
    monkeypatch.setattr(housekeeping, "GVISOR_TRIAL_SECONDS", 0.0)
    assert told() == ("true", "True", "Ready")
    assert told() == ("true", "True", "Ready"), "what worked is not tried again"
    assert trials == []
    assert cluster.events().count(names.NODE_GVISOR_CONDITION) == 2


def make_chores(
    tmp_path: Path,
    api: Api,
    keeper: Any,
    layout: Layout,
    *,
    pods: tuple[dict[str, Any], ...] = (),
    **settings: Any,
) -> housekeeping.Housekeeping:
    store = PodStore()
    store.take(Snapshot(objects=pods))
    return housekeeping.Housekeeping(
        config(tmp_path, **settings),
        api=api,
        host=Host(root=tmp_path, is_entered=False, proc=tmp_path),
        layout=layout,
        keeper=KeeperLink(timeout_seconds=60, transition_timeout_seconds=60, path=keeper.path),
        store=store,
        registry=Registry(),
        metrics=Metrics(),
        recorder=(recorder := Recorder(api, component="daemon", instance="node1")),
        tell=recorder.record,
        touch_all=lambda: None,
    )


# The writer alone


def make_writer(api: Api, store: PodStore, registry: Registry, told: list[Any]) -> Writer:
    return Writer(
        api,
        node="node1",
        store=store,
        registry=registry,
        metrics=Metrics(),
        counting=Counting(api, metrics=Metrics()),
        tell=lambda _, note: told.append(note),
        condition_interval_seconds=30,
    )


def asleep(keeper_status: dict[str, Any]) -> Registry:
    registry = Registry()
    registry.set_all([read_pod({**keeper_status, "state": "asleep"})])
    return registry


def test_a_reconciled_pod_needs_no_request_any_more(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store, told = PodStore(), list[Any]()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), told)
    writer.reconcile("uid-web")
    assert [w.split()[0] for w in cluster.writes()] == ["PATCH", "PATCH", "PATCH", "POST", "PATCH"]
    before = len(cluster.writes())
    writer.reconcile("uid-web")
    assert len(cluster.writes()) == before
    assert told == []


def test_a_restarted_daemon_finds_its_work_done(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    make_writer(api, store, asleep(keeper.pods["uid-web"]), []).reconcile("uid-web")
    before = len(cluster.writes())
    again = PodStore()
    again.take(Snapshot(objects=(cluster.pod("web"),)))
    make_writer(api, again, asleep(keeper.pods["uid-web"]), []).reconcile("uid-web")
    assert len(cluster.writes()) == before


def resized(cluster: Any, **requests: str) -> None:
    """Resize the pod as its owner does."""
    value = cluster.pod("web")
    value["spec"]["containers"][0]["resources"]["requests"] = requests
    cluster.put_pod(value)


def noted(cluster: Any) -> Any:
    return json.loads(cluster.pod("web")["metadata"]["annotations"][names.ORIGINAL_REQUESTS])


def requested(cluster: Any) -> Any:
    return cluster.pod("web")["spec"]["containers"][0]["resources"]["requests"]


OWN = {"cpu": "2", "memory": "1Gi"}
LOW = {"cpu": "1m", "memory": "1Ki"}


def test_what_its_owner_asked_for_before_the_daemon_heard_of_it_is_what_a_pod_gets_back(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    resized(cluster, **OWN)
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), [])
    writer.reconcile("uid-web")
    assert requested(cluster) == OWN, "nothing was decided on these"
    writer.reconcile("uid-web")
    assert requested(cluster) == LOW
    assert noted(cluster)["app"] == OWN


def test_what_its_owner_asks_for_in_the_middle_of_it_is_what_a_pod_gets_back(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    owner = [lambda: resized(cluster, **OWN)]

    def comes_first(request: Any) -> None:
        if request.path.endswith("/resize") and owner:
            owner.pop()()

    cluster.failures.append(comes_first)
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), [])
    writer.reconcile("uid-web")
    assert requested(cluster) == OWN
    store.update(cluster.pod("web"))
    writer.reconcile("uid-web")
    assert requested(cluster) == LOW
    assert noted(cluster)["app"] == OWN


def test_a_refused_resize_is_told_once_and_the_rest_is_done(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store, told = PodStore(), list[Any]()
    cluster.put_pod(make.pod_json())
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    cluster.failures.append(
        lambda r: (
            Rejected("pod QoS would change", reason="Invalid")
            if r.path.endswith("/resize")
            else None
        )
    )
    writer = make_writer(api, store, asleep(keeper.pods["uid-web"]), told)
    for _ in range(3):
        writer.reconcile("uid-web")
    assert [note.reason for note in told] == ["ResizePending"]
    assert CHECKPOINT in cluster.objects


def test_requests_that_are_refused_at_a_wake_are_asked_for_again(
    api: Api, cluster: Any, make: Any, keeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else had the quota, and gives it back later."""
    monkeypatch.setattr(writer_module, "RAISE_AGAIN_SECONDS", 0.0)
    keeper.add("uid-web")
    store, told = PodStore(), list[Any]()
    low = [{"name": "app", "resources": {"requests": {"cpu": "1m", "memory": "1Ki"}}}]
    noted = {names.ORIGINAL_REQUESTS: '{"app":{"cpu":"100m","memory":"64Mi"}}'}
    cluster.put_pod(make.pod_json(containers=low, annotations=noted))
    store.take(Snapshot(objects=(cluster.pod("web"),)))
    registry = Registry()
    registry.set_all([read_pod({**keeper.pods["uid-web"], "state": "awake"})])
    cluster.failures.append(
        lambda r: (
            Rejected("exceeded quota", reason="Forbidden") if r.path.endswith("/resize") else None
        )
    )
    writer = make_writer(api, store, registry, told)
    for _ in range(3):
        writer.reconcile("uid-web")
    assert [note.reason for note in told] == ["ResizePending"], "it is told once"
    cluster.failures.clear()
    writer.reconcile("uid-web")
    requests = cluster.pod("web")["spec"]["containers"][0]["resources"]["requests"]
    assert requests == {"cpu": "100m", "memory": "64Mi"}
    writer.reconcile("uid-web")
    assert names.ORIGINAL_REQUESTS not in cluster.pod("web")["metadata"]["annotations"]


def test_a_pod_that_was_replaced_is_not_written_to(
    api: Api, cluster: Any, make: Any, keeper: Any
) -> None:
    keeper.add("uid-web")
    store = PodStore()
    store.take(Snapshot(objects=(make.pod_json(),)))
    make_writer(api, store, asleep(keeper.pods["uid-web"]), []).reconcile("uid-web")
    assert cluster.objects == {}


def test_nothing_is_written_before_the_keeper_has_spoken(api: Api, cluster: Any, make: Any) -> None:
    store = PodStore()
    store.take(Snapshot(objects=(make.pod_json(),)))
    make_writer(api, store, Registry(), []).reconcile("uid-web")
    assert cluster.requests == []


# The queue


def test_a_key_is_taken_once_and_at_its_earliest_time() -> None:
    queue = WorkQueue()
    queue.add("a", delay_seconds=60)
    assert queue.take(timeout_seconds=0) is None
    queue.add("a")
    queue.add("a", delay_seconds=5)
    assert queue.take(timeout_seconds=0) == "a"
    assert queue.take(timeout_seconds=0) is None


def test_failures_in_a_row_wait_longer() -> None:
    queue = WorkQueue()
    delays = [queue.retry("a") for _ in range(12)]
    assert delays[0] <= 1.0
    assert delays[-1] >= 150.0
    queue.succeeded("a")
    assert queue.retry("a") <= 1.0
    assert queue.retry("b", at_least_seconds=7.0) == 7.0


def test_a_closed_queue_gives_nothing() -> None:
    queue = WorkQueue()
    queue.close()
    queue.add("a")
    assert queue.take(timeout_seconds=60) is None


def test_a_node_is_ready_once_its_keeper_is_of_its_version(
    tmp_path: Path, api: Api, keeper: Any, layout: Layout, nodes: None, monkeypatch: Any
) -> None:
    asked: list[Layout] = []
    monkeypatch.setattr(install, "upgrade_keeper", lambda _, where: asked.append(where))
    monkeypatch.setattr(preflight, "probe_criu", lambda *_, **__: "")
    monkeypatch.setattr(preflight, "probe_packet_queue", lambda: "")
    monkeypatch.setattr(Installer, "ensure", lambda self: setattr(self, "problem", ""))
    layout.install.mkdir(parents=True, exist_ok=True)
    layout.current.symlink_to("2")
    chores = make_chores(tmp_path, api, keeper, layout)
    for _ in range(2):
        chores.check()
        report = chores.standing.report
        assert report is not None
        assert (report.is_ready, report.reason) == (False, "KeeperUnavailable")
        assert "the keeper is of version 1, and not of 2 yet" in report.message
    assert asked == [layout], "asked once: each time anew it would get longer to end"
    layout.current.unlink()
    layout.current.symlink_to("1")
    assert chores._check_keeper() == ""


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


def test_an_older_keeper_tells_the_memory_that_it_knows_of(tmp_path: Path, keeper: Any) -> None:
    link = KeeperLink(timeout_seconds=20, transition_timeout_seconds=20, path=keeper.path)
    keeper.add("uid-web")
    keeper.add("uid-asleep", state="asleep")
    keeper.memory["uid-web"] = 5
    assert link.memory() == {"uid-web": 5}
    keeper.refusals["memory"] = {"code": "rejected", "reason": "Protocol", "message": "unknown"}
    assert link.memory() == {"uid-web": 1 << 20}
    keeper.refusals["memory"] = {"code": "rejected", "reason": "Ending", "message": "x"}
    with pytest.raises(Rejected):
        link.memory()
