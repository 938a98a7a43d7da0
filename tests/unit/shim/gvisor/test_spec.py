from __future__ import annotations

import json
from typing import Any

import pytest

from architect.shim.gvisor import spec, texts

CRI, CRIO = "io.kubernetes.cri.", "io.kubernetes.cri-o."
SHM = {
    "destination": "/dev/shm",
    "type": "bind",
    "source": "/run/x/shm",
    "options": ["rbind", "rw"],
}
APP = {f"{CRI}container-type": "container", f"{CRI}sandbox-id": "box"}
ROOT = {f"{CRI}container-type": "sandbox", f"{CRI}sandbox-id": "box"}


@pytest.mark.parametrize(
    ("annotations", "sandbox"),
    [
        (APP, "box"),
        (ROOT, None),
        ({f"{CRIO}ContainerType": "container", f"{CRIO}SandboxID": "box"}, "box"),
        ({f"{CRIO}ContainerType": "sandbox", f"{CRIO}SandboxID": "box"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_container_joins_the_sandbox_that_the_engine_names(
    annotations: dict[str, str] | None, sandbox: str | None
) -> None:
    assert spec.sandbox_of({"annotations": annotations}) == sandbox


@pytest.mark.parametrize("annotations", [APP, ROOT])
def test_shared_memory_is_a_tmpfs_of_the_sandbox(annotations: dict[str, str]) -> None:
    double = {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}
    other = {"destination": "/proc", "type": "proc"}
    found = spec.prepared({"annotations": annotations, "mounts": [other, double, SHM]})
    shm = {**SHM, "type": "tmpfs", "options": ["rw"]}
    assert found["mounts"] == [other, shm]
    hints = {k: v for k, v in found["annotations"].items() if k.startswith("dev.gvisor.")}
    assert {k.rpartition(".")[2]: v for k, v in hints.items()} == (
        {"source": "/run/x/shm", "type": "tmpfs", "share": "pod", "options": "rw"}
        if annotations is ROOT
        else {}
    )


@pytest.mark.parametrize(
    "mounts", [None, [], [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm"}]]
)
def test_without_shared_memory_of_the_host_nothing_is_changed(mounts: Any) -> None:
    value = {"annotations": ROOT, "mounts": mounts, "process": {"args": ["x"]}}
    assert spec.prepared(value) == value


def test_the_score_for_the_kernels_killer_is_ours_to_set() -> None:
    value = {"annotations": APP, "process": {"oomScoreAdj": -998, "terminal": True}}
    before = json.dumps(value)
    assert spec.oom_score(value) == -998
    assert spec.prepared(value)["process"] == {"terminal": True}
    assert spec.has_terminal(value)
    assert json.dumps(value) == before, "what is read must stay as it was"


@pytest.mark.parametrize("value", [{}, {"process": None}, {"process": {}}])
def test_a_spec_without_a_process_has_no_score_and_no_terminal(value: dict[str, Any]) -> None:
    assert spec.oom_score(value) is None
    assert not spec.has_terminal(value)


@pytest.mark.parametrize(
    "said",
    [
        "sandbox is not running\n",
        'signaling container "x": connecting to control server at PID 112: connection refused\n',
        'signaling container "x": container "x" not started\n',
        'signaling container "x": container "x" not found\n',
    ],
)
def test_what_has_ended_is_told_in_runcs_words(said: str) -> None:
    assert texts.of_kill(said) == "container not running\n"


@pytest.mark.parametrize(
    "said", ["loading container: file does not exist\n", "unknown signal 99\n"]
)
def test_other_errors_are_told_as_they_are(said: str) -> None:
    assert texts.of_kill(said) == said
