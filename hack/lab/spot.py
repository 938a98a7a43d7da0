"""A node on a spot machine: its cloud's metadata service, a notice, and the end that it announces.

The service is the double of the tests (``tests/support/cloudmetadata``): a program of the host's in
the node's network, at the address that every cloud's has. The end is a real one (:meth:`Node.end`),
and comes when it was said to come, whatever anybody does until then.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lab import commands, dockerfiles, errors, release, waiting
from lab.cluster import Cluster
from lab.machine import Machine
from lab.node import Node
from lab.patience import patient

ADDRESS: Final = "169.254.169.254"
PORT: Final = 80
WINDOWS: Final = {"aws": 120.0, "gcp": 30.0, "azure": 30.0}
"""Seconds of a notice, by cloud."""
START_SECONDS: Final = 60.0
END_SECONDS: Final = 180.0
"""For a machine to be gone, disk and all, once its end has come."""
DAEMON_SECONDS: Final = 240.0
DAEMON_PORT: Final = 9464
_DAEMONS: Final = "app.kubernetes.io%2Fcomponent%3Ddaemon"


class Metadata:
    """A node's metadata service that runs."""

    def __init__(self, cloud: str, process: subprocess.Popen[bytes]) -> None:
        self.cloud = cloud
        self._process = process

    def notice(self, seconds: float | None = None) -> float:
        """Announce the machine's end in *seconds*, the cloud's own by default.

        Returns when that is, in Unix seconds: as the service says it, in whole ones, or by what the
        cloud is known for (``gcp``).
        """
        window = WINDOWS[self.cloud] if seconds is None else seconds
        began = time.time()
        said = self._command("notice", f"{window:g}")
        return began + window if said == "-" else float(said)

    def recommend(self) -> None:
        """Announce that an end is likely (``aws``)."""
        self._command("recommend")

    def withdraw(self) -> None:
        """Take all of it back."""
        self._command("withdraw")

    def acknowledged(self) -> list[str]:
        """Return the events that were acknowledged (``azure``)."""
        said = self._command("acknowledged")
        return [] if said == "-" else said.split()

    def role(self, name: str, access_key: str, secret_key: str, *, seconds: float = 3600) -> None:
        """Give the machine a role with these credentials (``aws``)."""
        self._command("role", name, access_key, secret_key, f"{seconds:g}")

    def _command(self, *words: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(" ".join(words).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise errors.LabError(f"metadata service: {' '.join(words)}: {error}") from error
        said = self._process.stdout.readline().decode().strip()
        if not said or said.startswith("not understood"):
            raise errors.LabError(f"metadata service: {' '.join(words)}: {said or 'it has ended'}")
        return said


@contextmanager
def metadata(
    machine: Machine, cloud: str = "aws", *, address: str = ADDRESS, port: int = PORT
) -> Iterator[Metadata]:
    """Have *machine* be one of *cloud*'s for the ``with`` block, or until it ends.

    A daemon that runs already looks for its cloud every few minutes only.
    """
    machine.run_in_network("ip", "addr", "replace", f"{address}/32", "dev", "lo")
    process = machine.popen_in_network(
        [sys.executable, "-m", "support.cloudmetadata", cloud, address, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(dockerfiles.CHECKOUT / "tests")},
    )
    try:
        _wait_for_first_line(process, cloud)
        yield Metadata(cloud, process)
    finally:
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended with its machine
                stream.close()
        commands.kill_group(process)
        process.wait()
        with contextlib.suppress(errors.LabError):  # the machine has ended
            machine.run_in_network("ip", "addr", "del", f"{address}/32", "dev", "lo")


def _wait_for_first_line(process: subprocess.Popen[bytes], cloud: str) -> None:
    """Return once the service says where it is. Raises LabError."""
    assert process.stdout is not None
    watch = threading.Timer(patient(START_SECONDS), commands.kill_group, [process])
    watch.daemon = True
    watch.start()
    try:
        if not process.stdout.readline().startswith(b"http://"):
            raise errors.LabError(f"the metadata service of {cloud} does not start")
    finally:
        watch.cancel()


def become_known(cluster: Cluster, node: Node, cloud: str) -> None:
    """Have the node's daemon, which runs, find its machine's metadata service now.

    It is replaced: one that has found none looks for it every few minutes only. Raises LabError.
    """
    old = _daemon(cluster, node.name)["metadata"]
    where = ("-n", release.NAMESPACE)
    cluster.kubectl(*where, "delete", "pod", old["name"], timeout_seconds=DAEMON_SECONDS)
    wanted = f'architect_notice_provider{{provider="{cloud}"}} 1.0'

    def is_known() -> bool:
        try:
            pod = _daemon(cluster, node.name)
            address = pod["status"].get("podIP")
            if pod["metadata"]["uid"] == old["uid"] or not address:
                return False
            url = f"http://{address}:{DAEMON_PORT}/metrics"
            return wanted in cluster.in_control_plane(["curl", "-fsS", "-m", "5", url])
        except errors.LabError:
            return False  # it is starting

    waiting.until(
        is_known,
        what=f"the daemon of {node.name} has found {cloud}",
        timeout_seconds=DAEMON_SECONDS,
        interval_seconds=0.3,
        last_seen=lambda: release.diagnosis(cluster),
    )
    waiting.until(
        lambda: release.is_ready(cluster),
        what="Architect is ready on every node",
        timeout_seconds=DAEMON_SECONDS,
        interval_seconds=0.3,
        last_seen=lambda: release.diagnosis(cluster),
    )


def plan(cluster: Cluster, node: Node, *, seconds: float, output: str = "json") -> str:
    """Return what the node says would be saved of it in a notice of *seconds*. Raises LabError."""
    address = _daemon(cluster, node.name)["status"]["podIP"]
    url = f"http://{address}:{DAEMON_PORT}/spot/plan?deadline={seconds:g}&output={output}"
    return cluster.in_control_plane(["curl", "-fsS", "-m", "60", url], timeout_seconds=90)


def _daemon(cluster: Cluster, node: str) -> dict[str, Any]:
    path = f"/api/v1/namespaces/{release.NAMESPACE}/pods?labelSelector={_DAEMONS}"
    for pod in cluster.api.get(path)["items"]:
        if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]:
            return dict(pod)
    raise errors.LabError(f"{node} has no daemon")


class Countdown:
    """The end of a node that was announced. It moves for nobody."""

    def __init__(self, cluster: Cluster, node: Node, *, ends: float) -> None:
        self.node = node
        self.ends = ends
        """When the machine ends, in Unix seconds."""
        self.ended: float | None = None
        """When it did."""
        self._plane = cluster.plane.machine
        self._deadline = time.monotonic() + ends - time.time()
        self._is_called_off = False
        self._changed = threading.Condition()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"end of {node.name}", daemon=True)
        self._thread.start()

    @property
    def left_seconds(self) -> float:
        """What is left; 0 once the machine has ended."""
        return max(0.0, self._deadline - time.monotonic())

    def call_off(self) -> bool:
        """Let the machine be, as its cloud does when it takes a notice back; whether it could."""
        with self._changed:
            self._is_called_off = self.ended is None
            self._changed.notify_all()
            return self._is_called_off

    def end_now(self) -> None:
        """End it before its time, as a cloud may, and return once it is gone. Raises LabError."""
        with self._changed:
            self._deadline = time.monotonic()
            self._changed.notify_all()
        self.wait()

    def wait(self) -> None:
        """Return once the machine is gone. Raises LabError if it could not be ended."""
        self._thread.join(self.left_seconds + patient(END_SECONDS))
        if self._error is not None:
            raise errors.LabError(f"{self.node.name} does not end") from self._error
        if self.ended is None or self._thread.is_alive():
            raise errors.LabError(f"{self.node.name} has not ended")

    def _run(self) -> None:
        with self._changed:
            while not self._is_called_off and self.left_seconds:
                self._changed.wait(self.left_seconds)
            if self._is_called_off:
                return
            self.ended = time.time()
        try:
            self.node.end(self._plane)
        except (errors.LabError, OSError) as error:
            self._error = error


@contextmanager
def countdown(
    cluster: Cluster, node: Node, service: Metadata, seconds: float | None = None
) -> Iterator[Countdown]:
    """Give notice of *node*'s end, which then comes; called off if the block is left before it."""
    made = Countdown(cluster, node, ends=service.notice(seconds))
    try:
        yield made
    finally:
        if not made.call_off():
            made.wait()
