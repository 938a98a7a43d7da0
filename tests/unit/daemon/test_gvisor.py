from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.api.policy import Migrate
from architect.core.errors import ConfigError
from architect.daemon import activity, gvisor, resync, settings
from architect.daemon.gvisor import Trial
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.reasons import Kind
from architect.daemon.resync import PodFacts
from architect.daemon.settings import DaemonSettings, Engine
from architect.daemon.store import PodStore
from architect.kube.watch import Change, ChangeKind, Snapshot

RAN = Trial()
GOOD: dict[str, Any] = {
    "is_wanted": True,
    "engine": Engine.CONTAINERD,
    "install": "",
    "uninstalling": "",
}


def under_gvisor(make: Any, **fields: Any) -> dict[str, Any]:
    value: dict[str, Any] = make.pod_json(**fields)
    value["spec"]["runtimeClassName"] = names.RUNTIME_CLASS_GVISOR
    return value


def test_a_node_where_a_container_ran_says_with_which_flags() -> None:
    assert gvisor.assess(RAN, **GOOD).is_ready
    flags = gvisor.assess(replace(RAN, flags=("--platform=kvm",)), **GOOD)
    assert flags.message == "a container ran with runsc --platform=kvm"
    unbounded = gvisor.assess(replace(RAN, flags=("--ignore-cgroups",)), **GOOD)
    assert unbounded.is_ready
    assert "limits of such pods are not enforced" in unbounded.message


@pytest.mark.parametrize(
    ("trial", "fields", "reason"),
    [
        (RAN, {"is_wanted": False}, "Disabled"),
        (RAN, {"install": "no runc"}, "InstallFailed"),
        (RAN, {"uninstalling": "token", "install": "x"}, "Uninstalling"),
        (RAN, {"engine": Engine.CRIO}, "EngineUnsupported"),
        (None, {}, gvisor.UNTRIED),
        (Trial(problem="no CAP_SYS_ADMIN"), {}, "RunscFails"),
    ],
)
def test_each_reason_against_it_has_its_word(
    trial: Trial | None, fields: dict[str, Any], reason: str
) -> None:
    report = gvisor.assess(trial, **{**GOOD, **fields})
    assert (report.is_ready, report.reason) == (False, reason)
    assert report.message


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "opt/current/bin").mkdir(parents=True)
    return Layout(install=tmp_path / "opt", run=tmp_path / "run")


def attempt(layout: Layout, script: str, flags: str = "") -> Trial:
    """Try it with a shell script in place of the bundle's program."""
    program = layout.current / "bin/architect-runtime"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    host = Host(root=Path("/"), is_entered=False)
    return gvisor.attempt(DaemonSettings(gvisor_flags=flags), host, layout)


def test_the_flags_with_which_a_container_ran_are_those_of_all(layout: Layout) -> None:
    conf = layout.install / names.RUNSC_CONF.name
    said = json.dumps({"flags": ["--ignore-cgroups"]})
    assert attempt(layout, f"echo '{said}'") == Trial(flags=("--ignore-cgroups",))
    assert conf.read_text().splitlines()[1:] == ["--ignore-cgroups"]
    # What was asked for stands behind the other words.
    script = """test "$*" = "try-gvisor --output=json -- --platform=kvm --debug" || exit 1
    echo '{"flags": ["--platform=kvm", "--debug"]}'"""
    assert not attempt(layout, script, flags="--platform=kvm --debug").problem
    assert conf.read_text().splitlines()[1:] == ["--platform=kvm", "--debug"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'no CAP_SYS_ADMIN' >&2; exit 3", "no CAP_SYS_ADMIN"),
        ("echo nonsense", "not understood"),
        ("echo '{}'", "not understood"),
    ],
)
def test_where_none_ran_the_reason_is_told_and_no_flag_written(
    layout: Layout, script: str, said: str
) -> None:
    assert said in attempt(layout, script).problem
    assert not (layout.install / names.RUNSC_CONF.name).exists()


def test_flags_are_read_as_flags() -> None:
    found = settings.parse(["--has-gvisor=true", "--gvisor-flags=--platform=kvm"], environment={})
    assert (found.has_gvisor, found.gvisor_flags) == (True, "--platform=kvm")
    with pytest.raises(ConfigError, match="not flags"):
        settings.parse(["--gvisor-flags=kvm"], environment={})


def test_a_gvisor_pod_says_that_it_does_not_sleep_and_never_moves(make: Any) -> None:
    store = PodStore()
    store.take(Snapshot(objects=(under_gvisor(make),)))
    (pod,) = store.all()
    assert pod.policy.migrate is Migrate.NEVER, "whatever its policy says"
    assert not activity.wants_sleep(pod)
    reasons = tuple(activity.pod_reasons(pod))
    assert [r.kind for r in reasons] == [Kind.GVISOR]
    labelled = replace(pod, labels={names.STATUS_LABEL_PREFIX + "app": names.STATUS_RUNNING})
    (action,) = resync.plan(PodFacts(pod=labelled, keeper=None, reasons=reasons))
    assert isinstance(action, resync.SetCondition)
    assert (action.condition.status.value, action.condition.reason) == ("False", "Gvisor")
    assert "does not sleep" in action.condition.message


def test_the_classes_of_the_nodes_pods_are_known_managed_or_not(make: Any) -> None:
    store = PodStore()
    managed, other = make.pod_json(), under_gvisor(make, name="other")
    managed["spec"]["runtimeClassName"] = names.RUNTIME_CLASS
    other["metadata"]["annotations"] = {}
    store.take(Snapshot(objects=(managed, other, make.pod_json("plain"))))
    assert store.runtime_classes() == {names.RUNTIME_CLASS, names.RUNTIME_CLASS_GVISOR}
    assert len(store.all()) == 2, "the one without a policy is nobody's to manage"
    ended = {**managed, "status": {"phase": "Succeeded"}}
    store.take(Change(kind=ChangeKind.MODIFIED, object=ended))
    assert store.runtime_classes() == {names.RUNTIME_CLASS_GVISOR}
    store.take(Change(kind=ChangeKind.DELETED, object=other))
    assert store.runtime_classes() == frozenset()
