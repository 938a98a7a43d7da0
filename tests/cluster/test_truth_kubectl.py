"""``kubectl cp`` and ``port-forward``: the same files come and go, the same server answers."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from lab.cluster import Cluster
from support import truth
from support.forwarding import forwarded
from support.patience import patient
from support.truth import Kind, Plan, Subject, Trio
from support.workloads import memory_server

pytestmark = pytest.mark.concurrent

SECONDS: Final = patient(60.0)
MOUNTS: Final = [{"name": "code", "mountPath": "/app"}, {"name": "go", "mountPath": "/go"}]
PLANS: Final = {"served": Plan(containers=[memory_server(volumeMounts=MOUNTS)])}
WAKES: Final = "the same; it wakes the pod"

LARGE: Final = bytes(range(256)) * 40_000
"""10 MB: more than any buffer on the way."""
LOOK: Final = (
    "cd /tmp/copied && find . -type f -exec sha256sum {} + | sort -k 2 && "
    "find . -type f -printf '%p %m\\n' | sort"
)


@pytest.fixture(scope="module")
def pods(architect: Cluster, theme: str) -> Iterator[dict[str, Trio]]:
    with truth.running(architect, theme, PLANS) as made:
        yield made


def _identities(trio: Trio) -> dict[Kind, str]:
    """Return who answers in each pod; who slept is awake then."""
    return trio.each(lambda pod: str(pod.get()["identity"]))


def _tree(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return name → content and mode of all files below *directory*."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), stat.S_IMODE(path.stat().st_mode))
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@truth.behaviour("`kubectl cp` into a pod and out of it", slept=WAKES)
def test_files_are_copied_into_a_pod_and_out_of_it(pods: dict[str, Trio], tmp_path: Path) -> None:
    trio = pods["served"]
    before = _identities(trio)
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "large").write_bytes(LARGE)
    (source / "below" / "a name with blanks").write_text("kept\n")
    (source / "below" / "program").write_text("#!/bin/sh\n")
    os.chmod(source / "below" / "program", 0o755)

    def copy_in(pod: Subject) -> None:
        pod.kubectl("cp", str(source), f"{pod.name}:/tmp/copied", "-c", "app")

    trio.sleep()
    trio.each(copy_in)
    assert trio.slept.state() == "awake"
    truth.alike(trio.each(Subject.run, "app", "sh", "-c", LOOK))

    def copy_out(pod: Subject) -> dict[str, tuple[bytes, int]]:
        target = tmp_path / pod.name
        pod.kubectl("cp", f"{pod.name}:/tmp/copied", str(target), "-c", "app")
        return _tree(target)

    trio.sleep()
    found = truth.alike(trio.each(copy_out))
    assert {name: content for name, (content, _) in found.items()} == {
        name: content for name, (content, _) in _tree(source).items()
    }
    assert trio.slept.state() == "awake"
    assert _identities(trio) == before


@truth.behaviour("`kubectl cp` of what is not there: brings nothing", slept=WAKES)
def test_a_copy_of_what_is_not_there_brings_nothing(pods: dict[str, Trio], tmp_path: Path) -> None:
    trio = pods["served"]
    trio.sleep()

    def tried(pod: Subject) -> bool:
        subprocess.run(
            [
                *(pod.cluster.kubectl_program, "-n", pod.namespace, "cp", "-c", "app"),
                *(f"{pod.name}:/nowhere", str(tmp_path / pod.name)),
            ],
            env=pod.cluster.client_environment(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        return (tmp_path / pod.name).exists()

    # kubectl passes on what tar says of it, or not, by chance: under runc as well.
    assert not truth.alike(trio.each(tried))
    assert trio.slept.state() == "awake"


def _ask(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        found: dict[str, Any] = {
            "status": answer.status,
            "type": answer.headers["content-type"],
            "text": answer.read().decode(),
        }
        return found


@truth.behaviour("`kubectl port-forward`", slept=WAKES)
def test_a_forwarded_port_leads_to_the_application(pods: dict[str, Trio]) -> None:
    trio = pods["served"]
    before = _identities(trio)

    def ask(pod: Subject, url: str) -> tuple[int, str, bool]:
        found = _ask(url)
        return found["status"], found["type"], before[pod.kind] in found["text"]

    expected = (200, "application/json", True)
    trio.sleep()
    with contextlib.ExitStack() as stack:
        urls = {
            kind: stack.enter_context(forwarded(pod.cluster, pod.namespace, pod.name, 8080))
            for kind, pod in trio.pods.items()
        }
        for _ in range(2):
            assert trio.slept.is_asleep, "who only forwards wakes nobody"
            truth.check(trio.each(lambda pod: ask(pod, urls[pod.kind])), expected)
            assert trio.slept.state() == "awake"
            trio.sleep()
