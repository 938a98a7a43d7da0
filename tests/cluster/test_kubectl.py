"""What people do to a pod with kubectl works on a sleeping one."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from architect.api import names
from lab.cluster import Cluster
from support.forwarding import forwarded
from support.workloads import Workload, eventually, workload

pytestmark = pytest.mark.concurrent

IDLE_SECONDS = 3


@pytest.fixture(scope="module")
def app(architect: Cluster, theme: str) -> Iterator[Workload]:
    with workload(architect, theme, "kubectl") as made:
        yield made


def test_logs_are_whole_and_in_order_across_a_sleep(app: Workload) -> None:
    before = app.get("/say/before")
    app.sleep()
    _until_last_line(app, "before")
    assert app.state() == "asleep", "reading logs wakes nobody"
    assert app.get("/say/after")["identity"] == before["identity"]
    lines = _until_last_line(app, "after")
    assert lines[-2:] == ["before", "after"]
    assert lines[0].startswith("serving")
    assert lines.count("before") == lines.count("after") == 1


def _until_last_line(app: Workload, line: str) -> list[str]:
    """Return the lines of the log once *line* is its last: the engine writes what it has read."""

    def read() -> list[str]:
        lines = app.kubectl("logs", f"deploy/{app.name}").splitlines()
        return lines if lines[-1:] == [line] else []

    found: list[str] = eventually(read, what=f"the log ends with {line!r}")
    return found


def test_files_are_copied_into_and_out_of_a_sleeping_pod(app: Workload, tmp_path: Path) -> None:
    identity = app.get()["identity"]
    pod = app.pod_name()
    (tmp_path / "in").write_text("kept\n")
    app.sleep()
    app.kubectl("cp", str(tmp_path / "in"), f"{pod}:/tmp/file")
    assert app.state() == "awake"
    app.sleep()
    app.kubectl("cp", f"{pod}:/tmp/file", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "kept\n"
    assert app.get()["identity"] == identity


def test_a_forwarded_port_wakes_the_pod(app: Workload) -> None:
    identity = app.get()["identity"]
    app.sleep()
    with (
        forwarded(app.cluster, app.namespace, app.pod_name(), 8080) as url,
        urllib.request.urlopen(f"{url}/", timeout=60) as answer,
    ):
        assert identity in answer.read().decode()
    assert app.state() == "awake"


def test_an_exec_session_keeps_the_pod_awake_as_long_as_it_lasts(
    architect: Cluster, theme: str
) -> None:
    annotations = {names.IDLE: f"{IDLE_SECONDS}s"}
    with workload(architect, theme, "session", annotations=annotations) as app:
        identity = app.get()["identity"]
        words = ["-n", app.namespace, "exec", "-i", f"deploy/{app.name}", "--", "cat"]
        with subprocess.Popen(
            [app.cluster.kubectl_program, *words],
            env=app.cluster.client_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as session:
            assert session.stdin is not None
            assert session.stdout is not None
            try:
                session.stdin.write("there\n")
                session.stdin.flush()
                assert session.stdout.readline() == "there\n"
                since = app.status()["since"]
                until = time.monotonic() + 4 * IDLE_SECONDS
                eventually(lambda: time.monotonic() > until, what="idle times have passed")
                assert app.status()["since"] == since, "it fell asleep during the session"
                assert "exec session: cat" in app.why()
            finally:
                session.stdin.close()  # ends cat
        eventually(lambda: app.state() == "asleep", what="it sleeps after the session")
        assert app.get()["identity"] == identity
