"""The daemon's image brings all that it needs to a node that has an engine and nothing else.

One story, in the order of the tests: install, sleep and wake, upgrade while a pod sleeps, removal
refused while one does, removal. The engine is containerd 2.4, told of the runtime by the daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.daemon import containerd
from lab import dockerfiles
from support import enginenode
from support.cri import Pod
from support.enginenode import EngineNode
from support.runtime import eventually

pytestmark = pytest.mark.timeout(600)

POLICY: dict[str, Any] = {"version": 1, "containers": {"web": {"idle_seconds": 3600.0}}}
DROP_IN = Path("/etc/containerd/conf.d", containerd.DROP_IN)


def test_there_is_no_program_but_the_engines(bare: EngineNode) -> None:
    found = {path.name for path in enginenode.programs(bare.path("/"))}
    assert found == {
        *("containerd", "containerd-shim-runc-v2", "ctr", "runc", "crictl"),
        *("bridge", "host-local", "loopback"),
    }
    assert not list(bare.path("/usr/lib").glob("python*"))
    assert "2.4" in bare.run("containerd", "--version")


@pytest.fixture(scope="module")
def installed(bare: EngineNode) -> EngineNode:
    status, said = bare.daemon("install")
    assert status == 0, said
    return bare


@pytest.fixture(scope="module")
def web(installed: EngineNode) -> Iterator[Pod]:
    """A pod that stays from before the upgrade until the removal."""
    made = Pod(installed, policy=POLICY)
    made.server("web")
    yield made
    if made.id:
        made.remove()


def handlers(node: EngineNode) -> frozenset[str]:
    return containerd.handlers_of(node.run("containerd", "config", "dump"))


def test_the_daemon_installs_the_runtime_and_tells_the_engine(installed: EngineNode) -> None:
    assert installed.path(DROP_IN).exists()
    assert handlers(installed) == {names.RUNTIME_CLASS}
    said = eventually(lambda: _checked(installed), what="the daemon's check says that it is ready")
    assert "Ready: " in said
    before = installed.machine.service("containerd").pid
    status, said = installed.daemon("install")
    assert (status, "knows the handlers" in said) == (0, True), said
    assert installed.machine.service("containerd").pid == before


def _checked(node: EngineNode) -> str:
    """Return what the check says once nothing is missing: the keeper takes its time to begin."""
    status, said = node.daemon("check")
    return said if status == 0 else ""


def test_a_pod_sleeps_and_wakes(installed: EngineNode, web: Pod) -> None:
    before = web.get("/digest")
    installed.sleep(web.name)
    after = web.get("/digest")
    assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
    installed.sleep(web.name)
    assert web.exec("web", "echo", "here") == "here"
    assert installed.state(web.name) == "awake"


def test_a_sleeping_pod_ends_by_its_own_handler(installed: EngineNode) -> None:
    pod = Pod(installed, policy=POLICY)
    try:
        pod.server("web")
        installed.sleep(pod.name)
        assert pod.stop("web") == 7
        assert "got TERM" in pod.log("web")
    finally:
        pod.remove()


def test_a_pod_that_sleeps_through_an_upgrade_wakes(
    installed: EngineNode, web: Pod, next_bundle: str
) -> None:
    before, ours = web.get("/digest"), dockerfiles.version()
    assert installed.runtime("version")["bundle"] == ours
    installed.sleep(web.name)
    since = installed.runtime("status", web.name)["since"]
    mounts = {"/next": next_bundle}
    status, said = installed.daemon("install", "--bundle", "/next", mounts=mounts)
    assert status == 0, said
    told = installed.runtime("version")
    assert told["bundle"] == told["keeper"] == "9.0.0"
    # Both are there: what sleeps may need the one that it fell asleep under.
    assert {ours, "9.0.0"} <= installed.listing(names.INSTALL)
    assert installed.runtime("status", web.name)["since"] == since
    after = web.get("/digest")
    assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
    installed.sleep(web.name)
    assert web.get()["identity"] == before["identity"]


def test_a_pod_that_sleeps_through_the_way_back_wakes(installed: EngineNode, web: Pod) -> None:
    identity = web.get()["identity"]
    installed.sleep(web.name)
    status, said = installed.daemon("install")
    assert status == 0, said
    assert installed.runtime("version")["keeper"] == dockerfiles.version()
    assert installed.state(web.name) == "asleep"
    assert web.get()["identity"] == identity


def test_the_runtime_is_not_removed_from_under_a_sleeping_pod(
    installed: EngineNode, web: Pod
) -> None:
    identity = web.get()["identity"]
    installed.sleep(web.name)
    status, said = installed.daemon("uninstall")
    assert status == 2, said
    assert "1 containers or pods of the runtime class are left" in said
    assert installed.state(web.name) == "asleep"
    assert handlers(installed) == {names.RUNTIME_CLASS}
    assert web.get()["identity"] == identity


def test_a_pod_of_the_class_without_a_managed_container_keeps_the_runtime(
    installed: EngineNode, web: Pod
) -> None:
    """Its sandbox ends by a call of the runtime, as every container in it does."""
    web.remove()
    web.id = ""
    pod = Pod(installed)
    try:
        for _ in range(2):  # without a container, as between two tries of it, and with one
            status, said = installed.daemon("uninstall")
            assert (status, "1 containers or pods" in said) == (2, True), said
            if not pod.containers:
                pod.server("web")
        assert pod.stop("web") == 7
    finally:
        pod.remove()


def test_nothing_of_the_runtime_is_left_where_nobody_needs_it(installed: EngineNode) -> None:
    plain = Pod(installed, policy=POLICY, runtime="runc")
    try:
        plain.server("web")
        identity = plain.get()["identity"]
        status, said = installed.daemon("uninstall")
        assert status == 0, said
        assert installed.listing(names.INSTALL) == set()
        assert not installed.path(DROP_IN).exists()
        assert handlers(installed) == frozenset()
        eventually(lambda: not keepers(installed), what="the keeper has ended")
        assert plain.get()["identity"] == identity
        assert plain.stop("web") == 7
    finally:
        plain.remove()


def keepers(node: EngineNode) -> list[str]:
    """Return the command lines of what of ours still runs on the node."""
    found = []
    for entry in node.path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(names.INSTALL) in words:
                found.append(words)
    return found
