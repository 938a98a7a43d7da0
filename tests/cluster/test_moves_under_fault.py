"""Whoever is killed, late or in the way: memory goes on once, or its loss is said aloud."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from architect.api import names
from lab import errors, links
from lab.cluster import Cluster
from lab.node import Node
from support import moves, nodefiles, parts
from support.moves import Pod
from support.tiers import sized
from support.workloads import Workload, ask, eventually, workload

pytestmark = pytest.mark.timeout(900)

BIG = 256
"""Mebibytes that take seconds to save."""
BYTES_PER_SECOND = 24 << 20
"""From one node to another, where somebody is to be killed in the middle of a transfer."""
TRIES = 3
"""Where a step lasts no longer than a machine stands still now and then, it may be over before it
is seen, or before who waits has its answer: then it is tried with the next pod."""


def _one(app: Workload) -> tuple[Pod, str]:
    (pod,) = moves.pods(app)
    return pod, str(moves.answer(app, pod)["identity"])


def _other(app: Workload, node: str) -> Node:
    return next(n for n in app.cluster.nodes if n.name != node)


# Several at once


def test_of_two_replacements_one_goes_on_and_one_starts_fresh(
    architect: Cluster, namespace: str
) -> None:
    with workload(architect, namespace, "two-after-one", mebibytes=BIG) as app:
        old, identity = _one(app)
        with moves.draining(app, old["spec"]["nodeName"]):
            eventually(lambda: moves.conditions(app, old), what="the capture has begun")
            app.kubectl("scale", "deploy/two-after-one", "--replicas=2")
        new = moves.ready(app, 2, apart_from=[old])
        found = moves.identities(app, new)
        assert found.count(identity) == 1, found
        assert len(set(found)) == 2
        assert moves.ended(app, old)["Restored"] == ("True", "Restored")
        moves.nothing_left(app, [old])


@pytest.mark.parametrize("count", sized([6], [2, 20]))
def test_pods_that_are_drained_at_once_all_go_on(
    architect: Cluster, namespace: str, count: int
) -> None:
    with workload(architect, namespace, "many", mebibytes=16) as app:
        node = _one(app)[0]["spec"]["nodeName"]
        with moves.alone(app, node):
            app.kubectl("scale", "deploy/many", f"--replicas={count}")
            old = moves.ready(app, count)
        before = moves.identities(app, old)
        assert len(set(before)) == count
        with moves.draining(app, node):
            pass
        new = moves.ready(app, count, apart_from=old)
        assert moves.identities(app, new) == before
        moves.nothing_left(app, old)


@pytest.mark.parametrize("when", sized(["it goes on"], ["it waits", "it goes on"]))
def test_a_pod_that_is_drained_twice_in_ten_seconds_goes_on(
    architect: Cluster, namespace: str, when: str
) -> None:
    """Its replacement is driven away, too: as soon as it goes on, or before it has begun."""
    with workload(architect, namespace, "twice", mebibytes=64, spec=PATIENT) as app:
        old, identity = _one(app)
        before = moves.answer(app, old)["count"]
        first = architect.node(old["spec"]["nodeName"])
        second = _other(app, first.name)
        with contextlib.ExitStack() as drains, contextlib.ExitStack() as held:
            if when == "it waits":
                held.enter_context(moves.held(first, parts.keeper_pid(first)))
            begun = time.monotonic()
            drains.enter_context(moves.draining(app, first.name))
            if when == "it waits":
                parts.until_logged(
                    second, f" waits for the capture of pod {old['metadata']['name']} "
                )
            else:
                assert moves.ended(app, old)["Restored"] == ("True", "Restored")
            (between,) = moves.pods(app)
            assert between["spec"]["nodeName"] == second.name
            app.kubectl("uncordon", first.name)
            print(f"drained again after {time.monotonic() - begun:.1f} s, when {when}")
            drains.enter_context(moves.draining(app, second.name))
            if when == "it waits":
                eventually(
                    lambda: _uid(between) not in map(_uid, moves.pods(app)),
                    what="the one that waits is driven away",
                )
                held.close()
        (new,) = moves.ready(app, apart_from=[old, between])
        assert new["spec"]["nodeName"] == first.name
        after = moves.answer(app, new)
        assert after["identity"] == identity
        assert after["count"] > before
        moved = [old] if when == "it waits" else [old, between]
        for pod, to in itertools.pairwise([*moved, new]):
            assert moves.ended(app, pod)["Restored"] == ("True", "Restored")
            found = moves.checkpoint(app, pod)
            assert found is not None
            assert found["status"]["claimedBy"]["uid"] == _uid(to)
        if when == "it waits":
            assert moves.checkpoint(app, between) is None, "it has never run"
        moves.nothing_left(app, [old, between])


@pytest.mark.long
def test_a_replacement_that_is_deleted_while_it_waits_leaves_the_memory_to_the_next(
    architect: Cluster, namespace: str
) -> None:
    with workload(architect, namespace, "impatient", mebibytes=BIG) as app:
        old, identity = _one(app)
        with moves.draining(app, old["spec"]["nodeName"]):
            (waiting,) = eventually(
                lambda: [p for p in moves.pods(app) if p["metadata"]["uid"] != _uid(old)],
                what="a replacement",
            )
            app.kubectl("delete", "pod", waiting["metadata"]["name"], "--wait=false")
        (new,) = moves.ready(app, apart_from=[old, waiting])
        assert moves.answer(app, new)["identity"] == identity
        moves.nothing_left(app, [old, waiting])


def _uid(pod: Pod) -> str:
    return str(pod["metadata"]["uid"])


# Replacements that come first

PATIENT = {"terminationGracePeriodSeconds": 30}
"""Until kubelet ends a pod that nobody has saved."""


@pytest.mark.parametrize("who", sized(["daemon"], ["daemon", "keeper"]))
def test_a_replacement_that_comes_before_the_dump_has_begun_waits_for_it(
    architect: Cluster, namespace: str, who: str
) -> None:
    """Nobody has heard that the pod leaves; or its Checkpoint is there, and no dump."""
    with workload(architect, namespace, "early", mebibytes=64, spec=PATIENT) as app:
        for tries in range(TRIES, 0, -1):
            old, identity = _one(app)
            new, waiting, seen = _replaced_while_held(app, old, who)
            assert _uid(new) == _uid(waiting)
            answered = moves.answer(app, new)["identity"]
            # It waits for 5 s for a Checkpoint: a machine that stands still may need them.
            if answered == identity or who == "keeper" or tries == 1:
                break
            assert (
                "NoCheckpointInTime"
                in eventually(
                    lambda new=new: moves.events(app, new, names.EVENT_RESTORE_FAILED),  # type: ignore[misc]
                    what="event RestoreFailed",
                )[0]
            )
        assert answered == identity
        assert seen == {} or who == "keeper"
        assert moves.ended(app, old)["Restored"] == ("True", "Restored")
        moves.nothing_left(app, [old])


def _replaced_while_held(app: Workload, old: Pod, who: str) -> tuple[Pod, Pod, dict[str, Any]]:
    """Drain the node of *old*, on which *who* does nothing until the replacement waits.

    Returns the pod that is ready in the end, the one that waited, and what the Checkpoint said
    while a keeper was held.
    """
    source = app.cluster.node(old["spec"]["nodeName"])
    target = _other(app, source.name)
    name, seen = old["metadata"]["name"], {}
    pid = moves.pid_of_daemon(source) if who == "daemon" else parts.keeper_pid(source)
    with contextlib.ExitStack() as held:
        held.enter_context(moves.held(source, pid))
        with moves.draining(app, source.name):
            if who == "daemon":
                # That is a Checkpoint which is not there. Nothing but this before it goes on.
                parts.until_logged(target, f" waits for a Checkpoint of pod {name},")
            else:
                parts.until_logged(target, f" waits for the capture of pod {name} ")
                seen = moves.conditions(app, old)
                assert seen == {"Captured": ("Unknown", "Capturing")}
            held.close()
            (waiting,) = eventually(
                lambda: [p for p in moves.pods(app) if _uid(p) != _uid(old)], what="a replacement"
            )
    (new,) = moves.ready(app, apart_from=[old])
    return new, waiting, seen


@pytest.mark.long
def test_a_replacement_does_not_wait_for_ever_for_a_daemon_that_does_nothing(
    architect: Cluster, namespace: str
) -> None:
    with workload(architect, namespace, "vain", spec=PATIENT) as app:
        old, identity = _one(app)
        source = app.cluster.node(old["spec"]["nodeName"])
        with (
            moves.alone(app, _other(app, source.name).name),
            moves.held(source, moves.pid_of_daemon(source)),
        ):
            app.kubectl("delete", "pod", old["metadata"]["name"], "--wait=false")
            (new,) = moves.ready(app, apart_from=[old])
        assert moves.answer(app, new)["identity"] != identity
        (told,) = eventually(
            lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED), what="event on the new pod"
        )
        assert "NoCheckpointInTime" in told


@pytest.mark.long
def test_a_restored_container_that_crashes_starts_fresh(architect: Cluster, namespace: str) -> None:
    with workload(architect, namespace, "crashes") as app:
        old, identity = _one(app)
        with moves.draining(app, old["spec"]["nodeName"]):
            pass
        (new,) = moves.ready(app, apart_from=[old])
        assert moves.answer(app, new)["identity"] == identity
        with contextlib.suppress(errors.CommandFailed):
            ask(architect, f"http://{new['status']['podIP']}:8080/exit/3")
        eventually(lambda: app.restarts() == 1, what="kubelet has restarted the container")
        eventually(app.is_ready, what="the new container is ready")
        assert moves.answer(app, new)["identity"] != identity
        moves.nothing_left(app, [old])


# Captures that fail

MPTCP = (
    "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); "
    "s.bind(('127.0.0.1', 0)); s.listen(); import runpy, sys; "
    "sys.argv = ['memory.py', '{}']; runpy.run_path('/app/memory.py')"
)


@pytest.mark.parametrize(
    "why", sized(["it cannot be dumped"], ["it cannot be dumped", "its disk is too small"])
)
def test_what_cannot_be_saved_gets_its_signal_and_its_whole_grace_period(
    architect: Cluster, namespace: str, why: str
) -> None:
    container: dict[str, Any] = {"env": [{"name": "TERM_SECONDS", "value": "4"}]}
    if why == "it cannot be dumped":
        container["command"] = ["python3", "-u", "-c", MPTCP.format(48)]
    spec = {"terminationGracePeriodSeconds": 30}
    with workload(
        architect, namespace, "unsaved", mebibytes=48, container=container, spec=spec
    ) as app:
        old, identity = _one(app)
        node = app.cluster.node(old["spec"]["nodeName"])
        with contextlib.ExitStack() as stack:
            if why == "its disk is too small":
                stack.enter_context(nodefiles.small_disk_for(node, _uid(old), kibibytes=16 << 10))
            lines = stack.enter_context(moves.said(app, old))
            stack.enter_context(moves.draining(app, node.name))
        assert "got TERM" in lines
        assert "used 4 s of the grace period" in lines
        (new,) = moves.ready(app, apart_from=[old])
        assert moves.answer(app, new)["identity"] != identity
        seen = moves.ended(app, old)
        assert seen["Failed"] == ("True", "CaptureFailed")
        assert seen["Captured"][0] == "False"
        (told,) = eventually(
            lambda: moves.events(app, old, names.EVENT_CAPTURE_FAILED), what="event CaptureFailed"
        )
        assert "its successor starts fresh" in told
        found = moves.checkpoint(app, old)
        assert found is not None
        described = app.kubectl("describe", "checkpoint", found["metadata"]["name"])
        for text in ("CaptureFailed", seen["Captured"][1], *_messages(found, "Captured")):
            assert text in described, "kubectl describe says why not"
        (heard,) = eventually(
            lambda: moves.events(app, new, names.EVENT_RESTORE_FAILED), what="event on the new pod"
        )
        assert "CheckpointFailed" in heard
        moves.nothing_left(app, [old])


def _messages(checkpoint: dict[str, Any], kind: str) -> list[str]:
    """Return what a condition says, as `kubectl describe` shows it: line for line."""
    (found,) = [c for c in checkpoint["status"]["conditions"] if c["type"] == kind]
    assert found["message"]
    return [line.strip() for line in found["message"].splitlines()]


# Processes that are killed

CHECKPOINTS, ARRIVALS, PODS = names.CHECKPOINTS, names.ARRIVALS, names.PODS

AT_THE_SOURCE = {
    "as the dump begins": f'grep -q \'"phase": "falling"\' {PODS}/UID/pod.json',
    "between dump and departure": f"[ -e {CHECKPOINTS}/UID.partial ]",
    "once the pod has left": f"[ -e {CHECKPOINTS}/UID ]",
}
AT_THE_TARGET = {
    "during the transfer": f"ls {ARRIVALS}/*.partial",
    "between claim and restore": f"ls -d {ARRIVALS}/*-*-*/containers",
}
ALL = [
    *((part, step) for part in ("daemon", "keeper") for step in AT_THE_SOURCE),
    *(("daemon", step) for step in AT_THE_TARGET),
]
SAMPLE = [
    ("daemon", "during the transfer"),
]


@contextlib.contextmanager
def _kill(app: Workload, source: Node, part: str, step: str, uid: str) -> Iterator[None]:
    """Kill *part* at *step* of the move of a pod from *source*. Raises Missed."""
    node = source if step in AT_THE_SOURCE else _other(app, source.name)
    seen = (AT_THE_SOURCE | AT_THE_TARGET)[step].replace("UID", uid)
    if part == "daemon":
        moves.never_killed(app.cluster, node)
    pid = moves.pid_of_daemon(node) if part == "daemon" else parts.keeper_pid(node)
    with contextlib.ExitStack() as stack:
        if step == "during the transfer":
            match = links.from_port(parts.PEER_DATA_PORT)
            stack.enter_context(links.limited(source.machine, BYTES_PER_SECOND, match))
        stack.enter_context(moves.killed_when(node, seen, pid))
        yield
    if part == "daemon":
        eventually(lambda: moves.daemon_answers(node), what="a daemon answers again")
    else:
        eventually(lambda: parts.keeper_answers(node), what="a keeper answers again")


@pytest.mark.parametrize(("part", "step"), sized(SAMPLE, ALL))
def test_who_is_killed_on_the_way_loses_no_memory_silently(
    architect: Cluster, namespace: str, part: str, step: str
) -> None:
    for tries in range(TRIES, 0, -1):
        try:
            _is_killed_on_the_way(architect, namespace, f"killed-{tries}", part, step)
        except moves.Missed:
            if tries == 1:
                raise
        else:
            break


def _is_killed_on_the_way(
    architect: Cluster, namespace: str, name: str, part: str, step: str
) -> None:
    with workload(architect, namespace, name, mebibytes=BIG) as app:
        old, identity = _one(app)
        source = app.cluster.node(old["spec"]["nodeName"])
        with (
            moves.said(app, old) as lines,
            _kill(app, source, part, step, _uid(old)),
            moves.draining(app, source.name),
        ):
            pass
        (new,) = moves.ready(app, apart_from=[old])
        found = moves.ended(app, old)
        goes_on = moves.answer(app, new)["identity"] == identity
        print(f"{part} killed {step}: {'goes on' if goes_on else 'fresh'}; {found}")
        if goes_on:
            assert found["Restored"] == ("True", "Restored")
            assert "got TERM" not in lines
        else:
            assert found["Failed"][0] == "True"
            reasons = [
                *moves.events(app, old, names.EVENT_CAPTURE_FAILED),
                *moves.events(app, new, names.EVENT_RESTORE_FAILED),
            ]
            assert reasons, "nobody said why"
            assert "got TERM" in lines or found["Captured"] == ("True", "Captured")
        assert goes_on, "each of these steps is one after which memory can go on"
        moves.nothing_left(app, [old])
