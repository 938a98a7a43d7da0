"""Pods of gVisor under containerd's own shim: several containers, one sandbox."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.runtime import eventually


def test_every_container_of_a_pod_starts_and_is_served_at_its_address(pod: Any) -> None:
    pod.server("web")
    pod.server("side", port=9090)
    first, second = pod.get(), pod.get(port=9090)
    assert first["host"] == second["host"] == pod.name
    assert first["identity"] != second["identity"]
    assert len(pod.node.processes("runsc-sandbox", pod.id)) == 1
    assert pod.exec("web", "uname", "-r").endswith("gvisor")
    assert pod.anchor("web") != pod.anchor("side")


def test_exec_has_its_output_and_its_status(pod: Any) -> None:
    pod.start("web", "sleep", "1000")
    assert pod.exec("web", "sh", "-c", "echo out; hostname") == f"out\n{pod.name}"
    said = pod.node.fails("crictl", "exec", pod.containers["web"], "sh", "-c", "exit 7")
    assert "exit code 7" in said


def test_what_a_container_writes_is_its_log(pod: Any) -> None:
    pod.start("web", "sh", "-c", "echo to-out; echo to-err >&2")
    assert pod.until_ended("web") == 0
    lines = [line.split(" ", 3)[1::2] for line in pod.log("web").splitlines()]
    assert sorted(lines) == [["stderr", "to-err"], ["stdout", "to-out"]]


@pytest.mark.parametrize("status", [0, 3])
def test_a_container_that_ends_is_seen_to_end_with_its_status(pod: Any, status: int) -> None:
    pod.start("stays", "sleep", "1000")
    pod.start("web", "sh", "-c", f"exit {status}")
    assert pod.until_ended("web") == status
    assert pod.ended("stays") is None


def test_a_container_is_stopped_by_its_own_handler(pod: Any) -> None:
    pod.server("web")
    assert pod.stop("web") == 7
    assert "got TERM" in pod.log("web")


@pytest.mark.long
def test_one_that_ignores_the_signal_is_killed_after_its_grace(pod: Any) -> None:
    pod.start("web", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    assert pod.stop("web", grace_seconds=1) == 137


def test_one_that_was_never_started_is_removed(pod: Any) -> None:
    pod.create("web", "sleep", "1000")
    assert pod.node.leftovers()


def test_a_container_that_ended_is_replaced_in_the_same_sandbox(pod: Any) -> None:
    pod.server("web")
    before, (sandbox,) = pod.get()["identity"], pod.node.processes("runsc-sandbox", pod.id)
    pod.stop("web")
    pod.node.crictl("rm", pod.containers["web"])
    pod.server("web")
    assert pod.get()["identity"] != before
    assert pod.node.processes("runsc-sandbox", pod.id) == [sandbox]


@pytest.mark.long
def test_a_command_that_does_not_exist_is_an_error_and_nothing_waits(pod: Any) -> None:
    pod.create("web", "/no/such/program")
    said = pod.node.fails("crictl", "start", pod.containers["web"])
    assert "/no/such/program" in said
    pod.start("side", "sleep", "1000")
    assert pod.exec("side", "echo", "here") == "here"


@pytest.mark.long
def test_a_container_with_a_terminal_runs(pod: Any) -> None:
    script = "test -t 0 && test -t 1 && echo terminal; exec sleep 1000"
    pod.start("web", "sh", "-c", script, tty=True, stdin=True)
    eventually(lambda: "terminal" in pod.log("web"), what="what it wrote to its terminal")
    assert pod.ended("web") is None


@pytest.mark.long
def test_the_containers_of_a_pod_share_memory(pod: Any) -> None:
    pod.start("web", "sh", "-c", "echo shared >/dev/shm/file; exec sleep 1000")
    pod.start("side", "sleep", "1000")
    eventually(lambda: pod.exec("side", "ls", "/dev/shm") == "file", what="the other's file")
    assert pod.exec("side", "stat", "-f", "-c", "%T", "/dev/shm") == "tmpfs"


def test_the_end_of_the_sandbox_is_the_end_of_its_containers(pod: Any) -> None:
    pod.server("web")
    (sandbox,) = pod.node.processes("runsc-sandbox", pod.id)
    pod.node.run("kill", "-9", str(sandbox))
    assert pod.until_ended("web") == 137
    eventually(lambda: pod.inspect()["status"]["state"] == "SANDBOX_NOTREADY", what="its end")


@pytest.mark.long
def test_a_killed_anchor_is_the_end_of_its_container(pod: Any) -> None:
    pod.server("web")
    pod.node.run("kill", "-9", str(pod.anchor("web")))
    assert pod.until_ended("web") == 137
    eventually(lambda: not pod.answers(), what="no answer any more")


@pytest.mark.long
def test_the_engine_removes_what_a_killed_shim_has_left(pod: Any) -> None:
    pod.server("web")
    (shim,) = pod.node.processes("containerd-shim-runc-v2", pod.id)
    pod.node.run("kill", "-9", str(shim))
    pod.until_ended("web")


@pytest.mark.long
def test_what_the_pod_uses_is_counted_once_at_its_first_container(pod: Any) -> None:
    pod.server("web")
    pod.server("side", port=9090)
    used = {}
    for name, container in pod.containers.items():
        stats = json.loads(pod.node.crictl("stats", "-o", "json", container))
        used[name] = int(stats["stats"][0]["memory"]["usageBytes"]["value"])
    # The servers' memory and gVisor's own, and not that of the node.
    assert 8 << 20 < used["web"] < 300 << 20
    assert used["side"] < 16 << 20, "what waits for it, and no server"
