"""What only a cluster has is broken: daemon, operator, containerd, its shim, kubelet, API server.

As :mod:`.stage`, through the real kubelet. The pod is stopped at its steps by the same gate, which
watches the node's ``/var/lib`` and ``/run``. Clients talk to the pod's own address: a Service says
where kubelet believes it to be ready, and a kubelet that was killed believes nothing for a moment.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core import wire
from architect.core.errors import Unavailable
from architect.shim.keeper import processes
from faults import leaks, podsaid
from faults.errors import FaultError
from faults.gate import Gate, Held, Matches
from faults.matrix import FALLING, WAKING, Bound, Fault, Pair, Step, Tried
from faults.nodeleaks import living, snapshot
from faults.results import GOES_ON, RESTARTED, Result
from lab import errors as lab_errors
from lab import release
from lab.cluster import Cluster
from lab.node import Node
from lab.patience import patient
from support import loads, parts, workloads
from support.workloads import BarePod, eventually

DEADLINE_SECONDS: Final = patient(120.0)
AWAY_SECONDS: Final = 4.0
"""How long the API server is away."""
SLEEP_SECONDS: Final = 8.0
RATE: Final = 10.0
REQUESTS: Final = 5
"""Of the clients, at least, before and after something is broken."""
TERM_SECONDS: Final = 8
"""Of its grace period, used by the application."""
EXIT_STATUS: Final = 7
"""Of the application, after SIGTERM."""
FINALIZER: Final = "faults.architect.dev/look"
"""Keeps a pod's object after its end: how it ended is told there."""
MIDDLE: Final = (Step.AWAKE, *FALLING, Step.ASLEEP, *WAKING)
"""Steps through which one pod can go one after the other."""
KEEPER: Final = "architect-keepe"
TELLING: Final = (FaultError, lab_errors.LabError, AssertionError, OSError)


@dataclass
class Place:
    """Where a fault is tried: one node, one namespace of the API."""

    cluster: Cluster
    node: Node
    namespace: str
    disk: Gate
    run: Gate
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def root(self) -> Path:
        """The node's root, as we see it."""
        return self.root_of(self.node)

    @staticmethod
    def root_of(node: Node) -> Path:
        """The root of *node*, as we see it."""
        return Path(f"/proc/{node.machine.running_pid}/root")

    def send(self, op: str, uid: str) -> None:
        """Ask the keeper for something and do not wait for its answer."""
        path = self.root / str(names.KEEPER_SOCKET).lstrip("/")
        with suppress(Unavailable), wire.Client(path, timeout_seconds=30.0) as client:
            client.send(op, pod=uid, patience_seconds=5.0, reason="test", force=True)

    def hold(self, gate: Gate, matches: Matches) -> Held:
        """Stop whoever *matches*, until :meth:`go_on`."""
        return self._stack.enter_context(gate.holding(matches))

    def go_on(self) -> None:
        """Let go of whoever waits."""
        self._stack.close()

    def managed(self, path: str) -> bool:
        """Whether the directory of the lower runtime's *path* is of a managed container."""
        identity = Path(path).parent.name
        record = names.CONTAINER_RECORDS / f"{identity}.json"
        return os.path.exists(self.root / str(record).lstrip("/"))


@contextmanager
def opened(cluster: Cluster, node: Node) -> Iterator[Place]:
    """A place of which nothing is left afterwards."""
    namespace = f"faults-{uuid.uuid4().hex[:8]}"
    root = Path(f"/proc/{node.machine.running_pid}/root")
    cluster.kubectl("create", "namespace", namespace)
    with ExitStack() as stack:
        stack.callback(
            cluster.kubectl, "delete", "namespace", namespace, "--wait=false", timeout_seconds=60
        )
        disk = Gate(root / "var/lib", is_mount_alone=True)
        stack.callback(disk.close)
        run = Gate(root / "run", is_mount_alone=True)
        stack.callback(run.close)
        yield Place(cluster=cluster, node=node, namespace=namespace, disk=disk, run=run)


# The pod


def _application(
    place: Place, name: str, *, fault: Fault, metadata: Mapping[str, Any] | None = None
) -> AbstractContextManager[BarePod]:
    container = {
        **workloads.memory_server(mebibytes=32),
        "env": [{"name": "TERM_SECONDS", "value": f"{TERM_SECONDS}"}],
    }
    return workloads.bare_pod(
        place.cluster,
        place.namespace,
        f"{fault.name}-{name}",
        containers=[container],
        node=place.node.name,
        metadata=metadata,
        spec={"terminationGracePeriodSeconds": 30},
    )


@dataclass
class Life:
    """A running pod and what is known of it without the API server."""

    place: Place
    pod: BarePod
    uid: str
    address: str
    sandbox: str = ""

    @classmethod
    def of(cls, place: Place, pod: BarePod) -> Life:
        """Read what is known."""
        return cls(place=place, pod=pod, uid=pod.uid(), address=pod.pod_ip())

    def ask(self) -> dict[str, Any]:
        """Return what the application says, with the digest of its memory."""
        return workloads.ask(self.place.cluster, f"http://{self.address}:8080/digest")

    def sleep(self) -> None:
        """Put it to sleep, through the node alone."""
        eventually(
            lambda: workloads.try_to_sleep(
                lambda: workloads.ask_runtime(self.place.node, "sleep", self.uid)
            ),
            what="it falls asleep",
        )


# How it is brought to a step


def _keeper_opens(life: Life, *parts: str) -> Matches:
    wanted = (life.uid, *parts)
    return lambda pid, path: all(p in path for p in wanted) and _comm(pid) == KEEPER


def _criu_opens(life: Life, end: str) -> Matches:
    return lambda pid, path: (
        life.uid in path and path.endswith(end) and _exe(pid) == "architect-criu"
    )


_FALLING: Final[dict[Step, Callable[[Life], Matches]]] = {
    Step.BEFORE_HOLD: lambda life: _keeper_opens(life, ".pod.json."),
    Step.FREEZING: lambda life: _criu_opens(life, "/pages-1.img"),
    Step.DUMP: lambda life: _criu_opens(life, "/inventory.img"),
    Step.AFTER_DUMP: lambda life: _keeper_opens(life, "/image/dump.exit"),
}
_WAKING: Final[dict[Step, Callable[[Life], Matches]]] = {
    Step.BEFORE_RESTORE: lambda life: _keeper_opens(life, "/app/meta.json"),
    Step.RESTORE: lambda life: _criu_opens(life, "/pages-1.img"),
    Step.BEFORE_RELEASE: lambda life: _keeper_opens(life, "/image/restore.exit"),
}


def _bring(life: Life, step: Step, stack: ExitStack, *, has_clients: bool) -> list[loads.Load]:
    """Bring a running pod to *step*, with clients; those of a sleeping pod come with its wake.

    *has_clients*: not where the container may end, and with it the server of their requests.
    """
    place = life.place

    def clients() -> list[loads.Load]:
        machine = place.cluster.plane.machine
        if not has_clients:
            return []
        return [
            stack.enter_context(loads.load(kind, life.address, machine=machine, rate=RATE))
            for kind in ("new", "kept")
        ]

    if step is Step.AWAKE:
        asking = clients()
        _until_asked(life, has_clients=has_clients)
        return asking
    if step in FALLING:
        asking = clients()
        _until_asked(life, has_clients=has_clients)
        held = place.hold(place.disk, _FALLING[step](life))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not held.has_come.is_set():
            if time.monotonic() > deadline:
                raise FaultError(f"{step} is not reached")
            place.send("sleep", life.uid)
            held.wait(SLEEP_SECONDS)
        return asking
    life.sleep()
    if step is Step.ASLEEP:
        return []
    held = place.hold(place.disk, _WAKING[step](life))
    asking = clients()
    if not has_clients:
        place.send("wake", life.uid)
    if not held.wait(DEADLINE_SECONDS):
        raise FaultError(f"{step} is not reached")
    return asking


def _until_asked(life: Life, *, has_clients: bool) -> None:
    """Wait until clients have asked; the application counts."""
    before = int(life.ask()["count"])
    own = 0

    def asked() -> bool:
        nonlocal own
        own += 1
        return int(life.ask()["count"]) - before - own >= REQUESTS

    if has_clients:
        eventually(asked, what="clients ask")


def _check(asking: Sequence[loads.Load], *, identity: str) -> None:
    """Raise FaultError unless each request of the clients was answered, by the same process."""
    for client in asking:
        result = client.result
        wrong = set(result["identities"]) - {identity}
        if result["errors"] or wrong or result["answered"] != result["sent"]:
            raise FaultError(str(client))


# How each thing is broken


@contextmanager
def _killed(pids: Sequence[int]) -> Iterator[None]:
    if not pids:
        raise FaultError("it does not run")
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def _daemon(life: Life | None, place: Place) -> Iterator[None]:
    with _killed(_in_node(place.node, "architect.daemon")):
        yield
        _replaced(place, "daemon")


@contextmanager
def _operator(life: Life | None, place: Place) -> Iterator[None]:
    pids = [pid for n in place.cluster.nodes for pid in _in_node(n, "architect.operator")]
    with _killed(pids):
        yield
        _replaced(place, "operator")


def _replaced(place: Place, component: str) -> None:
    """Have new pods of *component*: kubelet restarts what is killed often later each time."""
    words = ("delete", "pods", "-l", f"{parts.COMPONENT}={component}", "--wait=false")
    place.cluster.kubectl("-n", release.NAMESPACE, *words)
    parts.wait_until_ready(place.cluster)


def _containerd(life: Life | None, place: Place) -> AbstractContextManager[None]:
    return _killed(_in_node(place.node, "/usr/bin/containerd", is_program=True))


def _kubelet(life: Life | None, place: Place) -> AbstractContextManager[None]:
    return _killed(_in_node(place.node, "kubelet", is_program=True))


def _shim(life: Life | None, place: Place) -> AbstractContextManager[None]:
    if life is None:
        # The pod that is being made: the youngest.
        shims = _in_node(place.node, "containerd-shim-runc-v2", is_program=True)
        return _killed(sorted(shims, key=_started)[-1:])
    return _killed(
        [
            pid
            for pid in _in_node(place.node, "containerd-shim-runc-v2", is_program=True)
            if life.sandbox in processes.arguments(pid)
        ]
    )


@contextmanager
def _api_server(life: Life | None, place: Place) -> Iterator[None]:
    place.cluster.api_server.stop()
    try:
        yield
        time.sleep(AWAY_SECONDS)
    finally:
        place.cluster.api_server.start()
        eventually(place.cluster.api.ready, what="the API server is back")


BREAKERS: Final[dict[str, Callable[[Life | None, Place], AbstractContextManager[None]]]] = {
    "daemon": _daemon,
    "operator": _operator,
    "containerd": _containerd,
    "shim": _shim,
    "kubelet": _kubelet,
    "api-server": _api_server,
}


def _in_node(node: Node, word: str, *, is_program: bool = False) -> list[int]:
    """Return the pids, as we see them, of processes of *node* with *word* in their arguments."""
    top = node.machine.running_pid
    found = []
    for pid in leaks.below(top):
        arguments = processes.arguments(pid)
        if is_program:
            if arguments and Path(arguments[0]).name == Path(word).name:
                found.append(pid)
        elif word in arguments:
            found.append(pid)
    return found


def _started(pid: int) -> int:
    with suppress(OSError):
        return int(
            Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        )
    return 0


def _comm(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _exe(pid: int) -> str:
    with suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    return ""


# The trial of one fault

Trial = Callable[[], tuple[str, list[str]]]
"""Returns what came of it, and what was said of a loss. Raises what is in :data:`TELLING`."""


def run(place: Place, pairs: Sequence[Pair], *, tell: Callable[[str], None]) -> Iterator[Result]:
    """Try *pairs*, which are all of one fault. What a pair leaves is held against it."""
    for result in _tried(place, pairs):
        tell(f"{result} [{result.seconds} s]")
        yield result


def _tried(place: Place, pairs: Sequence[Pair]) -> Iterator[Result]:
    yield from _through_the_middle(place, [pair for pair in pairs if pair.step in MIDDLE])
    for pair in pairs:
        if pair.step not in MIDDLE:
            before = _snapshots(place)
            begins = pair.step in (Step.CREATE, Step.START)
            trial = functools.partial(_beginning if begins else _ending, pair, place)
            yield _with(_result(pair, place, trial), _leaked(place, before))


def _through_the_middle(place: Place, pairs: Sequence[Pair]) -> Iterator[Result]:
    """Try *pairs* with one pod, as long as it is the same."""
    with ExitStack() as stack:
        life: Life | None = None
        for pair in pairs:
            if life is None:
                without = _snapshots(place)
                made = _application(place, str(pair.step), fault=pair.fault)
                life = Life.of(place, stack.enter_context(made))
                life.sandbox = _sandbox(life)
                # What is made with the first sleep, and stays, is no leak.
                life.sleep()
                life.ask()
                with_it = _snapshots(place)
            result = _result(pair, place, functools.partial(_middle, pair, life))
            if result.has_survived and result.outcome == GOES_ON:
                result = _with(result, _leaked(place, with_it))
            if pair is pairs[-1] or not result.has_survived or result.outcome == RESTARTED:
                life = None
                stack.close()
                result = _with(result, _leaked(place, without))
            yield result


def _with(result: Result, leaked: Sequence[str]) -> Result:
    """Return *result* with what has leaked held against it."""
    failures = [*result.failures, *(f"leak of {text}" for text in leaked)]
    return dataclasses.replace(result, failures=list(dict.fromkeys(failures)))


def _result(pair: Pair, place: Place, trial: Trial) -> Result:
    started = time.monotonic()
    outcome = ""
    failures: list[str] = []
    told: list[str] = []
    try:
        outcome, told = trial()
        if outcome == RESTARTED and _bound(pair) is Bound.GOES_ON:
            failures.append("its container was restarted")
        if outcome == RESTARTED and not told:
            failures.append("its container was restarted, and nobody said so")
    except TELLING as error:
        failures.append(f"{type(error).__name__}: {error}"[:1500])
    finally:
        place.go_on()
    return Result(
        fault=pair.fault.name,
        step=pair.step,
        outcome=outcome,
        seconds=round(time.monotonic() - started, 1),
        failures=failures,
        told=told,
    )


def _bound(pair: Pair) -> Bound:
    assert isinstance(pair.plan, Tried)
    return pair.plan.bound


def _sandbox(life: Life) -> str:
    said = life.place.node.exec(
        ["sh", "-c", f"grep -l {life.uid} {names.CONTAINER_RECORDS}/*.json"]
    )
    record = life.place.root / said.split()[0].lstrip("/")
    return str(json.loads(record.read_text())["sandbox_id"])


def _middle(pair: Pair, life: Life) -> tuple[str, list[str]]:
    place = life.place
    before = life.ask()
    restarts = life.pod.restarts()
    with ExitStack() as stack:
        asking = _bring(life, pair.step, stack, has_clients=_bound(pair) is Bound.GOES_ON)
        with BREAKERS[pair.fault.name](life, place):
            place.go_on()
        if _bound(pair) is not Bound.GOES_ON and _is_restarted(life, before):
            return RESTARTED, _said_of_loss(life)
        _until_asked(life, has_clients=bool(asking))
    after = life.ask()
    if (after["identity"], after["digest"]) != (before["identity"], before["digest"]):
        raise FaultError("it is not the same")
    _check(asking, identity=before["identity"])
    eventually(life.pod.is_ready, what="it is ready", seconds=DEADLINE_SECONDS)
    if life.pod.restarts() != restarts:
        raise FaultError("its container was restarted")
    life.sleep()
    again = life.ask()
    if again["digest"] != before["digest"] or again["identity"] != before["identity"]:
        raise FaultError("after one more sleep it is not the same")
    return GOES_ON, []


def _is_restarted(life: Life, before: dict[str, Any]) -> bool:
    """Wait until it serves again; whether as another one."""
    found: list[dict[str, Any]] = []

    def serves() -> bool:
        with suppress(lab_errors.LabError):
            address = life.pod.pod_ip()
            found.append(workloads.ask(life.place.cluster, f"http://{address}:8080/digest"))
        return bool(found) and life.pod.is_ready()

    eventually(serves, what="it serves again", seconds=DEADLINE_SECONDS)
    return bool(found[-1]["identity"] != before["identity"])


def _said_of_loss(life: Life) -> list[str]:
    """Return what the API tells of a restart, once it tells something; else nothing."""
    found: list[str] = []

    def said() -> bool:
        uid = life.pod.uid()
        events = life.pod.get_json("events", fields=f"involvedObject.uid={uid}")
        found[:] = podsaid.losses(life.pod.pod(), events["items"])
        return bool(found)

    with suppress(AssertionError):
        eventually(said, what="the loss is said", seconds=DEADLINE_SECONDS)
    return found


def _beginning(pair: Pair, place: Place) -> tuple[str, list[str]]:
    matches = _creates if pair.step is Step.CREATE else _starts(place)
    held = place.hold(place.run, matches)
    name = f"{pair.fault.name}-{pair.step}"
    made = BarePod(cluster=place.cluster, namespace=place.namespace, name=name)
    template = workloads.pod_template(name, [workloads.memory_server()], node=place.node.name)
    template["metadata"]["name"] = name
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    workloads.apply(made, workloads.code(name), pod)
    if not held.wait(DEADLINE_SECONDS):
        raise FaultError(f"{pair.step} is not reached")
    with BREAKERS[pair.fault.name](None, place):
        place.go_on()
    eventually(made.is_ready, what="it is ready", seconds=DEADLINE_SECONDS)
    life = Life.of(place, made)
    before = life.ask()
    life.sleep()
    if (life.ask())["digest"] != before["digest"]:
        raise FaultError("after a sleep it is not the same")
    made.kubectl("delete", "pod,configmap", name, "--wait=false")
    eventually(made.is_gone, what="it is gone", seconds=DEADLINE_SECONDS)
    return GOES_ON, []


def _ending(pair: Pair, place: Place) -> tuple[str, list[str]]:
    kept = {"finalizers": [FINALIZER]}
    with ExitStack() as stack:
        pod = stack.enter_context(
            _application(place, str(pair.step), fault=pair.fault, metadata=kept)
        )
        # However it ends: nobody else lets the object go.
        stack.callback(_let_go, pod)
        life = Life.of(place, pod)
        life.sandbox = _sandbox(life)
        life.sleep()
        life.ask()
        if pair.step is Step.DELETE:
            held = place.hold(place.run, _deletes(place))
            pod.kubectl("delete", "pod", pod.name, "--wait=false")
            if not held.wait(DEADLINE_SECONDS):
                raise FaultError(f"{pair.step} is not reached")
        else:
            pod.kubectl("delete", "pod", pod.name, "--wait=false")
            eventually(lambda: "got TERM" in pod.kubectl("logs", pod.name), what="its SIGTERM")
        with BREAKERS[pair.fault.name](life, place):
            place.go_on()
        _has_ended(pod, is_its_own=_bound(pair) is Bound.GOES_ON)
        _let_go(pod)
        eventually(pod.is_gone, what="it is gone", seconds=DEADLINE_SECONDS)
    return GOES_ON, []


def _has_ended(pod: BarePod, *, is_its_own: bool) -> None:
    """Wait until the API tells the end, and see how it was. Raises FaultError, AssertionError."""
    found: list[dict[str, Any]] = []

    def ended() -> bool:
        found[:] = [pod.pod()]
        return podsaid.has_ended(found[0])

    eventually(ended, what="its end is told", seconds=DEADLINE_SECONDS)
    if is_its_own:
        wrong = podsaid.wrong_with_end(found[0], status=EXIT_STATUS, used_seconds=TERM_SECONDS)
        if wrong:
            raise FaultError("; ".join(wrong))


def _let_go(pod: BarePod) -> None:
    """Let the object of a pod go that has a finalizer of ours."""
    if not pod.is_gone():
        change = json.dumps({"metadata": {"finalizers": None}})
        pod.kubectl("patch", "pod", pod.name, "--type=merge", "-p", change)


def _creates(pid: int, path: str) -> bool:
    return "/architect/containers/." in path and path.endswith(".tmp")


def _runs(verb: str, place: Place) -> Matches:
    return lambda pid, path: (
        path.endswith("/state.json")
        and _exe(pid) == "runc"
        and verb in processes.arguments(pid)
        and place.managed(path)
    )


def _starts(place: Place) -> Matches:
    return _runs("start", place)


def _deletes(place: Place) -> Matches:
    return _runs("delete", place)


def _snapshots(place: Place) -> dict[str, leaks.Snapshot]:
    return {node.name: snapshot(node.machine) for node in place.cluster.nodes}


def _leaked(place: Place, before: dict[str, leaks.Snapshot]) -> list[str]:
    """Return what is there that was not *before*, once it has had the time to go."""
    # Whoever comes next finds nodes that are Ready, with Architect on them.
    parts.wait_until_ready(place.cluster)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = []
        for node in place.cluster.nodes:
            others = living(place.root_of(node), but=place.namespace)
            more = leaks.leaked(before[node.name], snapshot(node.machine))
            found += [f"{node.name}: {t}" for t in more if not any(name in t for name in others)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(2.0)
