"""Pods that move between nodes: driven away, awaited, asked, and what they leave behind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from architect.api import names
from lab import commands, errors, release
from lab.cluster import Cluster
from lab.node import Node
from support import nodefiles, parts
from support.patience import patient
from support.workloads import REQUEST_SECONDS, Workload, ask, eventually

STEP_SECONDS: Final = 120
"""How long a step of a move is waited for."""
READY_SECONDS: Final = patient(240.0)

Pod = dict[str, Any]


# Pods


def pods(app: Workload) -> list[Pod]:
    """Return the workload's pods that are not going away, and not over."""
    found = app.get_json("pods", labels=f"app={app.name}")["items"]
    living = [p for p in found if "deletionTimestamp" not in p["metadata"]]
    return [p for p in living if p["status"].get("phase") not in ("Failed", "Succeeded")]


def is_ready(pod: Pod) -> bool:
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def ready(
    app: Workload,
    count: int = 1,
    *,
    apart_from: Sequence[Pod] = (),
    seconds: float = READY_SECONDS,
) -> list[Pod]:
    """Return the workload's pods once *count* are there, all ready, none of *apart_from*."""
    old = {p["metadata"]["uid"] for p in apart_from}

    def found() -> list[Pod]:
        living = pods(app)
        is_new = all(p["metadata"]["uid"] not in old for p in living)
        return living if is_new and len(living) == count and all(map(is_ready, living)) else []

    what = f"{count} ready pods of {app.name} that came after"
    result: list[Pod] = eventually(found, what=what, seconds=seconds)
    return result


def answer(
    app: Workload, pod: Pod, path: str = "/", *, seconds: float = REQUEST_SECONDS
) -> dict[str, Any]:
    """Ask one pod at its own address; an answer may take *seconds*."""
    url = f"http://{pod['status']['podIP']}:8080{path}"
    found: list[dict[str, Any]] = []

    def answers() -> bool:
        with suppress(errors.CommandFailed):
            found.append(ask(app.cluster, url, seconds=seconds))
        return bool(found)

    eventually(answers, what=f"{pod['metadata']['name']} answers")
    return found[0]


def identities(app: Workload, living: Sequence[Pod]) -> list[str]:
    return sorted(str(answer(app, pod)["identity"]) for pod in living)


def events(app: Workload, pod: Pod, reason: str) -> list[str]:
    """Return the messages of the events about *pod* with *reason*, gone or not."""
    selector = f"involvedObject.uid={pod['metadata']['uid']},reason={reason}"
    listed = app.get_json("events", fields=selector)
    return [str(e["message"]) for e in listed["items"]]


# Drains


@contextmanager
def alone(app: Workload, node: str) -> Iterator[None]:
    """Let new pods come to *node* only, for the ``with`` block."""
    others = [n.name for n in app.cluster.nodes if n.name != node]
    for other in others:
        app.kubectl("cordon", other)
    try:
        yield
    finally:
        for other in others:
            app.kubectl("uncordon", other)


@contextmanager
def nowhere(cluster: Cluster) -> Iterator[None]:
    """Let new pods come to no node for the ``with`` block, or to those that it uncordons."""
    for node in cluster.nodes:
        cluster.kubectl("cordon", node.name)
    try:
        yield
    finally:
        cluster.kubectl("uncordon", *cluster.kubectl("get", "nodes", "-o", "name").split())


@contextmanager
def draining(app: Workload, node: str) -> Iterator[subprocess.Popen[str]]:
    """Drain *node* of the workload's pods beside the ``with`` block; then wait, and uncordon."""
    command = [
        *(app.cluster.kubectl_program, "-n", app.namespace, "drain", node),
        *(f"--pod-selector=app={app.name}", "--ignore-daemonsets", "--delete-emptydir-data"),
        "--timeout=200s",
    ]
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=app.cluster.client_environment(),
    )
    try:
        yield process
        _, complaint = process.communicate(timeout=240)
        assert process.returncode == 0, complaint
    finally:
        process.kill()
        process.wait()
        app.kubectl("uncordon", node)


@contextmanager
def said(app: Workload, pod: Pod, *, after: str | None = None) -> Iterator[list[str]]:
    """Collect what *pod* says until it ends; the block begins once the line *after* was heard.

    Or any line, which each application says as it begins: a kubectl that comes after the end of its
    pod hears nothing.
    """
    lines: list[str] = []
    command = [app.cluster.kubectl_program, "logs", "-f", "-n", app.namespace]
    with subprocess.Popen(
        [*map(str, command), pod["metadata"]["name"]],
        stdout=subprocess.PIPE,
        text=True,
        env=app.cluster.client_environment(),
    ) as process:
        assert process.stdout is not None
        while not lines or (after is not None and after not in lines):
            line = process.stdout.readline()
            assert line, lines
            lines.append(line.rstrip())
        yield lines
        lines += process.stdout.read().splitlines()


# Checkpoints


def checkpoint(app: Workload, old: Pod) -> dict[str, Any] | None:
    """Return the Checkpoint by which *old* moved, or was to."""
    uid = old["metadata"]["uid"]
    for found in app.get_json("checkpoints.architect.dev")["items"]:
        if found["spec"]["podRef"]["uid"] == uid and found["spec"]["trigger"] != "Sleep":
            result: dict[str, Any] = found
            return result
    return None


def conditions(app: Workload, old: Pod) -> dict[str, tuple[str, str]]:
    """Return status and reason of each condition of *old*'s Checkpoint."""
    value = checkpoint(app, old) or {}
    return {
        c["type"]: (c["status"], c["reason"]) for c in value.get("status", {}).get("conditions", [])
    }


def ended(app: Workload, old: Pod) -> dict[str, tuple[str, str]]:
    """Return the conditions of *old*'s Checkpoint once they tell an end, good or bad."""

    def found() -> dict[str, tuple[str, str]]:
        seen = conditions(app, old)
        is_over = any(seen.get(kind, ("",))[0] == "True" for kind in ("Restored", "Failed"))
        return seen if is_over else {}

    result: dict[str, tuple[str, str]] = eventually(
        found, what=f"the Checkpoint of {old['metadata']['name']} has come to an end"
    )
    return result


def nothing_left(app: Workload, gone: Sequence[Pod]) -> None:
    """Return once no node keeps anything of the pods in *gone*, nor half of anything."""
    uids = [p["metadata"]["uid"] for p in gone]

    def left() -> list[str]:
        found = []
        for node in app.cluster.nodes:
            for directory in (names.CHECKPOINTS, names.ARRIVALS, names.PODS):
                for name in nodefiles.listing(node, directory):
                    if any(name.startswith(uid) for uid in uids):
                        found.append(f"{node.name}:{directory}/{name}")
        return found

    eventually(
        lambda: not left(), what="nothing is left of pods that are gone", seconds=READY_SECONDS
    )


# Faults at a step


def pid_of_daemon(node: Node) -> int:
    """Return the pid of the daemon's process in *node*."""

    def pids() -> list[str]:
        find = "pgrep -f '^python3 -m architect.daemon run' || true"
        return node.exec(["sh", "-c", find]).split()

    found = eventually(lambda: p if len(p := pids()) == 1 else None, what="one daemon runs")
    return int(found[0])


def never_killed(cluster: Cluster, node: Node) -> None:
    """Replace a daemon that was killed before: kubelet starts it again later each time."""
    pod = parts.daemon_pod(cluster, node.name)
    if any(s["restartCount"] for s in pod["status"].get("containerStatuses", [])):
        name = pod["metadata"]["name"]
        cluster.kubectl(
            *("-n", release.NAMESPACE, "delete", "pod", name, "--wait=true"),
            timeout_seconds=parts.END_SECONDS,
        )
        parts.wait_until_ready(cluster)
        eventually(lambda: daemon_answers(node), what="the new daemon answers")


def daemon_answers(node: Node) -> bool:
    """Whether a daemon of *node* listens for the runtime's questions."""
    script = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(5); "
        f"s.connect('{names.DAEMON_SOCKET}')"
    )
    with suppress(errors.CommandFailed):
        node.exec(["python3", "-c", script])
        return True
    return False


class Missed(AssertionError):
    """A step that somebody was to be killed at was over before it was seen."""


@contextmanager
def killed_when(node: Node, seen: str, pid: int, *, signal: str = "KILL") -> Iterator[None]:
    """Kill *pid* of *node* as soon as the shell's test *seen* holds there, beside the block.

    Raises Missed behind the block if that was not seen. *signal*: or stop it (``STOP``).
    """
    # Without a program that tells the time: there is much to do until the next look.
    script = (
        "now() { read -r up _ </proc/uptime; up=${up%.*}; }; "
        f"now; end=$((up + {STEP_SECONDS})); while ! {{ {seen}; }} 2>/dev/null; do "
        f"now; [ $up -lt $end ] || exit 9; sleep 0.01; done; kill -{signal} {pid}"
    )
    process = node.machine.popen(
        ["sh", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield
        if process.wait(STEP_SECONDS + 30) != 0:
            raise Missed(f"never seen: {seen}")
    finally:
        # What runs in the machine, too: it would kill whoever it sees at that step of a later test.
        commands.kill_group(process)
        process.wait()


@contextmanager
def held(node: Node, pid: int) -> Iterator[None]:
    """Have *pid* of *node* do nothing for the ``with`` block."""
    node.exec(["kill", "-STOP", str(pid)])
    try:
        yield
    finally:
        go_on(node, pid)


def go_on(node: Node, pid: int) -> None:
    """Have *pid* of *node* go on that was stopped, if it and its machine are there."""
    if node.machine.pid is not None:
        with suppress(errors.CommandFailed):
            node.exec(["kill", "-CONT", str(pid)])
