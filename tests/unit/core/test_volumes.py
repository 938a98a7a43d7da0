"""Which volumes keep a pod's memory where it is."""

from __future__ import annotations

from typing import Any

import pytest

from architect.core import volumes
from architect.core.errors import FormatError

Json = dict[str, Any]


def with_volume(mount: Json | None = None, *, into: str = "containers", **volume: Any) -> Json:
    container = {"name": "app", "image": "i", "volumeMounts": [{"name": "data", **(mount or {})}]}
    return {"spec": {"volumes": [{"name": "data", **volume}], into: [container]}}


@pytest.mark.parametrize(
    "volume",
    [
        {"emptyDir": {}},
        {"emptyDir": {"medium": "Memory"}},
        {},
        {"configMap": {"name": "c"}},
        {"secret": {"secretName": "s"}},
        {"downwardAPI": {"items": []}},
        {"projected": {"sources": []}},
        {"image": {"reference": "localhost/data:1"}},
        {"persistentVolumeClaim": {"claimName": "d", "readOnly": True}},
        {"nfs": {"server": "s", "path": "/", "readOnly": True}},
        {"csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}},
    ],
)
def test_volumes_of_the_pod_itself_and_read_only_ones_are_in_nobodys_way(volume):
    assert volumes.writable(with_volume(**volume)) == ()
    assert volumes.named(with_volume(**volume)) == ""


@pytest.mark.parametrize(
    "volume",
    [
        {"persistentVolumeClaim": {"claimName": "d"}},
        {"persistentVolumeClaim": {"claimName": "d", "readOnly": False}},
        {"ephemeral": {"volumeClaimTemplate": {}}},
        {"hostPath": {"path": "/data"}},
        {"nfs": {"server": "s", "path": "/"}},
        {"csi": {"driver": "d"}},
        {"cephfs": {}},
        {"iscsi": {}},
        {"gitRepo": {"repository": "r"}},
        {"aKindOfLater": {}},
    ],
)
def test_writable_volumes_with_data_of_their_own_are(volume):
    pod = with_volume(**volume)
    kind = next(iter(volume))
    assert volumes.writable(pod) == (("data", kind),)
    assert volumes.named(pod) == f"data ({kind})"


def test_a_volume_is_read_only_if_every_mount_of_it_is():
    path: Json = {"hostPath": {"path": "/etc/ssl"}}
    pod = with_volume({"readOnly": True}, **path)
    assert volumes.writable(pod) == ()
    pod["spec"]["containers"].append({"name": "b", "volumeMounts": [{"name": "data"}]})
    assert volumes.writable(pod) == (("data", "hostPath"),)


@pytest.mark.parametrize("into", ["initContainers", "ephemeralContainers"])
def test_init_containers_write_too(into):
    assert volumes.writable(with_volume(into=into, hostPath={"path": "/x"}))


def test_a_block_device_is_written():
    claim = {"name": "d", "persistentVolumeClaim": {"claimName": "c"}}
    pod: Json = {"spec": {"volumes": [claim], "containers": [{"name": "app"}]}}
    assert volumes.writable(pod) == ()
    pod["spec"]["containers"][0]["volumeDevices"] = [{"name": "d", "devicePath": "/dev/x"}]
    assert volumes.writable(pod) == (("d", "persistentVolumeClaim"),)


@pytest.mark.parametrize("pod", [{"spec": {"volumes": "x"}}, {"spec": {"containers": [1]}}])
def test_what_is_no_pod_is_an_error(pod):
    with pytest.raises(FormatError):
        volumes.writable(pod)


# What goes along.


def claiming(**spec: Any) -> Json:
    mounts = [
        {"name": "data", "mountPath": "/data"},
        {"name": "data", "mountPath": "/log", "subPath": "log"},
        {"name": "scratch", "mountPath": "/tmp"},
    ]
    reader = [{"name": "data", "mountPath": "/seen", "readOnly": True}]
    found: Json = {
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}},
            {"name": "scratch", "emptyDir": {}},
        ],
        "containers": [
            {"name": "app", "volumeMounts": mounts},
            {"name": "watch", "volumeMounts": reader},
        ],
        **spec,
    }
    return {"spec": found}


def test_a_claim_goes_along_with_each_place_at_which_it_is_mounted():
    assert volumes.staying(claiming(), ["app"]) == ""
    found = volumes.travelling(claiming(), ["app"])
    assert [(m.volume, m.sub_path, m.container, m.path) for m in found] == [
        ("data", "", "app", "/data"),
        ("data", "log", "app", "/log"),
    ]
    assert {m.claim for m in found} == {"data-web-0"}


def test_a_claim_that_several_containers_have_as_a_whole_goes_along():
    pod = claiming()
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    assert volumes.staying(pod, ["app", "watch"]) == ""
    both = volumes.travelling(pod, ["app", "watch"])
    assert [m.container for m in both] == ["app", "watch"]


def test_a_claim_that_nobody_writes_is_mounted_anew():
    pod = claiming()
    pod["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = True
    assert volumes.travelling(pod, ["app"]) == ()


@pytest.mark.parametrize(
    ("managed", "spec", "why"),
    [
        (["app", "watch"], {}, "data (several containers have different parts of it)"),
        (["watch"], {}, "data (container app, which is not managed, writes it too)"),
        (
            ["app"],
            {"initContainers": [{"name": "init", "volumeMounts": [{"name": "data"}]}]},
            "data (container init, which is not managed, writes it too)",
        ),
        (
            ["app"],
            {"containers": [{"name": "app", "volumeDevices": [{"name": "data"}]}]},
            "data (a device of container app)",
        ),
        (
            ["app"],
            {"securityContext": {"fsGroup": 2000}},
            "data (fsGroup changes all files, unless fsGroupChangePolicy is OnRootMismatch)",
        ),
        (
            ["app"],
            {"securityContext": {"fsGroup": 0, "fsGroupChangePolicy": "Always"}},
            "data (fsGroup changes all files, unless fsGroupChangePolicy is OnRootMismatch)",
        ),
        (
            ["app"],
            {"securityContext": {"fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch"}},
            "",
        ),
        (
            ["app"],
            {
                "initContainers": [
                    {"name": "i", "volumeMounts": [{"name": "data", "readOnly": True}]}
                ]
            },
            "",
        ),
    ],
)
def test_what_keeps_a_claim_from_going_along_is_said(managed, spec, why):
    assert volumes.staying(claiming(**spec), managed) == why


def test_one_claim_under_two_names_is_one_volume():
    pod = claiming()
    claim = {"claimName": "data-web-0"}
    pod["spec"]["volumes"].append({"name": "again", "persistentVolumeClaim": claim})
    pod["spec"]["containers"] = [
        {"name": "app", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        {"name": "watch", "volumeMounts": [{"name": "again", "mountPath": "/seen"}]},
    ]
    assert "again (several containers have different parts of it)" in volumes.staying(
        pod, ["app", "watch"]
    )


def test_other_volumes_stay_whoever_writes_them():
    pod = claiming(volumes=[{"name": "data", "hostPath": {"path": "/d"}}])
    assert volumes.staying(pod, ["app"]) == "data (hostPath)"
    assert volumes.travelling(pod, ["app"]) == ()
