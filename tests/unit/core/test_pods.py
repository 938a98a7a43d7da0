"""Pods: what they say, what stands in their way, and what they must look like."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from architect.api import names
from architect.api.policy import Policy, Probe, ProbeKind
from architect.core import pods, podspec
from architect.core.annotation_values import AnnotationErrors
from architect.core.errors import FormatError
from architect.core.pods import Drifted, Fine, Unmanaged

Json = dict[str, Any]


def pod(
    *, annotations: Json | None = None, labels: Json | None = None, **spec: Any
) -> dict[str, Any]:
    spec.setdefault("containers", [{"name": "app"}])
    return {
        "metadata": {
            "name": "web",
            "annotations": {names.IDLE: "60s"} if annotations is None else annotations,
            "labels": {"app": "web"} if labels is None else labels,
        },
        "spec": spec,
    }


def admitted(value: Json) -> Json:
    judgement = pods.judge(value)
    return pods.expected_pod(
        value,
        judgement.policy,
        runtime_class=judgement.reading.runtime_class,
        probe_ports=judgement.reading.probe_ports,
    )


def probes(**container: Any) -> tuple[Probe, ...]:
    return podspec.probes({"name": "app", **container})


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        ({"httpGet": {"port": 8080}}, Probe(kind=ProbeKind.HTTP, port=8080)),
        ({"httpGet": {"port": "web"}}, Probe(kind=ProbeKind.HTTP, port=8000)),
        ({"httpGet": {"port": 1, "scheme": "HTTPS"}}, Probe(kind=ProbeKind.HTTPS, port=1)),
        ({"tcpSocket": {"port": "web"}}, Probe(kind=ProbeKind.TCP, port=8000)),
        ({"grpc": {"port": 9000, "service": "x"}}, Probe(kind=ProbeKind.GRPC, port=9000)),
        ({"exec": {"command": ["a", "b"]}}, Probe(kind=ProbeKind.EXEC, argv=("a", "b"))),
    ],
)
def test_probes_of_every_kind_are_read(probe: Json, expected: Probe) -> None:
    ports = [{"name": "other", "containerPort": 1}, {"name": "web", "containerPort": 8000}]
    for key in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert probes(**{key: probe}, ports=ports) == (expected,)


@pytest.mark.parametrize(
    "probe",
    [
        {"httpGet": {"port": 8080, "host": "example.com"}},
        {"httpGet": {"port": 8080, "host": "127.0.0.1"}},
        {"tcpSocket": {"port": 8080, "host": "10.0.0.1"}},
        {"httpGet": {"port": "unknown"}},
        {"httpGet": {"port": 0}},
        {"exec": {}},
        {"exec": {"command": []}},
        {},
        None,
    ],
)
def test_probes_that_do_not_arrive_in_the_pod_are_left_out(probe: Json | None) -> None:
    assert probes(readinessProbe=probe) == ()


def test_a_probe_that_is_used_twice_is_listed_once() -> None:
    same = {"httpGet": {"port": 8080, "path": "/x"}}
    assert len(probes(readinessProbe=same, livenessProbe=same, startupProbe=same)) == 1


def test_probes_stand_in_the_policy() -> None:
    value = pod(containers=[{"name": "app", "livenessProbe": {"tcpSocket": {"port": 5432}}}])
    found = pods.judge(value).policy
    assert found is not None
    assert found.containers["app"].probes == (Probe(kind=ProbeKind.TCP, port=5432),)


def test_init_containers_are_not_app_containers() -> None:
    value = pod(initContainers=[{"name": "proxy", "restartPolicy": "Always"}])
    assert [c.name for c in podspec.app_containers(value)] == ["app"]


def container(**fields: Any) -> Json:
    return {"containers": [{"name": "app", **fields}]}


def mounting(path: str, **mount: Any) -> Json:
    return {
        "volumes": [{"name": "v", "hostPath": {"path": path}}],
        **container(volumeMounts=[{"name": "v", "mountPath": "/mnt", **mount}]),
    }


OBSTACLES: list[tuple[str, Json]] = [
    ("HostNetwork", {"hostNetwork": True}),
    ("HostPID", {"hostPID": True}),
    ("HostIPC", {"hostIPC": True}),
    ("ShareProcessNamespace", {"shareProcessNamespace": True}),
    ("UserNamespace", {"hostUsers": False}),
    ("Windows", {"os": {"name": "windows"}}),
    ("RuntimeClass", {"runtimeClassName": "kata"}),
    ("RuntimeClass", {"runtimeClassName": "runc"}),
    ("Device", {"resourceClaims": [{"name": "gpu"}]}),
    ("Device", container(volumeDevices=[{"name": "v", "devicePath": "/dev/x"}])),
    ("Tty", container(tty=True)),
    ("Privileged", container(securityContext={"privileged": True})),
    ("Capability", container(securityContext={"capabilities": {"add": ["SYS_PTRACE"]}})),
    ("Capability", container(securityContext={"capabilities": {"add": ["CAP_SYS_ADMIN"]}})),
    ("Capability", container(securityContext={"capabilities": {"add": ["all"], "drop": ["ALL"]}})),
    ("ProcMount", container(securityContext={"procMount": "Unmasked"})),
    ("ProcMount", container(volumeMounts=[{"name": "x", "mountPath": "/proc"}])),
    ("HostDevice", mounting("/dev")),
    ("HostDevice", mounting("/dev/fuse")),
    ("HostDevice", mounting("/")),
    ("DevMount", container(volumeMounts=[{"name": "x", "mountPath": "/dev/"}])),
    (
        "MountPropagation",
        container(
            volumeMounts=[{"name": "x", "mountPath": "/x", "mountPropagation": "Bidirectional"}]
        ),
    ),
    ("Gpu", container(resources={"limits": {"nvidia.com/gpu": "1"}})),
    ("HugePages", container(resources={"limits": {"hugepages-2Mi": "4Mi"}})),
]


@pytest.mark.parametrize(("reason", "spec"), OBSTACLES)
def test_what_cannot_be_managed_is_said_with_a_reason(reason: str, spec: Json) -> None:
    value = pod(**spec)
    ((found, text),) = pods.why_unmanageable(value)
    assert found == reason
    assert text
    judgement = pods.judge(value)
    assert judgement.policy is None
    assert judgement.reading.policy is not None


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"hostNetwork": False, "hostUsers": True, "os": {"name": "linux"}},
        {"runtimeClassName": names.RUNTIME_CLASS},
        {"runtimeClassName": ""},
        mounting("/data"),
        mounting("/devices"),
        container(volumeMounts=[{"name": "x", "mountPath": "/dev/shm"}]),
        container(securityContext={"privileged": False, "procMount": "Default"}),
        container(securityContext={"capabilities": {"add": ["NET_ADMIN"], "drop": ["SYS_ADMIN"]}}),
        container(resources={"limits": {"memory": "1Gi", "cpu": "1"}}),
        container(stdin=True),
    ],
)
def test_what_can_be_managed_has_nothing_in_its_way(spec: Json) -> None:
    assert pods.why_unmanageable(pod(**spec)) == []


UNDER_GVISOR: Json = {"runtimeClassName": names.RUNTIME_CLASS_GVISOR}
NOT_IN_ITS_SANDBOX = {
    *("HostNetwork", "HostPID", "HostIPC", "Windows", "RuntimeClass", "Device", "HostDevice"),
    "Gpu",
}


@pytest.mark.parametrize(("reason", "spec"), OBSTACLES)
def test_only_what_is_not_in_its_sandbox_is_in_the_way_of_a_gvisor_pod(
    reason: str, spec: Json
) -> None:
    value = pod(**{**UNDER_GVISOR, **spec})
    if reason == "RuntimeClass":
        value["metadata"]["annotations"][names.RUNTIME] = "runsc"
    expected = [reason] if reason in NOT_IN_ITS_SANDBOX else []
    assert [o.reason for o in pods.judge(value).obstacles] == expected


@pytest.mark.parametrize("spec", [UNDER_GVISOR, {}])
def test_a_gvisor_pod_is_managed_where_there_is_gvisor(spec: Json) -> None:
    value = pod(annotations={names.START_FROM: "warm", names.RUNTIME: "runsc"}, **spec)
    assert pods.judge(value).policy is not None
    judgement = pods.judge(value, has_gvisor=False)
    assert judgement.policy is None
    assert [o.reason for o in judgement.obstacles] == ["NoGvisor"]
    assert pods.check_admitted(value, has_gvisor=False) == Unmanaged(obstacles=judgement.obstacles)


def test_a_gvisor_pod_without_annotations_is_none_of_our_business() -> None:
    value = pod(annotations={}, **UNDER_GVISOR)
    assert pods.judge(value, has_gvisor=False) == pods.judge(value)
    assert pods.expected_pod(value, pods.judge(value).policy) == value


def test_every_obstacle_is_listed() -> None:
    found = pods.why_unmanageable(pod(hostNetwork=True, hostPID=True, **container(tty=True)))
    assert [o.reason for o in found] == ["HostNetwork", "HostPID", "Tty"]


def test_a_container_that_is_not_managed_may_be_anything() -> None:
    value = pod(
        annotations={names.IDLE: "60s", names.CONTAINERS: "app"},
        containers=[
            {"name": "app"},
            {"name": "agent", "tty": True, "securityContext": {"privileged": True}},
        ],
    )
    assert pods.judge(value).obstacles == ()
    assert len(pods.why_unmanageable(value)) == 2


def test_a_resize_that_restarts_is_a_warning() -> None:
    spec = container(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "RestartContainer"}])
    judgement = pods.judge(pod(**spec))
    assert judgement.policy is not None
    assert "requests stay" in judgement.warnings[0]


def test_the_expected_pod_has_class_policy_and_labels_and_nothing_else_changes() -> None:
    value = pod(nodeSelector={"x": "y"})
    before = copy.deepcopy(value)
    expected = admitted(value)
    assert value == before
    assert expected["spec"].pop("runtimeClassName") == names.RUNTIME_CLASS
    written = expected["metadata"]["annotations"].pop(names.POLICY)
    assert Policy.from_json(written) == pods.judge(value).policy
    assert expected["metadata"]["labels"].pop("status.architect.dev/app") == "RUNNING"
    assert expected == before


def test_the_expected_pod_is_its_own_expectation() -> None:
    once = admitted(pod())
    assert admitted(once) == once


def test_what_only_we_write_does_not_survive_a_copy() -> None:
    copied = pod(
        annotations={
            names.IDLE: "60s",
            names.POLICY: "forged",
            names.ORIGINAL_REQUESTS: '{"app": {"cpu": "64"}}',
        },
        labels={"status.architect.dev/app": "SCALED_DOWN", "status.architect.dev/old": "RUNNING"},
    )
    expected = admitted(copied)
    assert names.ORIGINAL_REQUESTS not in expected["metadata"]["annotations"]
    assert expected["metadata"]["annotations"][names.POLICY] != "forged"
    assert expected["metadata"]["labels"] == {"status.architect.dev/app": "RUNNING"}


def test_an_unmanaged_pod_loses_a_forged_policy_and_keeps_its_runtime_class() -> None:
    forged = pod(annotations={names.POLICY: "x"}, runtimeClassName=names.RUNTIME_CLASS)
    expected = admitted(forged)
    assert expected["metadata"]["annotations"] == {}
    assert expected["spec"]["runtimeClassName"] == names.RUNTIME_CLASS


def test_a_pod_that_is_not_opted_in_is_left_as_it_is() -> None:
    value = pod(annotations={})
    assert admitted(value) == value
    bare: Json = {"spec": {"containers": [{"name": "app"}]}}
    assert admitted(bare)["spec"] == bare["spec"]


VENDOR_PROXY = {
    f"{names.VENDOR_PREFIX}managed-containers": '["app"]',
    f"{names.VENDOR_PREFIX}health-check-proxy": '{"mappings": [{"containerName": "app", '
    '"appPort": 8080, "shadowPort": 9080}]}',
}


def test_probes_of_the_vendors_proxy_are_led_to_the_application() -> None:
    value = pod(
        annotations=VENDOR_PROXY,
        containers=[
            {
                "name": "app",
                "ports": [{"name": "health", "containerPort": 9080}],
                "readinessProbe": {"httpGet": {"port": 9080, "path": "/r"}, "periodSeconds": 3},
                "livenessProbe": {"tcpSocket": {"port": "health"}},
                "startupProbe": {"httpGet": {"port": 9080, "host": "example.com"}},
            }
        ],
    )
    expected = admitted(value)
    (app,) = expected["spec"]["containers"]
    assert app["readinessProbe"] == {"httpGet": {"port": 8080, "path": "/r"}, "periodSeconds": 3}
    assert app["livenessProbe"] == {"tcpSocket": {"port": 8080}}
    assert app["startupProbe"] == value["spec"]["containers"][0]["startupProbe"]
    assert admitted(expected) == expected
    assert pods.check_admitted(expected) == Fine(policy=pods.judge(value).policy)


def test_an_admitted_pod_is_fine_asleep_and_awake() -> None:
    value = admitted(pod())
    verdict = pods.check_admitted(value)
    assert isinstance(verdict, Fine)
    assert verdict.policy is not None
    value["metadata"]["labels"]["status.architect.dev/app"] = "SCALED_DOWN"
    value["metadata"]["annotations"][names.ORIGINAL_REQUESTS] = "{}"
    assert pods.check_admitted(value) == verdict


def test_a_pod_that_is_not_opted_in_is_fine() -> None:
    assert pods.check_admitted(pod(annotations={})) == Fine(policy=None)


def test_a_pod_created_while_the_webhook_was_away_is_unmanaged() -> None:
    verdict = pods.check_admitted(pod())
    assert isinstance(verdict, Unmanaged)
    assert verdict.obstacles[0].reason == pods.NOT_ADMITTED


def test_a_pod_that_the_webhook_is_told_to_ignore_is_as_it_should_be() -> None:
    value = pod()
    value["metadata"]["labels"] = {names.WEBHOOK_LABEL: names.WEBHOOK_IGNORE}
    assert pods.check_admitted(value) == Fine(policy=None)
    value["metadata"]["labels"] = {names.WEBHOOK_LABEL: "else"}
    assert isinstance(pods.check_admitted(value), Unmanaged)


def test_a_pod_that_lost_its_runtime_class_is_unmanaged() -> None:
    value = admitted(pod())
    del value["spec"]["runtimeClassName"]
    assert isinstance(pods.check_admitted(value), Unmanaged)


def test_a_pod_with_an_obstacle_is_unmanaged_for_that_reason() -> None:
    verdict = pods.check_admitted(pod(hostNetwork=True))
    assert isinstance(verdict, Unmanaged)
    assert [o.reason for o in verdict.obstacles] == ["HostNetwork"]


def test_unreadable_annotations_are_unmanaged_or_drifted() -> None:
    verdict = pods.check_admitted(pod(annotations={names.IDLE: "soon"}))
    assert isinstance(verdict, Unmanaged)
    assert verdict.obstacles[0].reason == pods.INVALID_ANNOTATIONS
    running = admitted(pod())
    running["metadata"]["annotations"][names.IDLE] = "soon"
    assert isinstance(pods.check_admitted(running), Drifted)


def changed(**annotations: str) -> Json:
    value = admitted(pod())
    for key, text in annotations.items():
        value["metadata"]["annotations"][f"architect.dev/{key}"] = text
    return value


def test_edited_annotations_forged_policies_and_lost_labels_are_drift() -> None:
    unlabelled = admitted(pod())
    unlabelled["metadata"]["labels"] = {"status.architect.dev/app": "GONE"}
    for value, said in (
        (changed(idle="90s"), "when the pod is created anew"),
        (changed(policy="{}"), "cannot be read"),
        (changed(policy="["), "cannot be read"),
        (pod(annotations={names.POLICY: "x"}), "not opted in"),
        (unlabelled, "is GONE, not one of RUNNING, SCALED_DOWN"),
    ):
        verdict = pods.check_admitted(value)
        assert isinstance(verdict, Drifted)
        assert said in verdict.differences[0]


def test_errors_in_annotations_are_raised_with_every_text() -> None:
    with pytest.raises(AnnotationErrors) as caught:
        pods.judge(pod(annotations={names.IDLE: "x", names.PRIORITY: "y"}))
    assert len(caught.value.messages) == 2


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"spec": []}, "spec is a list"),
        ({"spec": {"containers": {}}}, "spec.containers is a dict"),
        ({"spec": {"containers": ["app"]}}, r"spec.containers\[0\] is a str"),
        ({"spec": {"containers": [{}]}}, r"spec.containers\[0\].name is empty"),
        ({"spec": {"containers": [{"name": 1}]}}, r"name is a int"),
        ({"metadata": {"annotations": {"a": 1}}}, "metadata.annotations.a is a int"),
        ({"metadata": 1}, "metadata is a int"),
        ({"spec": {"runtimeClassName": {}}}, "spec.runtimeClassName is a dict"),
    ],
)
def test_what_is_no_pod_is_a_format_error_with_its_path(value: Json, path: str) -> None:
    with pytest.raises(FormatError, match=path):
        pods.judge(value)
