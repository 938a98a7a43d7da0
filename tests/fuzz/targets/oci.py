"""A container's config.json, as the engine wrote it around what users asked for.

Whoever is wrong in it is named by the lower runtime: :data:`UNEXPECTED_SHAPE` is passed on.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.shim import lookpath, oci
from architect.shim.__main__ import UNEXPECTED_SHAPE
from architect.shim.gvisor import spec as gvisor
from fuzz import mutations

MUTATE = mutations.document

POLICY: Final = {"version": 1, "containers": {"app": {"idle_seconds": 60.0}}}
CRI: Final = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": "app",
    "io.kubernetes.cri.sandbox-uid": "uid-1",
    "io.kubernetes.cri.sandbox-id": "sandbox",
}


def config(annotations: dict[str, str]) -> dict[str, Any]:
    """Return what a container with these annotations is given by an engine."""
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": ["/bin/sleep", "9"],
            "env": ["PATH=/bin", "GODEBUG=http2client=0"],
            "cwd": "/",
            "terminal": False,
            "oomScoreAdj": 900,
            "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": []},
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/run/shm", "options": ["rbind"]},
        ],
        "annotations": annotations,
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount")),
                {"type": "network", "path": "/var/run/netns/cni-1"},
            ],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": ["read", "io_uring_setup"], "action": "SCMP_ACT_ALLOW"}],
            },
        },
    }


def seeds() -> Iterator[bytes]:
    managed = {**CRI, names.POLICY: json.dumps(POLICY)}
    tracer = config(CRI)
    tracer["linux"]["namespaces"][0]["path"] = "/proc/7/ns/pid"
    tracer["process"]["capabilities"]["bounding"] = ["CAP_SYS_PTRACE"]
    for value in (
        config(managed),
        config(CRI),
        config({**CRI, names.IDLE: "60s"}),
        config({names.IDLE: "60s", names.WAKE_ON: "exec"}),
        config({**managed, "io.kubernetes.cri.container-type": "sandbox"}),
        tracer,
    ):
        yield json.dumps(value, separators=(",", ":")).encode()


def run(data: bytes) -> None:
    try:
        spec = json.loads(data)
    except UNEXPECTED_SHAPE:
        return
    if not isinstance(spec, dict):
        return
    before = copy.deepcopy(spec)
    for judge in (_hollow, _gvisor):
        with contextlib.suppress(*UNEXPECTED_SHAPE):
            judge(spec)
        assert repr(spec) == repr(before), "what is given is changed"


def _hollow(spec: dict[str, Any]) -> None:
    found = oci.wanted(spec, container_id="id1")
    if isinstance(found, oci.Refused):
        assert found.reason
        assert found.message
    if not isinstance(found, oci.Wanted):
        oci.tracer(spec)
        return
    assert found.identity.container in found.policy.containers
    tree = lookpath.Tree(Path("/nonexistent"), spec.get("mounts") or ())
    refused = oci.refusal(
        spec,
        is_host_network=False,
        is_executable_found=lookpath.is_found(tree, spec.get("process") or {}),
    )
    if refused is not None and refused[0] != "ExecutableNotFound":
        return
    changed = oci.managed(spec, init="/init", machine="x86_64", denies_io_uring=False)
    assert oci.is_ours(changed)
    assert changed["process"]["args"][-len(spec["process"]["args"]) :] == spec["process"]["args"]
    json.dumps(changed)


def _gvisor(spec: dict[str, Any]) -> None:
    gvisor.sandbox_of(spec)
    gvisor.policy_of(spec)
    gvisor.has_terminal(spec)
    gvisor.oom_score(spec)
    json.dumps(gvisor.prepared(spec))
