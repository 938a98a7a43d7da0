"""Whatever fails, the application goes on or its image is kept, and the reason is said by name."""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from architect.api import names
from lab import errors
from lab.cluster import Cluster
from support import nodefiles, parts
from support.loads import load
from support.tiers import IS_LONG, sized
from support.workloads import (
    Workload,
    answer_of,
    eventually,
    readiness,
    refusal,
    workload,
)

KILLS = sized(6, 80)
KILL_WITHIN_SECONDS = 0.5
"""A sleep and the wake that follows take about this long, with what starts them."""

UNDUMPABLE = {
    # What CRIU has no image for, made before the application starts; each has happened to somebody.
    "Mptcp": "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); "
    "s.bind(('127.0.0.1', 0)); s.listen()",
    "Socket": "import socket; s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
}


def _after(prelude: str) -> list[str]:
    """Return a command that runs the memory server in a process which holds what *prelude* made."""
    run = "import runpy, sys; sys.argv = ['memory.py', '16']; runpy.run_path('/app/memory.py')"
    return ["python3", "-u", "-c", f"{prelude}; {run}"]


@pytest.mark.concurrent
@pytest.mark.parametrize("reason", sized(["Socket"], sorted(UNDUMPABLE)))
def test_a_pod_that_cannot_be_dumped_is_told_of_before_that_is_tried(
    architect: Cluster, theme: str, reason: str
) -> None:
    with workload(
        architect,
        theme,
        f"undumpable-{reason.lower()}",
        annotations={names.IDLE: "3s"},
        container={"command": _after(UNDUMPABLE[reason])},
    ) as app:
        before = app.get()
        node = app.node().name

        def failures() -> float:
            return parts.daemon_numbers(architect, node).value(
                "architect_failures_total", operation="sleep", reason=reason
            )

        tried = failures()
        status, message = eventually(
            lambda: _told(app, "CannotSleep"), what="condition CannotSleep"
        )
        assert status == "False"
        assert f"{reason}: process " in message
        assert "(hint: " in message
        said = eventually(lambda: app.events("CannotSleep"), what="event CannotSleep")
        assert len(said) == 1
        assert f"{reason}: process " in said[0]
        assert f"{reason}: process " in app.why()
        assert app.labels() == {"app": names.STATUS_RUNNING}
        _runs_on(app, before["identity"])
        # Idle again, and not tried.
        eventually(lambda: "it would sleep" in app.why(), what="nothing else keeps it awake")
        assert app.events("SleepFailed") == []
        assert failures() == tried
        # It is true: the same is what CRIU says.
        assert "CRIU said" in str(refusal(app))
        assert app.runtime("status")["refused"]["reason"] == reason
        said = eventually(lambda: app.events("SleepFailed"), what="event SleepFailed")
        assert reason in said[0]
        _runs_on(app, before["identity"])


def _told(app: Workload, reason: str) -> tuple[str, str] | None:
    """Return status and message of the condition that tells of sleep, where it has *reason*.

    Of one look: with the next one, somebody may try again, and tell something else.
    """
    status, found, message = app.asleep_reason()
    return (status, message) if found == reason else None


@pytest.mark.long
def test_a_dump_that_runs_out_of_disk_is_undone_and_repeated_when_there_is_space(
    architect: Cluster, theme: str
) -> None:
    with workload(architect, theme, "nospace", mebibytes=48) as app:
        app.sleep()  # it can
        before = app.get("/digest")
        node, uid = app.node(), app.uid()
        with nodefiles.small_disk_for(node, uid, kibibytes=16 << 10):
            assert re.search(r"NoSpace|[Nn]o space left", str(refusal(app)))
            after = app.get("/digest")
            assert after["identity"] == before["identity"]
            assert after["digest"] == before["digest"]
            assert app.state() == "awake"
        app.sleep()
        _runs_on(app, before["identity"])


@pytest.mark.long
def test_a_full_disk_refuses_a_sleep_before_anything_is_held(
    architect: Cluster, theme: str
) -> None:
    with workload(architect, theme, "full") as app:
        app.sleep()  # it can
        identity = app.get()["identity"]
        with nodefiles.full_disk(app.node(), free_mebibytes=64):
            refused = refusal(app)
        assert "MiB are free for images" in str(refused)
        assert refused.status == 2, "a refusal that changed nothing"
        assert app.state() == "awake"
        _runs_on(app, identity)
        app.sleep()
        _runs_on(app, identity)


@pytest.mark.parametrize("disk", sized(["full"], ["full", "too small for the dump"]))
def test_a_pod_that_is_awake_for_want_of_disk_says_so(
    architect: Cluster, theme: str, disk: str
) -> None:
    name = f"disk-{disk[:4].strip()}"
    # Longer than mounting takes: a pod that slept before would miss its image.
    annotations = {names.IDLE: "10s"}
    with workload(architect, theme, name, mebibytes=48, annotations=annotations) as app:
        node, uid = app.node(), app.uid()
        is_full = disk == "full"

        def failures() -> float:
            return parts.daemon_numbers(architect, node.name).value(
                "architect_failures_total", operation="sleep", reason="NoSpace"
            )

        counted = failures()
        text = r"MiB are free for images" if is_full else r"NoSpace|[Nn]o space left"
        with contextlib.ExitStack() as stack:
            with load("new", app.service_ip(), machine=architect.plane.machine, rate=5):
                before = app.get("/digest")
                stack.enter_context(
                    nodefiles.full_disk(node, free_mebibytes=64)
                    if is_full
                    else nodefiles.small_disk_for(node, uid, kibibytes=16 << 10)
                )
                assert app.state() == "awake"
            eventually(lambda: failures() > counted, what="the daemon's metric counts it")
            eventually(lambda: re.search(text, app.why()), what=f"why says {text!r}")
            # It is tried again when there may be space, later each time.
            status, message = eventually(lambda: _told(app, "BackOff"), what="condition BackOff")
            assert status == "False"
            assert re.search(text, message)
            said = eventually(lambda: app.events("SleepFailed"), what="event SleepFailed")
            assert re.search(text, said[0])
            assert "NoSpace" in said[0]
            assert app.labels() == {"app": names.STATUS_RUNNING}
            after = app.get("/digest")
            assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
        # There is space again. It falls asleep by itself when it is tried again, minutes later.
        if not IS_LONG:
            app.sleep()
        eventually(lambda: app.state() == "asleep", what="it sleeps")
        _runs_on(app, before["identity"])


@contextlib.contextmanager
def _asleep(
    architect: Cluster, namespace: str, policy: str
) -> Iterator[tuple[Workload, str, Callable[[], float]]]:
    """Give a sleeping pod with that policy, its identity, and its node's count of failed wakes."""
    annotations = {names.IDLE: "1h", names.ON_RESTORE_FAILURE: policy}
    with workload(
        architect,
        namespace,
        f"restore-{policy}",
        annotations=annotations,
        container={"readinessProbe": readiness(failures=3)},
    ) as app:
        identity = str(app.get()["identity"])
        node = app.node().name

        def failed_wakes() -> float:
            numbers = parts.daemon_numbers(architect, node)
            return numbers.value("architect_failures_total", operation="wake")

        app.sleep()
        yield app, identity, failed_wakes


@pytest.mark.concurrent
def test_a_failed_restore_with_fresh_keeps_the_image_and_starts_anew(
    architect: Cluster, theme: str
) -> None:
    with _asleep(architect, theme, "fresh") as (app, identity, failed_wakes):
        counted, uid = failed_wakes(), app.uid()
        with nodefiles.damaged(app.node(), uid):
            with contextlib.suppress(errors.CommandFailed):
                app.get()  # its memory is gone, and with it what this request would have met
            eventually(lambda: app.restarts() == 1, what="kubelet has restarted the container")
        eventually(app.is_ready, what="the new container is ready")
        assert app.container_status()["lastState"]["terminated"]["exitCode"] == 137
        assert app.get_itself()["identity"] != identity
        said = eventually(lambda: app.events("RestoreFailed"), what="event RestoreFailed")
        assert "on-restore-failure is fresh" in said[0]
        eventually(lambda: failed_wakes() > counted, what="the metric counts the failure")
        kept = nodefiles.image(uid).parent / "failed-1"
        assert nodefiles.exists(app.node(), kept / "inventory.img")
        # And the new one sleeps as any other.
        fresh = app.get_itself()["identity"]
        app.sleep()
        assert app.get_itself()["identity"] == fresh
        assert app.get_when_reachable()["identity"] == fresh


@pytest.mark.long
def test_a_failed_restore_with_retry_is_repeated_until_it_works(
    architect: Cluster, theme: str
) -> None:
    with _asleep(architect, theme, "retry") as (app, identity, failed_wakes):
        counted = failed_wakes()
        with nodefiles.damaged(app.node(), app.uid()), app.pending_request() as request:
            said = eventually(lambda: app.events("RestoreFailed"), what="event RestoreFailed")
            assert "on-restore-failure is retry" in said[0]
            eventually(lambda: failed_wakes() > counted, what="the metric counts the failure")
            assert app.restarts() == 0
            assert request.poll() is None, "the request was not held"
        # The image is whole again: the same request is answered, by the same memory.
        assert answer_of(request)["identity"] == identity
        _runs_on(app, identity)
        assert app.get_when_reachable()["identity"] == identity


@pytest.mark.concurrent
def test_a_failed_restore_with_fail_stays_asleep_and_says_so(
    architect: Cluster, theme: str
) -> None:
    with _asleep(architect, theme, "fail") as (app, identity, _):
        with nodefiles.damaged(app.node(), app.uid()):
            with pytest.raises(errors.CommandFailed, match="timed out"):
                app.cluster.in_control_plane(
                    ["curl", "-sS", "-m", "3", f"http://{app.service_ip()}:8080/"]
                )
            eventually(lambda: app.state() == "failed", what="the keeper says failed")
            said = eventually(lambda: app.events("RestoreFailed"), what="event RestoreFailed")
            assert "on-restore-failure is fail" in said[0]
            eventually(
                lambda: app.asleep_reason()[:2] == ("True", "RestoreFailed"),
                what="condition: asleep, RestoreFailed",
            )
            eventually(lambda: not app.is_ready(), what="its readiness probe fails")
            with pytest.raises(errors.CommandFailed, match="cannot be woken"):
                app.kubectl("exec", f"deploy/{app.name}", "--", "true")
            assert app.restarts() == 0
        app.runtime("wake")
        eventually(app.is_ready, what="it is ready again")
        _runs_on(app, identity)
        assert app.get_when_reachable()["identity"] == identity


@pytest.mark.long
@pytest.mark.timeout(sized(600, 1800))
def test_a_keeper_killed_at_any_moment_loses_no_request_and_no_state(
    architect: Cluster, theme: str
) -> None:
    seed = random.randrange(1 << 32)
    print(f"random seed {seed}")
    chosen = random.Random(seed)
    # A keeper that is killed again and again is started after a pause. Its probes would fail often
    # enough meanwhile for kube-proxy to refuse connections in the pod's name.
    container = {"readinessProbe": readiness(failures=120)}
    with workload(architect, theme, "killed", mebibytes=64, container=container) as app:
        app.sleep()  # it can
        before = app.get("/digest")
        node, uid, address = app.node(), app.uid(), app.service_ip()
        machine = architect.plane.machine
        with (
            load("new", address, machine=machine, rate=20) as new,
            load("kept", address, machine=machine, rate=20) as kept,
        ):
            for _ in range(KILLS):
                # Traffic wakes it at once, so the kill meets a sleep, a wake or what is between.
                with _falling_asleep(app, uid):
                    time.sleep(chosen.uniform(0, KILL_WITHIN_SECONDS))
                    old = parts.kill_keeper(node)
                eventually(lambda: parts.keeper_answers(node), what="a keeper answers again")
                assert parts.keeper_pid(node) != old
        new.check(identity=before["identity"])
        kept.check(identity=before["identity"])
        # Asleep, without traffic: the next keeper holds what comes.
        app.sleep()
        parts.kill_keeper(node)
        after = app.get("/digest")
        assert after["digest"] == before["digest"]
        assert after["identity"] == before["identity"]
        assert app.restarts() == 0


@contextlib.contextmanager
def _falling_asleep(app: Workload, uid: str) -> Iterator[None]:
    """Ask for a sleep beside the ``with`` block; its answer may be lost with the keeper."""
    node = app.node()
    process = node.machine.popen(
        [names.CURRENT / "bin" / "architect-runtime", "sleep", uid],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield
    process.wait(timeout=120)


def _runs_on(app: Workload, identity: str) -> None:
    assert app.get_itself()["identity"] == identity
    assert app.restarts() == 0
