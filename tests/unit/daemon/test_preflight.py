from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.api.keeper import PodState
from architect.core.errors import ConfigError
from architect.daemon import __main__ as command
from architect.daemon import images, preflight, settings
from architect.daemon.observation import KeeperPod
from architect.daemon.preflight import Facts, Standing

GOOD = Facts(kernel="6.12.0-amd64", state_file_system="ext4", free_bytes=50 << 30, clock_unix=1.8e9)


def test_a_good_node_is_ready_and_says_what_it_is() -> None:
    report = preflight.assess(GOOD)
    assert report.is_ready
    assert report.message == "Linux 6.12.0-amd64, cgroup v2"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"install": "no runc"}, "InstallFailed"),
        ({"keeper": "nobody answers"}, "KeeperUnavailable"),
        ({"criu": "no userfaultfd"}, "CriuUnavailable"),
        ({"packet_queue": "none"}, "NoPacketQueue"),
        ({"kernel": "5.4.0-generic"}, "KernelTooOld"),
        ({"state_file_system": "tmpfs"}, "StateNotOnDisk"),
        ({"free_bytes": 1 << 20}, "DiskFull"),
        ({"clock_unix": 100.0}, "ClockWrong"),
        ({"uninstalling": "token", "criu": "x"}, "Uninstalling"),
    ],
)
def test_each_problem_has_its_word_and_all_are_told(fields: dict[str, Any], reason: str) -> None:
    report = preflight.assess(replace(GOOD, **fields))
    assert not report.is_ready
    assert report.reason == reason
    both = preflight.assess(replace(GOOD, **{"criu": "broken", **fields}))
    assert "broken" in both.message or fields.get("criu")


def test_a_ready_node_is_not_taken_down_by_one_failed_check() -> None:
    good, bad = preflight.assess(GOOD), preflight.assess(replace(GOOD, keeper="restarting"))
    standing = preflight.settle(Standing(), good)
    once = preflight.settle(standing, bad)
    assert once.is_ready
    assert not preflight.settle(once, bad).is_ready
    assert preflight.settle(preflight.settle(once, bad), good).is_ready
    assert not preflight.settle(Standing(), bad).is_ready
    leaving = preflight.assess(replace(GOOD, uninstalling="t"))
    assert not preflight.settle(standing, leaving).is_ready


NODE, GVISOR = names.NODE_READY_LABEL, names.NODE_GVISOR_LABEL


def test_labels_change_only_when_they_must() -> None:
    ready, label = {NODE: True, GVISOR: False}, {NODE: "true"}
    assert preflight.node_labels(ready, existing={}, used=()) == label
    assert preflight.node_labels(ready, existing=label, used=()) == {}
    assert preflight.node_labels({NODE: False}, existing=label, used=()) == {NODE: None}
    assert preflight.node_labels(ready, existing={NODE: "false"}, used=()) == label
    swapped = {NODE: False, GVISOR: True}
    expected = {NODE: None, GVISOR: "true"}
    assert preflight.node_labels(swapped, existing=label, used=()) == expected


def test_a_label_that_managed_pods_depend_on_stays_and_none_is_set_for_them() -> None:
    labels = {NODE: "true", GVISOR: "true"}
    wanted = dict.fromkeys(labels, False)
    assert preflight.node_labels(wanted, existing=labels, used={NODE}) == {GVISOR: None}
    assert preflight.node_labels(wanted, existing=labels, used=labels) == {}
    assert preflight.node_labels(wanted, existing={}, used=labels) == {}


def test_the_file_system_is_that_of_the_innermost_mount() -> None:
    mounts = (
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:5 / /var rw shared:1 - xfs /dev/sdb rw\n"
        "3 2 0:6 / /var/lib/architect rw - tmpfs tmpfs rw\n"
        "4 1 0:7 / /a\\040b rw - btrfs x rw\n"
    )
    assert preflight.file_system_of(Path("/var/lib/architect/pods"), mounts) == "tmpfs"
    assert preflight.file_system_of(Path("/var/lib/other"), mounts) == "xfs"
    assert preflight.file_system_of(Path("/a b/c"), mounts) == "btrfs"
    assert preflight.file_system_of(Path("/etc"), mounts) == "ext4"


@pytest.mark.parametrize(
    ("text", "version"), [("6.18.5+deb14", (6, 18)), ("5.10", (5, 10)), ("x", (0, 0))]
)
def test_kernel_versions_are_read(text: str, version: tuple[int, int]) -> None:
    assert preflight.kernel_version(text) == version


# Images


def keeper_pod(uid: str, state: PodState = PodState.ASLEEP, **fields: Any) -> KeeperPod:
    given = {"namespace": "default", "name": uid, **fields}
    return KeeperPod(uid=uid, state=state, **given)


def test_only_unknown_pods_without_living_containers_are_asked_about(tmp_path: Path) -> None:
    for uid, named in (
        ("known", {"namespace": "d", "name": "known"}),
        ("living", {"namespace": "d", "name": "living"}),
        ("gone", {"namespace": "d", "name": "gone"}),
        ("alone", {"namespace": "", "name": ""}),
    ):
        (tmp_path / uid).mkdir()
        (tmp_path / uid / "pod.json").write_text(json.dumps({"version": 1, **named}))
    (tmp_path / "nameless").mkdir()
    (tmp_path / "spoilt").mkdir()
    (tmp_path / "spoilt/pod.json").write_text("{")
    suspects = images.to_ask_about(
        images.stored(tmp_path), [keeper_pod("living")], known_uids={"known"}
    )
    assert [s.uid for s in suspects] == ["gone"]
    assert images.stored(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("found", "gone"),
    [
        (None, True),
        ({"spec": {"nodeName": "node1"}, "status": {"phase": "Running"}}, False),
        ({"spec": {"nodeName": "node1"}, "status": {"phase": "Succeeded"}}, True),
        ({"spec": {"nodeName": "node2"}, "status": {"phase": "Failed"}}, False),
        ({"spec": {}, "status": {}}, False),
    ],
)
def test_a_pod_is_gone_only_if_the_api_says_so(found: Any, gone: bool) -> None:
    assert images.is_gone(found, node="node1") is gone


def test_pods_that_slept_too_long_are_woken() -> None:
    pods = [keeper_pod("old", since_unix=0.0), keeper_pod("new", since_unix=950.0)]
    pods.append(keeper_pod("awake", PodState.AWAKE, since_unix=0.0))
    woken = images.to_wake(pods, now_boot=0.0, now_unix=1000.0, ttl_seconds=100.0)
    assert [p.uid for p in woken] == ["old"]
    assert images.to_wake(pods, now_boot=0.0, now_unix=1000.0, ttl_seconds=0.0) == []


# Settings


def test_flags_win_over_the_environment_and_units_are_understood() -> None:
    environment = {"ARCHITECT_CPU_THRESHOLD": "0.1", "NODE_NAME": "n1", "POD_NAMESPACE": "ns"}
    made = settings.parse(
        ["--cpu-threshold", "0.05", "--image-quota-bytes=20Gi", "--image-ttl-seconds=1h"],
        environment=environment,
    )
    assert (made.cpu_threshold, made.node_name, made.namespace) == (0.05, "n1", "ns")
    assert (made.image_quota_bytes, made.image_ttl_seconds) == (20 << 30, 3600.0)
    again = settings.parse([], environment={**environment, "ARCHITECT_NODE_NAME": "n2"})
    assert (again.cpu_threshold, again.node_name) == (0.1, "n2")


@pytest.mark.parametrize(
    "argv",
    [
        ["--max-concurrent-sleeps=0"],
        ["--max-concurrent-sleeps=two"],
        ["--engine=docker"],
        ["--cpu-threshold=-1"],
        ["--sweep-interval-seconds=soon"],
        ["--image-quota-bytes=20GB"],
        ["--log-level=LOUD"],
        ["--host-root=relative"],
        ["--sample-max-seconds=0.5"],
    ],
)
def test_settings_that_make_no_sense_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        settings.parse(argv, environment={})


def test_every_setting_has_a_flag_with_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.run(["run", "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "--cpu-threshold" in said
    assert "--engine-restart-command" in said


def test_wrong_flags_end_with_the_status_of_a_configuration_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.run(["check", "--engine=docker"]) == 2
    assert "engine: 'docker' is not auto" in capsys.readouterr().err
    assert command.run(["run", "--node-name="]) == 2


@pytest.mark.parametrize("address", ["9464", "a:b", ":99999"])
def test_a_metrics_address_is_checked(address: str) -> None:
    with pytest.raises(ConfigError):
        settings.host_port(address)


def test_a_metrics_address_may_be_ipv6() -> None:
    assert settings.host_port("[::1]:9464") == ("::1", 9464)
