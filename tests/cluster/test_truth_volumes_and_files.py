"""Every kind of volume, and what an application holds open in it, before and after a sleep."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from lab.cluster import Cluster
from support import truth
from support.truth import GO, Kind, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

PLACES: Final = ("/disk", "/mem", "/host", "/part", "/named", "/dev/shm", "/tmp")

MOUNTS: Final = [
    {"name": "disk", "mountPath": "/disk"},
    {"name": "mem", "mountPath": "/mem"},
    {"name": "host", "mountPath": "/host", "subPathExpr": "$(POD_NAME)"},
    {"name": "whole", "mountPath": "/whole"},
    {"name": "whole", "mountPath": "/part", "subPath": "part"},
    {"name": "whole", "mountPath": "/named", "subPathExpr": "$(POD_NAME)"},
    {"name": "settings", "mountPath": "/settings", "readOnly": True},
    {"name": "settings", "mountPath": "/setting", "subPath": "mode"},
    {"name": "secret", "mountPath": "/secret", "readOnly": True},
    {"name": "projected", "mountPath": "/projected"},
    {"name": "about", "mountPath": "/about"},
]

VOLUMES: Final = [
    {"name": "disk", "emptyDir": {}},
    {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
    {"name": "whole", "emptyDir": {}},
    {
        "name": "host",
        "hostPath": {"path": "/var/tmp/architect-truth", "type": "DirectoryOrCreate"},
    },
    {"name": "settings", "configMap": {"name": "settings", "defaultMode": 0o440}},
    {"name": "secret", "secret": {"secretName": "secret"}},
    {
        "name": "projected",
        "projected": {
            "sources": [
                {"configMap": {"name": "settings"}},
                {"secret": {"name": "secret", "items": [{"key": "word", "path": "deep/word"}]}},
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {
                    "downwardAPI": {
                        "items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
                    }
                },
            ]
        },
    },
    {
        "name": "about",
        "downwardAPI": {
            "items": [
                {
                    "path": "memory",
                    "resourceFieldRef": {"containerName": "app", "resource": "limits.memory"},
                },
                {
                    "path": "color",
                    "fieldRef": {"fieldPath": "metadata.annotations['color']"},
                },
            ]
        },
    },
]

READ: Final = (
    "/settings/mode",
    "/setting",
    "/secret/word",
    "/projected/mode",
    "/projected/deep/word",
    "/about/memory",
    "/about/color",
)

PLANS: Final = {
    "files": Plan(
        containers=[
            container(
                "app",
                ["python3", "-u", "/app/places.py", GO, *PLACES],
                env=[
                    {"name": "READ", "value": ":".join(READ)},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {
                        "name": "MODE",
                        "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode"}},
                    },
                ],
                volumeMounts=MOUNTS,
                resources={
                    "requests": {"cpu": "5m", "memory": "16Mi"},
                    "limits": {"memory": "64Mi"},
                },
            ),
            container("other", ["sleep", "1000"], volumeMounts=MOUNTS[:2]),
        ],
        spec={"volumes": VOLUMES, "securityContext": {"fsGroup": 2000}},
        annotations={"color": "blue"},
    ),
}


def _settings(mode: str, word: str) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "settings"},
            "data": {"mode": mode},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "secret"},
            "data": {"word": base64.b64encode(word.encode()).decode()},
        },
    ]


def _apply(cluster: Cluster, namespace: str, objects: list[dict[str, Any]]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(listed))


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    _apply(architect, theme, _settings("old", "secret"))
    with truth.running(architect, theme, PLANS) as made:
        yield made
        for pod in made["files"].pods.values():
            pod.node().exec(["rm", "-rf", f"/var/tmp/architect-truth/{pod.name}"])


@pytest.fixture(scope="module")
def found(pods: dict[str, Trio], architect: Cluster, theme: str) -> dict[Kind, dict[str, Any]]:
    """What each pod reads, after that was changed (while some slept) and all wrote again."""
    trio = pods["files"]
    trio.each(lambda pod: pod.until_said("app", "ready"))
    trio.sleep()
    _apply(architect, theme, _settings("new", "changed"))
    # Kubelet brings a volume up to date with its pod, which it looks at when that has changed.
    trio.each(lambda pod: truth.patch(pod, {"metadata": {"annotations": {"color": "red"}}}))
    trio.each(_is_up_to_date)
    assert trio.slept.is_asleep, "kubelet writes into the volumes of a pod that sleeps on"
    trio.go("app")
    return trio.each(lambda pod: dict(json.loads(_last(pod))))


def _last(pod: Subject) -> str:
    found: str = eventually(
        lambda: lines[-1] if len(lines := pod.said("app")) > 1 else "",
        what=f"{pod.name} says what it reads",
    )
    return found


def _is_up_to_date(pod: Subject) -> None:
    volumes = f"/var/lib/kubelet/pods/{pod.uid()}/volumes"
    files: Mapping[str, str] = {
        f"{volumes}/kubernetes.io~configmap/settings/mode": "new",
        f"{volumes}/kubernetes.io~secret/secret/word": "changed",
        f"{volumes}/kubernetes.io~projected/projected/mode": "new",
        f"{volumes}/kubernetes.io~downward-api/about/color": "red",
    }
    node = pod.node()
    # Kubelet puts another directory in the place of the one that is being read.
    look = 'cat "$0" || true'
    eventually(
        lambda: all(node.exec(["sh", "-c", look, path]) == text for path, text in files.items()),
        what=f"the volumes of {pod.name} are up to date",
    )


@truth.behaviour(
    "files held open in emptyDirs (disk and memory), hostPath, subPath, `/dev/shm` and the "
    "container's own layer: appended to, mapped, locked, deleted; owners and modes"
)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_held_open_goes_on(found: dict[Kind, dict[str, Any]], place: str) -> None:
    seen = truth.alike({kind: told["places"][place] for kind, told in found.items()})
    assert seen["journal"] == seen["deleted"] == "before\nafter\n"
    assert seen["mapped"] == "beforeafter"
    assert seen["locked"] is True


@truth.behaviour(
    "ConfigMap, Secret, projected and downward API volumes: an update arrives while the pod "
    "sleeps on, and is read after the wake; through subPath the old content stays"
)
def test_updates_arrive(found: dict[Kind, dict[str, Any]]) -> None:
    old, new = truth.alike({kind: told["read"] for kind, told in found.items()})
    assert old == {
        "/settings/mode": "old",
        "/setting": "old",
        "/secret/word": "secret",
        "/projected/mode": "old",
        "/projected/deep/word": "secret",
        "/about/memory": str(64 << 20),
        "/about/color": "blue",
    }
    assert new == old | {
        "/settings/mode": "new",
        "/secret/word": "changed",
        "/projected/mode": "new",
        "/projected/deep/word": "changed",
        "/about/color": "red",
    }


@truth.behaviour("containers of a pod share its volumes")
def test_another_container_sees_what_was_written(
    pods: dict[str, Trio], found: dict[Kind, dict[str, Any]]
) -> None:
    assert set(found) == set(pods["files"].pods)
    for path in ("/disk/journal", "/mem/journal"):
        seen = pods["files"].each(Subject.run, "other", "cat", path)
        truth.check(seen, "before\nafter\n")


@truth.behaviour("a service account's token is there, and readable")
def test_the_token_is_there(pods: dict[str, Trio], found: dict[Kind, dict[str, Any]]) -> None:
    assert found
    seen = pods["files"].each(
        lambda pod: pod.run("app", "sh", "-c", "wc -w < /projected/token; ls -l /projected/token")
    )
    truth.alike({kind: said.split()[:2] for kind, said in seen.items()})


@truth.behaviour("a full emptyDir in memory (`sizeLimit`): the same error", slept=truth.SAME)
def test_a_full_memory_volume(pods: dict[str, Trio], found: dict[Kind, dict[str, Any]]) -> None:
    assert found
    fill = "head -c 12m /dev/zero > /mem/big; echo $?; stat -c %s /mem/big; rm /mem/big"
    pods["files"].sleep()
    seen = pods["files"].each(lambda pod: pod.run("other", "sh", "-c", f"({fill}) 2>&1"))
    assert "No space left" in truth.alike(seen)
