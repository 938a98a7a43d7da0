from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from architect.api import names
from architect.shim import oci
from support.runtime import IDLE, spec

POLICY = {"version": 1, "containers": {"app": {"idle_seconds": 60.0}}}
CRI = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": "app",
    "io.kubernetes.cri.sandbox-uid": "uid-1",
    "io.kubernetes.cri.sandbox-id": "sandbox",
}
CRIO = {
    "io.kubernetes.cri-o.ContainerType": "container",
    "io.kubernetes.container.name": "app",
    "io.kubernetes.pod.uid": "uid-1",
    "io.kubernetes.pod.name": "web-0",
    "io.kubernetes.pod.namespace": "shop",
}


def wanted(annotations: dict[str, str]) -> oci.Wanted | oci.Refused | None:
    return oci.wanted({"annotations": annotations}, container_id="id1")


@pytest.mark.parametrize("engine", [CRI, CRIO])
def test_a_listed_container_of_either_engine_is_wanted(engine: dict[str, str]) -> None:
    found = wanted({**engine, names.POLICY: json.dumps(POLICY)})
    assert isinstance(found, oci.Wanted)
    assert (found.identity.pod, found.identity.container) == ("uid-1", "app")
    assert found.policy.containers["app"].idle_seconds == 60.0


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        CRI,
        {**CRI, names.POLICY: json.dumps({"version": 1, "containers": {"other": {}}})},
        {**CRI, "io.kubernetes.cri.container-type": "sandbox", names.POLICY: json.dumps(POLICY)},
        {"architect.dev/idle-not-ours": "1s"},
        {"architect.dev/migrate": "false"},
    ],
)
def test_what_does_not_ask_is_not_wanted(annotations: dict[str, str]) -> None:
    assert wanted(annotations) is None


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({**CRI, **IDLE}, "NoPolicy"),
        ({**CRI, names.POLICY: "{"}, "BadPolicy"),
        ({**CRI, names.POLICY: '{"version": 2}'}, "BadPolicy"),
        ({"architect.dev/idle": "soon"}, "BadPolicy"),
    ],
)
def test_what_asks_wrongly_is_refused_by_name(annotations: dict[str, str], reason: str) -> None:
    found = wanted(annotations)
    assert isinstance(found, oci.Refused)
    assert found.reason == reason


def test_a_stand_alone_container_is_a_pod_of_its_own() -> None:
    found = wanted({**IDLE, "org.other": "x"})
    assert isinstance(found, oci.Wanted)
    assert (found.identity.pod, found.identity.container) == ("id1", oci.STAND_ALONE_NAME)
    assert found.policy.containers[oci.STAND_ALONE_NAME].idle_seconds == 60.0


def _drop_namespace(kind: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [s for s in spaces if s["type"] != kind]

    return change


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            config = config[key]
        config[last] = value

    return change


def _over_proc(kind: str) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/proc", "type": kind, "source": "/proc"})

    return change


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("NoProcess", _set("process.args", [])),
        ("NoProcess", _set("process", None)),
        ("HostNetwork", _drop_namespace("network")),
        ("HostNetwork", _set("linux", None)),
        ("HostPid", _drop_namespace("pid")),
        (
            "SharedPidNamespace",
            _set(
                "linux.namespaces",
                [{"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "network"}],
            ),
        ),
        (
            "UserNamespace",
            _set("linux.namespaces", [{"type": "pid"}, {"type": "network"}, {"type": "user"}]),
        ),
        ("Terminal", _set("process.terminal", True)),
        ("InitSystem", _set("process.args", ["/init", "/app"])),
        ("InitSystem", _set("process.args", ["/lib/systemd/systemd"])),
        ("DevIsBind", _set("mounts", [{"destination": "/dev/", "type": "bind", "source": "/dev"}])),
        ("DevIsBind", _set("mounts", [])),
        ("ProcMount", _over_proc("bind")),
        ("Capability", _set("process.capabilities.bounding", ["CAP_SYS_PTRACE"])),
        ("Capability", _set("process.capabilities.ambient", ["CAP_SYS_ADMIN"])),
    ],
)
def test_what_cannot_be_managed_is_refused_by_name(
    reason: str, change: Callable[[dict[str, Any]], None]
) -> None:
    config = spec(["true"])
    change(config)
    found = oci.refusal(config, is_host_network=False, is_executable_found=True)
    assert found is not None
    assert found[0] == reason


@pytest.mark.parametrize("args", [["tini", "--", "app"], ["sh", "-c", "exec /init"], ["/init.sh"]])
def test_what_may_have_another_pid_is_managed(args: list[str]) -> None:
    assert oci.refusal(spec(args), is_host_network=False, is_executable_found=True) is None


def test_facts_from_the_host_refuse_too() -> None:
    config = spec(["true"])
    assert oci.refusal(config, is_host_network=False, is_executable_found=True) is None
    host = oci.refusal(config, is_host_network=True, is_executable_found=True)
    missing = oci.refusal(config, is_host_network=False, is_executable_found=False)
    assert host is not None and host[0] == "HostNetwork"
    assert missing is not None and missing[0] == "ExecutableNotFound"


def managed(config: dict[str, Any], **options: Any) -> dict[str, Any]:
    return oci.managed(config, init="/host/init", machine="x86_64", denies_io_uring=True, **options)


def test_only_init_its_mount_and_the_environment_are_added() -> None:
    config = spec(["app", "-x"], env=["A=1"])
    before = copy.deepcopy(config)
    result = managed(config)
    assert config == before
    assert result["process"]["args"] == [names.INIT_IN_CONTAINER, "--", "app", "-x"]
    assert result["process"]["env"] == [*before["process"]["env"], "GODEBUG=multipathtcp=0"]
    *mounts, added = result["mounts"]
    assert mounts == before["mounts"]
    assert added["destination"] == names.INIT_IN_CONTAINER
    assert {"ro", "nosuid", "nodev"} <= set(added["options"])
    result["process"] |= {key: before["process"][key] for key in ("args", "env")}
    result["mounts"] = mounts
    assert result == before


def test_a_hollow_container_keeps_the_command_for_a_fresh_start() -> None:
    result = managed(spec(["app"]), is_hollow=True)
    assert result["process"]["args"] == [names.INIT_IN_CONTAINER, "--hollow", "--", "app"]


def test_a_rewritten_spec_is_recognised() -> None:
    config = spec(["app"])
    assert not oci.is_ours(config)
    assert oci.is_ours(managed(config))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["GODEBUG=multipathtcp=0"]),
        (["GODEBUG="], ["GODEBUG=multipathtcp=0"]),
        (["GODEBUG=x=1", "B=2"], ["GODEBUG=x=1,multipathtcp=0", "B=2"]),
        (["GODEBUG=multipathtcp=1"], ["GODEBUG=multipathtcp=1"]),
        (["GODEBUG=x=1,multipathtcp=1"], ["GODEBUG=x=1,multipathtcp=1"]),
    ],
)
def test_the_users_own_choice_of_multipath_tcp_wins(given: list[str], expected: list[str]) -> None:
    assert oci.without_multipath_tcp(given) == expected


@pytest.mark.parametrize(
    ("held", "path", "is_tracer"),
    [
        (["CAP_SYS_PTRACE"], "/proc/7/ns/pid", True),
        (["CAP_SYS_ADMIN"], "/proc/7/ns/pid", True),
        (["CAP_KILL"], "/proc/7/ns/pid", False),
        (["CAP_SYS_PTRACE"], None, False),
    ],
)
def test_a_container_that_joins_others_with_reach_is_a_tracer(
    held: list[str], path: str | None, is_tracer: bool
) -> None:
    config = spec(["sh"], annotations=CRI)
    config["process"]["capabilities"]["bounding"] = held
    config["linux"]["namespaces"] = [{"type": "pid", "path": path}, {"type": "network"}]
    found = oci.tracer(config)
    assert (found is not None) is is_tracer
    if found is not None:
        assert (found.reason, found.identity.pod) == (oci.TRACER, "uid-1")
    config["annotations"] = {**CRI, "io.kubernetes.cri.container-type": "sandbox"}
    assert oci.tracer(config) is None
