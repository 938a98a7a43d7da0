"""Containers that no Kubernetes started: ``ctr``, Podman and Docker with our runtime, by hand."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from lab import errors
from support.engines import Ctr, Ctr24, Docker
from support.runtime import eventually

SERVER = ["python3", "-u", "/opt/memory.py", "16"]
KEEPER_LOG = "/run/architect/keeper.log"
RECORDS = "/run/architect/containers"
NOTES = "/run/architect/unmanaged"


@pytest.fixture
def server(engine: Any) -> Any:
    engine.start(*SERVER)
    engine.until_ready()
    return engine


def test_a_connection_wakes_it_with_its_memory(server: Any) -> None:
    before, digest, pid = server.get("/"), server.get("/digest")["digest"], server.pid()
    server.sleep()
    assert server.pid() == pid, "the engine must see the container run on"
    after = server.get("/")
    assert (after["identity"], after["count"]) == (before["identity"], before["count"] + 2)
    assert server.get("/digest")["digest"] == digest
    assert server.state() == "awake"


def test_exec_wakes_it(server: Any) -> None:
    server.sleep()
    assert server.exec("echo", "here") == "here\n"
    assert server.state() == "awake"


def test_a_sleeping_one_ends_by_its_own_handler(server: Any) -> None:
    server.sleep()
    assert server.stop() == 7


def test_a_sleeping_one_can_be_killed(server: Any, node: Any) -> None:
    server.sleep()
    assert server.stop("SIGKILL") == 137


def test_an_ended_one_starts_again_and_sleeps_as_before(server: Any) -> None:
    first = server.get("/")
    server.sleep()
    assert server.stop() == 7
    server.again()
    second = server.until_ready()
    assert second["identity"] != first["identity"]
    server.sleep()
    assert server.get("/")["identity"] == second["identity"]


@pytest.mark.parametrize("engine", [Ctr, Ctr24, Docker], indirect=True)
def test_a_sleeping_one_outlives_a_restart_of_its_engine(server: Any) -> None:
    before, pid = server.get("/"), server.pid()
    server.sleep()
    server.restart_engine()
    assert (server.state(), server.pid()) == ("asleep", pid)
    assert server.get("/")["identity"] == before["identity"]
    server.sleep()
    assert server.stop() == 7


def test_nothing_is_left_of_a_removed_one(server: Any, node: Any) -> None:
    assert len(node.files(RECORDS)) == 1
    server.sleep()
    server.remove()
    assert node.files(RECORDS) == []
    eventually(lambda: node.runtime("list")["pods"] == [], what="an empty list")


def test_without_the_annotation_it_is_runcs(engine: Any, node: Any) -> None:
    engine.start("sh", "-c", "echo $$ >/dev/shm/pid; exec sleep 1000", annotation=None)

    def is_pid_1() -> bool:
        with contextlib.suppress(errors.CommandFailed):  # it has not begun yet
            return bool(engine.exec("cat", "/dev/shm/pid") == "1\n")
        return False

    eventually(is_pid_1, what="what it wrote about itself")
    assert node.files(RECORDS) == []


def test_an_annotation_that_cannot_be_read_is_noted_and_the_container_runs(
    engine: Any, node: Any
) -> None:
    engine.start("sleep", "1000", annotation="architect.dev/idle=soon")
    assert engine.exec("echo", "runs") == "runs\n"
    (note,) = node.runtime("list")["unmanaged"]
    assert note["reason"] == "BadPolicy"
    assert "architect.dev/idle" in note["message"] and "soon" in note["message"]
    engine.remove()
    assert node.files(NOTES) == []


def test_podman_goes_on_with_its_log_and_its_network(podman: Any, node: Any) -> None:
    podman.start(*SERVER)
    podman.until_ready()
    address = podman.inspect("{{.NetworkSettings.IPAddress}}")
    podman.sleep()
    # Through the bridge, as another container or machine would come.
    connect = f"import socket; socket.create_connection(('{address}', 8080), 90)"
    node.run("python3", "-c", connect)
    eventually(lambda: podman.state() == "awake", what="a wake by the bridge")
    podman.sleep()
    assert podman.stop() == 7
    assert "got TERM" in node.run("podman", "logs", "web")


def test_podman_starts_an_ended_one_again(podman: Any, node: Any) -> None:
    podman.start(*SERVER)
    first = podman.until_ready()
    podman.sleep()
    node.run("podman", "restart", "-t", "90", "web")
    second = podman.until_ready()
    assert first["identity"] != second["identity"]
    podman.sleep()
    assert podman.get("/")["identity"] == second["identity"]


def test_podman_with_a_terminal_runs_unmanaged(podman: Any, node: Any) -> None:
    node.run(
        *("podman", "--runtime", "/opt/architect/current/bin/runc-architect", "run", "-dt"),
        *("--name", "web", "--annotation", "architect.dev/idle=60s", "localhost/py:3"),
        *("sleep", "1000"),
    )
    (note,) = node.runtime("list")["unmanaged"]
    assert note["reason"] == "Terminal"


def test_docker_sees_a_sleeping_one_run_on(docker: Any) -> None:
    docker.start(*SERVER)
    docker.until_ready()
    docker.sleep()
    assert docker.docker("ps", "--filter", "status=running", "--format", "{{.Names}}") == "web\n"
    assert "serving 16 MiB" in docker.docker("logs", "web")
    processes = docker.docker("top", "web", "-o", "pid,args").splitlines()[1:]
    assert len(processes) == 1, processes
    usage = docker.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", "web")
    assert "MiB" not in usage.split("/")[0] or float(usage.split("MiB")[0]) < 8, usage
    docker.docker("cp", "web:/etc/hostname", "-")
    assert docker.state() == "asleep"


def test_a_request_to_one_that_docker_paused_waits_until_it_goes_on(docker: Any, node: Any) -> None:
    docker.start(*SERVER)
    identity = docker.until_ready()["identity"]
    docker.sleep()
    docker.docker("pause", "web")
    with docker.pending("/") as request:
        said = "does not wake as long as container main is paused"
        eventually(lambda: said in node.run("cat", KEEPER_LOG), what="a request waits")
        docker.docker("unpause", "web")
        answer, _ = request.communicate(timeout=180)
    assert json.loads(answer)["identity"] == identity


def test_docker_restarts_a_sleeping_one(docker: Any) -> None:
    docker.start(*SERVER)
    first = docker.until_ready()
    docker.sleep()
    docker.docker("restart", "-t", "90", "web")
    assert docker.until_ready()["identity"] != first["identity"]
    assert "got TERM" in docker.docker("logs", "web")
    docker.sleep()
    assert docker.get("/")["identity"] != first["identity"]


def test_an_unknown_or_ambiguous_name_is_told(node: Any) -> None:
    said = node.fails("/opt/architect/current/bin/architect-runtime", "sleep", "nobody")
    assert "no managed pod 'nobody'" in said
