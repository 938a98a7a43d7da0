"""What is looked after beside the pods: whether the node is ready, old images, an uninstall."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core.errors import Unavailable
from architect.daemon import gvisor, housekeeping, install, preflight
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.installer import Installer
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.registry import Registry
from architect.daemon.store import PodStore
from architect.kube.api import Api
from architect.kube.events import Recorder
from architect.kube.watch import Snapshot
from support.daemons import DAEMON_SET, NODE, config


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
