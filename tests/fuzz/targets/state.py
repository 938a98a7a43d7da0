"""Files that the runtime keeps over its own death: cut short by a power loss, or another version's.

The input stands in for each of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from architect.api import names
from architect.api.keeper import PodState
from architect.api.policy import Policy, PolicyError
from architect.core.errors import FormatError
from architect.shim import record_files, records
from architect.shim.keeper import images, podstate
from architect.shim.keeper.images import Meta
from architect.shim.keeper.podstate import Remembered
from fuzz import mutations, scratch

MUTATE = mutations.document


def seeds() -> Iterator[bytes]:
    record: dict[str, Any] = {
        "id": "c1",
        "pod": "uid",
        "namespace": "shop",
        "pod_name": "web-0",
        "container": "app",
        "sandbox_id": None,
        "bundle": "/run/bundle",
        "pid_file": "/run/pid",
        "runc_root": "/run/runc",
        "systemd_cgroup": True,
        "runtime": "/usr/sbin/runc",
        "netns": None,
        "policy": {"version": 1, "containers": {"app": {"idle_seconds": 60.0}}},
        "init_sha": "a" * 64,
        "created": 1.5,
        "hollow": False,
    }
    meta = {
        "tree_pid": 7,
        "highest_pid": 9,
        "pipes": {"pipe:[1]": 1},
        "init_sha": "a" * 64,
        "slept_at": 1.5,
    }
    pod = {
        "namespace": "shop",
        "name": "web-0",
        "phase": "asleep",
        "since": 1.5,
        "reason": "idle",
        "refused": None,
        "network": {"mode": "asleep"},
        "leaving": False,
        "signalled": {"app": "c1"},
    }
    unmanaged = {key: record[key] for key in ("id", "pod", "namespace", "pod_name", "container")}
    for value in (record, meta, pod, {**unmanaged, "reason": "r", "message": "m", "created": 1}):
        yield json.dumps({"version": 1, **value}).encode()
    yield b"[" * 100_000


def run(data: bytes) -> None:
    directory = scratch.directory("state")
    with (
        mock.patch.object(names, "PODS", directory),
        mock.patch.object(names, "CONTAINER_RECORDS", directory),
        mock.patch.object(record_files, "UNMANAGED", directory / "unmanaged"),
    ):
        _read(directory, data)


def _read(directory: Path, data: bytes) -> None:
    for file in ("c1.json", "unmanaged/c1.json", "uid/pod.json", "uid/app/meta.json"):
        path = directory / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert len(list(records.unmanaged())) == 1
    with contextlib.suppress(FormatError, PolicyError):
        Policy.from_dict(records.read("c1").policy, is_followed=True)
    try:
        found = podstate.read("uid")
    except FormatError:
        pass
    else:
        assert found.phase is None or isinstance(found.phase, PodState)
        assert isinstance(found, Remembered)
    with contextlib.suppress(FormatError):
        Meta.read(images.container_directory("uid", "app"))
