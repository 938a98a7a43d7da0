"""``make soak``: 1,000 cycles of sleep and wake over 20 pods with clients, and what is left after.

Each pod is put to sleep again and again, at random moments and whatever its clients do; what they
ask wakes it. Nobody retries anything: a request without an answer is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.api.keeper import Event
from architect.core.errors import Rejected, Unavailable
from architect.core.wire import Client
from bench.figures import Spread
from faults import CHECKOUT, leaks
from faults.conditions import in_cluster
from faults.errors import FaultError
from faults.nodeleaks import snapshot
from lab import errors as lab_errors
from lab import interrupts, release
from lab.cluster import Cluster
from lab.machine import Machine
from lab.node import Node
from lab.patience import patient
from lab.progress import Progress
from support import workloads

OUTPUT: Final = CHECKOUT / "build" / "soak.json"
NAMESPACE: Final = "architect-soak"
CYCLES: Final = 1000
PODS: Final = 20
MEBIBYTES: Final = 8
ASLEEP_PAUSE: Final = (0.3, 1.5)
"""Between the end of a sleep and the next request for one: clients wake it in between."""
BUSY_PAUSE: Final = (0.02, 0.2)
PATIENCE_SECONDS: Final = 5.0
READY_SECONDS: Final = 300.0
GONE_SECONDS: Final = patient(90.0)
"""For kubelet and containerd to remove what was of deleted pods."""
PROGRESS_SECONDS: Final = 20.0
CLIENTS_SECONDS: Final = patient(120.0)
"""For what clients have asked at the end: twice as long as they wait for an answer."""
STILL_SECONDS: Final = patient(180.0)
"""Without a single cycle: longer than anything that a keeper or a client waits for."""
SHARED: Final = "; others used the cluster, too, so that a leak is what names one of these pods"
PASSING: Final = frozenset({"Busy", "Waking", "InFlight", "NotReady", "UnheldSocket"})
"""Reasons for which a pod does not fall asleep now."""


@dataclass(frozen=True, kw_only=True)
class SoakPod:
    """A running pod of the soak."""

    name: str
    uid: str
    node: str
    address: str
    """Of its Service."""


@dataclass
class Count:
    """What the keepers have told; used by many threads."""

    wanted: int
    cycles: int = 0
    sleep_ms: list[float] = field(default_factory=list)
    wake_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_over: threading.Event = field(default_factory=threading.Event)

    def note(self, event: dict[str, Any]) -> None:
        """Count *event* of one of the soak's pods."""
        with self.lock:
            match event["event"]:
                case Event.SLEPT.value:
                    self.sleep_ms.append(event["duration_seconds"] * 1000)
                case Event.WOKE.value:
                    self.wake_ms.append(event["duration_seconds"] * 1000)
                    self.cycles += 1
                    if self.cycles >= self.wanted:
                        self.is_over.set()
                case Event.WAKE_FAILED.value | Event.SLEEP_FAILED.value:
                    self.failures.append(f"{event['event']} {event.get('reason')}: {event}")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a soak."""

    pods: int
    cycles: int
    requests: int
    errors: int
    leaks: int
    restarts: int
    seconds: float
    percentiles: dict[str, dict[str, float]]
    """Of a request, a sleep and a wake, in milliseconds."""
    error_texts: list[str]
    leaked: list[str]
    failures: list[str]
    """Sleeps and wakes that failed."""
    conditions: str

    @property
    def is_clean(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.errors or self.leaks or self.restarts or self.failures)

    def __str__(self) -> str:
        lines = [
            f"{self.cycles} cycles over {self.pods} pods in {self.seconds:.0f} s: "
            f"{self.requests} requests, {self.errors} errors, {self.restarts} restarts, "
            f"{self.leaks} leaks"
        ]
        for name, spread in self.percentiles.items():
            figures = ", ".join(f"{key} {value:g}" for key, value in spread.items())
            lines.append(f"{name}: {figures} ms")
        return "\n".join([*lines, *self.error_texts, *self.failures, *self.leaked])


def soak(
    cluster: Cluster, *, cycles: int, pods: int, is_attached: bool, is_shared: bool = False
) -> Outcome:
    """Run *cycles* over *pods* pods in *cluster*, which has Architect in it. Raises LabError.

    *is_attached*: it was there before. *is_shared*: others come and go in the cluster meanwhile, so
    that only what names one of the soak's pods, containers or sandboxes is a leak of it.
    """
    progress = cluster.progress
    _remove(cluster)
    before = {node.name: snapshot(node.machine) for node in cluster.nodes}
    with progress.step(f"{pods} pods"):
        found = _create(cluster, pods)
    ours = _identities(cluster, found) if is_shared else None
    count = Count(wanted=cycles)
    started = time.monotonic()
    try:
        with progress.step(f"{cycles} cycles"), ExitStack() as stack:
            said = stack.enter_context(_clients(cluster.plane.machine, found, count, progress))
            for node in cluster.nodes:
                stack.enter_context(_listening(node, found, count))
            for pod in found:
                stack.enter_context(_putting_to_sleep(cluster.node(pod.node), pod, count))
            until_over(count, still_seconds=STILL_SECONDS)
        seconds = time.monotonic() - started
        restarts = _restarts(cluster)
    finally:
        with progress.step("removing the pods"):
            _remove(cluster)
    with progress.step("looking for leaks"):
        leaked = [text for node in cluster.nodes for text in _leaked(node, before[node.name], ours)]
    several = [name for name, number in said["identities"].items() if number != 1]
    return Outcome(
        pods=pods,
        cycles=count.cycles,
        requests=said["requests"],
        errors=said["error_count"] + len(several),
        leaks=len(leaked),
        restarts=restarts,
        seconds=round(seconds, 1),
        percentiles={
            name: _spread(values)
            for name, values in (
                ("request", said["milliseconds"]),
                ("sleep", count.sleep_ms),
                ("wake", count.wake_ms),
            )
        },
        error_texts=[*said["errors"], *(f"{name} lost its memory" for name in several)],
        leaked=leaked,
        failures=count.failures,
        conditions=in_cluster(cluster.nodes[0], is_attached=is_attached)
        + (SHARED if is_shared else ""),
    )


def _spread(values: list[float]) -> dict[str, float]:
    found = Spread.of(values)
    return {"p50": found.p50, "p90": found.p90, "p99": found.p99, "max": found.most}


def until_over(count: Count, *, still_seconds: float) -> None:
    """Wait for the last cycle; in *still_seconds* without one, the soak is over and has failed."""
    seen = count.cycles
    while not count.is_over.wait(still_seconds):
        if count.cycles == seen:
            with count.lock:
                count.failures.append(f"no cycle in {still_seconds:g} s, after {seen}")
            count.is_over.set()
        seen = count.cycles


# The pods


def _create(cluster: Cluster, count: int) -> list[SoakPod]:
    items: list[dict[str, Any]] = [workloads.code("soak")]
    for number in range(count):
        name = f"soak-{number:02}"
        node = cluster.nodes[number % len(cluster.nodes)].name
        container = workloads.memory_server(mebibytes=MEBIBYTES)
        container["resources"] = {"requests": {"cpu": "5m", "memory": "24Mi"}}
        # A probe's own second is not enough for twenty pods that wake on two cores, whatever runs
        # them: kube-proxy would refuse in a pod's name what the pod itself would answer.
        container["readinessProbe"] |= {"periodSeconds": 5, "timeoutSeconds": 20}
        template = workloads.pod_template(name, [container], node=node)
        template["spec"]["volumes"] = [{"name": "code", "configMap": {"name": "soak"}}]
        template["metadata"]["name"] = name
        items += [{"apiVersion": "v1", "kind": "Pod", **template}, workloads.service(name)]
    cluster.kubectl("create", "namespace", NAMESPACE)
    listed = {"apiVersion": "v1", "kind": "List", "items": items}
    cluster.kubectl("-n", NAMESPACE, "apply", "-f", "-", input=json.dumps(listed))
    cluster.kubectl(
        *("-n", NAMESPACE, "wait", "pods", "--all", "--for=condition=Ready"),
        f"--timeout={patient(READY_SECONDS):.0f}s",
        timeout_seconds=patient(READY_SECONDS) + 10,
    )
    services = {each["metadata"]["name"]: each["spec"] for each in _get(cluster, "services")}
    made: list[SoakPod] = []
    for pod in _get(cluster, "pods"):
        name = pod["metadata"]["name"]
        if pod["spec"].get("runtimeClassName") != names.RUNTIME_CLASS:
            raise FaultError(f"pod {name} is not managed: was the webhook away?")
        made.append(
            SoakPod(
                name=name,
                uid=pod["metadata"]["uid"],
                node=pod["spec"]["nodeName"],
                # Both families have their turn.
                address=services[name]["clusterIPs"][len(made) % len(services[name]["clusterIPs"])],
            )
        )
    for each in made:
        workloads.wait_for_service(cluster.plane.machine, each.address)
    return made


def _get(cluster: Cluster, what: str) -> list[dict[str, Any]]:
    said = cluster.kubectl("-n", NAMESPACE, "get", what, "-o", "json")
    found: list[dict[str, Any]] = json.loads(said)["items"]
    return found


def _restarts(cluster: Cluster) -> int:
    return sum(
        status["restartCount"]
        for pod in _get(cluster, "pods")
        for status in pod["status"].get("containerStatuses", [])
    )


def _remove(cluster: Cluster) -> None:
    cluster.kubectl(
        *("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true"),
        timeout_seconds=patient(READY_SECONDS),
    )


def _identities(cluster: Cluster, pods: list[SoakPod]) -> frozenset[str]:
    """Return what names the pods, their containers and sandboxes on a node."""
    uids = {pod.uid for pod in pods}
    found = set(uids)
    for node in cluster.nodes:
        for file in _in_node(node, names.CONTAINER_RECORDS).glob("*.json"):
            record = json.loads(file.read_text())
            if record["pod"] in uids:
                found |= {record["id"], record["sandbox_id"]}
    return frozenset(found)


def _leaked(node: Node, before: leaks.Snapshot, ours: frozenset[str] | None) -> list[str]:
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        found = leaks.leaked(before, snapshot(node.machine))
        if ours is not None:
            found = [text for text in found if any(name in text for name in ours)]
        if not found or time.monotonic() > deadline:
            return [f"{node.name}: {text}" for text in found]
        time.sleep(2.0)


# What happens to them


def _in_node(node: Node, path: Path) -> Path:
    return Path(f"/proc/{node.machine.running_pid}/root{path}")


def _socket(node: Node) -> Path:
    return _in_node(node, names.KEEPER_SOCKET)


@contextmanager
def _listening(node: Node, pods: list[SoakPod], count: Count) -> Iterator[None]:
    """Count what the keeper of *node* tells of *pods*."""
    ours = {pod.uid for pod in pods}

    def listen(client: Client) -> None:
        with suppress(Unavailable):  # closed below
            while True:
                event = client.receive()
                if event.get("pod") in ours and "event" in event:
                    count.note(event)

    with Client(_socket(node), timeout_seconds=3600.0) as client:
        client.call("subscribe")
        thread = threading.Thread(target=listen, args=(client,), daemon=True)
        thread.start()
        yield


@contextmanager
def _putting_to_sleep(node: Node, pod: SoakPod, count: Count) -> Iterator[None]:
    """Put *pod* to sleep again and again."""
    chance = random.Random(pod.name)

    def work() -> None:
        with Client(_socket(node), timeout_seconds=patient(120.0)) as client:
            while not count.is_over.is_set():
                pause = ASLEEP_PAUSE
                try:
                    client.call(
                        "sleep", pod=pod.uid, reason="soak", patience_seconds=PATIENCE_SECONDS
                    )
                except Rejected as error:
                    if error.reason not in PASSING:
                        raise
                    pause = BUSY_PAUSE
                count.is_over.wait(chance.uniform(*pause))

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # told, and the soak is over
            count.failures.append(f"{pod.name} cannot be put to sleep: {error!r}")
            count.is_over.set()

    thread = threading.Thread(target=run, name=pod.name)
    thread.start()
    try:
        yield
    finally:
        count.is_over.set()
        thread.join()


@contextmanager
def _clients(
    machine: Machine, pods: list[SoakPod], count: Count, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Have clients ask the pods; what came of it is in the yielded value afterwards."""
    said: dict[str, Any] = {}
    program = Path(__file__).with_name("soakclient.py")
    process = subprocess.Popen(
        machine.in_network(sys.executable, "-I", "-S", program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def read() -> None:
        assert process.stdout is not None
        told = time.monotonic()
        for line in process.stdout:
            said.update(json.loads(line))
            if time.monotonic() - told >= PROGRESS_SECONDS:
                told = time.monotonic()
                progress.say(
                    f"  {count.cycles}/{count.wanted} cycles, {said['requests']} requests, "
                    f"{said['error_count']} errors"
                )

    reader = threading.Thread(target=read)
    reader.start()
    assert process.stdin is not None
    targets = [[pod.name, pod.address, 8080] for pod in pods]
    process.stdin.write(json.dumps(targets) + "\n")
    process.stdin.flush()
    try:
        yield said
    except BaseException:
        process.kill()
        raise
    finally:
        process.stdin.close()
        try:
            process.wait(CLIENTS_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
    if process.returncode != 0:
        raise FaultError(f"the clients ended with {process.returncode} and gave no account")


# The command line


def main(words: list[str] | None = None) -> int:
    """Run the soak. Exit status 1 if anything went wrong."""
    options = parser().parse_args(words)
    if os.geteuid() != 0:
        print("soak: namespaces, mounts and cgroups need root", file=sys.stderr)
        return 1
    interrupts.handle()
    cluster = Cluster(progress=Progress())
    try:
        if not options.attach:
            with cluster.progress.step(f"cluster of {options.nodes} nodes with Architect"):
                cluster.up(options.nodes)
                release.install(cluster)
        found = soak(
            cluster,
            cycles=options.cycles,
            pods=options.pods,
            is_attached=options.attach,
            is_shared=options.shared,
        )
    except (lab_errors.LabError, FaultError) as error:
        print(f"soak: {error}", file=sys.stderr)
        return 1
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(asdict(found), indent=1) + "\n")
    print(f"\n{found}\n\nwritten to {options.output}")
    return 0 if found.is_clean else 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m faults.soak``."""
    made = argparse.ArgumentParser(
        prog="soak", description="Pods sleep and wake under clients, again and again."
    )
    made.add_argument(
        "--cycles",
        type=int,
        default=int(os.environ.get("SOAK_CYCLES") or CYCLES),
        help="of all pods together (default: SOAK_CYCLES, or %(default)s)",
    )
    made.add_argument("--pods", type=int, default=PODS)
    made.add_argument("--nodes", type=int, default=2)
    made.add_argument(
        "--attach",
        action="store_true",
        help="use the running cluster and what is installed in it as they are",
    )
    made.add_argument(
        "--shared",
        action="store_true",
        help="others use the cluster, too: only what names the soak's own pods is a leak",
    )
    made.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE")
    return made


if __name__ == "__main__":
    sys.exit(main())
