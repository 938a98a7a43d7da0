"""Pods that are drained from their node and go on on another one: what is done and what is proven.

The drain is kubectl's own, of chosen applications only, so that nothing else of the cluster moves.
Time runs from its start to the first answer of the pod that comes after the drained one, asked at
its own address as soon as the API server tells it.
"""

from __future__ import annotations

import datetime
import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from demo.errors import DemoError, ProtocolError
from demo.results import Result
from demo.story import State, brief, prove
from lab import errors as lab_errors
from lab import waiting
from lab.cluster import Cluster

DRAIN_SECONDS: Final = 180
SUCCESSOR_SECONDS: Final = 180.0
TOLD_SECONDS: Final = 30.0
"""For what the daemons say about a move after it."""
ASK_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.05
CHECKPOINTS: Final = "/apis/architect.dev/v1alpha1/namespaces/{}/checkpoints"
UNREACHABLE: Final = (OSError, http.client.HTTPException, ProtocolError)
"""What a pod that does not serve yet may do to whoever asks it."""


@dataclass(frozen=True, kw_only=True)
class Mover:
    """One pod that moves, and what it can tell about its state."""

    name: str
    """For lines and the table; of a StatefulSet's pod its own name."""
    app: str
    """Value of the label ``app``, which its application alone has."""
    subject: str
    """What it is and holds, for the table."""
    ask: Callable[[str], State]
    """Sends the first request to an address and returns what the answer tells of the state."""
    observe: Callable[[str], State]
    """Returns the whole state."""
    changes: Callable[[State], State] = lambda before: {}
    """What the first request itself changes."""
    service: str = ""
    """The address of its Service, if it alone stands behind it."""
    has_ordinal: bool = False
    """Whether its successor has the same name, and no other pod's may be taken for it."""


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """The pod that came after a drained one."""

    pod: dict[str, Any]
    answer: State
    first_seconds: float
    """From the start of the drain to the first answer at its own address."""
    service_seconds: float | None
    """… and to one through the Service; None without one."""


@dataclass(frozen=True, kw_only=True)
class Drain:
    """Some pods of one node, drained together."""

    cluster: Cluster
    namespace: str
    movers: Sequence[Mover]
    condition: str
    """In what state they are, for the table: ``awake``, ``asleep``."""

    def run(self) -> list[Result]:
        """Drain, and prove that each goes on elsewhere. Raises DemoError."""
        old = {mover.name: self._pod(mover) for mover in self.movers}
        before = {m.name: m.observe(address(old[m.name])) for m in self.movers}
        return self.go(old, before)

    def go(self, old: dict[str, dict[str, Any]], before: dict[str, State]) -> list[Result]:
        """Do as :meth:`run`, of pods whose state is known already."""
        (node,) = {pod["spec"]["nodeName"] for pod in old.values()}
        apps = ",".join(sorted({mover.app for mover in self.movers}))
        words = ("drain", node, f"--pod-selector=app in ({apps})", "--ignore-daemonsets")
        say = self.cluster.progress.say
        for mover in self.movers:
            say(f"{mover.name}: {self.condition} on {node}: {brief(before[mover.name])}")
        say(f"kubectl {' '.join(words)} …")
        with drained(self.cluster, node), futures.ThreadPoolExecutor() as pool:
            started, began = time.monotonic(), time.time()
            command = pool.submit(
                self.cluster.kubectl,
                *("-n", self.namespace, *words, "--delete-emptydir-data"),
                f"--timeout={DRAIN_SECONDS}s",
                timeout_seconds=DRAIN_SECONDS + 30,
            )
            waits = [
                pool.submit(self._first_answer, mover, old[mover.name], started)
                for mover in self.movers
            ]
            arrivals = [each.result() for each in waits]
            command.result()
            say(f"node {node} is drained after {time.monotonic() - started:.1f} s")
        found: list[Result] = []
        for mover, arrival in zip(self.movers, arrivals, strict=True):
            found += self._proven(mover, old[mover.name], before[mover.name], arrival, began)
        return found

    def _pod(self, mover: Mover, *, apart_from: str = "") -> dict[str, Any]:
        """Return the mover's pod. Raises DemoError if there is not exactly one."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=app%3D{mover.app}"
        found = [
            pod
            for pod in self.cluster.api.get(path)["items"]
            if "deletionTimestamp" not in pod["metadata"]
            and pod["metadata"]["uid"] != apart_from
            and (not mover.has_ordinal or pod["metadata"]["name"] == mover.name)
        ]
        if len(found) != 1:
            raise DemoError(f"{mover.name}: {len(found)} pods instead of one")
        return dict(found[0])

    def _first_answer(self, mover: Mover, old: dict[str, Any], started: float) -> Arrival:
        """Ask the successor until it answers; whatever it says is judged later."""
        deadline = started + SUCCESSOR_SECONDS
        while True:
            try:
                pod = self._pod(mover, apart_from=old["metadata"]["uid"])
                where = address(pod)
                answer = mover.ask(where)
                break
            except (*UNREACHABLE, DemoError, lab_errors.LabError) as error:
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"{mover.name}: no answer within {SUCCESSOR_SECONDS:g} s of the drain: "
                        f"{error}\n{self._diagnosis(mover)}"
                    ) from error
                time.sleep(PAUSE_SECONDS)
        first = time.monotonic() - started
        return Arrival(
            pod=pod,
            answer=answer,
            first_seconds=first,
            service_seconds=self._through_service(mover, started) if mover.service else None,
        )

    def _through_service(self, mover: Mover, started: float) -> float:
        """Return when the Service leads to the successor: its predecessor answers no more."""

        def answers() -> bool:
            try:
                mover.observe(mover.service)
            except UNREACHABLE:
                return False
            return True

        waiting.until(
            answers,
            what=f"the Service of {mover.name} leads to the pod that answers already",
            timeout_seconds=SUCCESSOR_SECONDS,
            last_seen=lambda: self._diagnosis(mover),
        )
        return time.monotonic() - started

    def _proven(
        self,
        mover: Mover,
        old: dict[str, Any],
        before: State,
        arrival: Arrival,
        began: float,
    ) -> list[Result]:
        source, target = old["spec"]["nodeName"], arrival.pod["spec"]["nodeName"]
        if source == target:
            raise DemoError(f"{mover.name}: its successor is on {target} too")
        expected = {**before, **mover.changes(before)}
        told = {key: expected.get(key) for key in arrival.answer}
        try:
            prove(mover.name, "first answer after a drain", expected=told, seen=arrival.answer)
            after = mover.observe(mover.service or address(arrival.pod))
            prove(mover.name, "after a drain", expected=expected, seen=after)
        except DemoError as error:
            raise DemoError(f"{error}\n{self._diagnosis(mover)}") from error
        say = self.cluster.progress.say
        through = (
            ""
            if arrival.service_seconds is None
            else f", {arrival.service_seconds:.1f} s through its Service"
        )
        say(
            f"{mover.name}: {source} -> {target}, answered {arrival.first_seconds:.1f} s after the "
            f"drain began{through}, and all is as it was: {brief(after)}"
        )
        checkpoint = self._checkpoint(old)
        say(f"{mover.name}: {story_of(checkpoint, began)}")
        for line in self._events(old, arrival.pod):
            say(f"{mover.name}: {line}")
        conditions = f"{mover.subject}; kubectl drain, {source} -> {target}"
        rows = [("first answer", arrival.first_seconds, "at the new pod's address")]
        if arrival.service_seconds is not None:
            rows.append(("first answer, Service", arrival.service_seconds, "after that one"))
        rows.append(("saved", capture_seconds(checkpoint), "as the Checkpoint says"))
        return [
            Result(
                name=f"{mover.name}: drained {self.condition}, {what}",
                value=round(value, 2),
                unit="s",
                conditions=f"{conditions}; {how}",
            )
            for what, value, how in rows
        ]

    def _checkpoint(self, old: dict[str, Any]) -> dict[str, Any]:
        """Return the Checkpoint by which *old* moved, once it says that it was restored."""
        found: dict[str, Any] = {}

        def is_told() -> bool:
            path = CHECKPOINTS.format(self.namespace)
            for item in self.cluster.api.get(path)["items"]:
                spec = item["spec"]
                if spec["podRef"]["uid"] == old["metadata"]["uid"] and spec["trigger"] != "Sleep":
                    found.update(item)
            return any(c["type"] == "Restored" and c["status"] == "True" for c in _said(found))

        waiting.until(
            is_told,
            what=f"the Checkpoint of {old['metadata']['name']} says that it was restored",
            timeout_seconds=TOLD_SECONDS,
            last_seen=lambda: json.dumps(found.get("status"), indent=1),
        )
        return found

    def _events(self, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
        wanted = {
            (old["metadata"]["uid"], names.EVENT_CAPTURED),
            (new["metadata"]["uid"], names.EVENT_RESTORED),
        }
        for event in self.cluster.api.get(f"/api/v1/namespaces/{self.namespace}/events")["items"]:
            if (event["involvedObject"].get("uid"), event["reason"]) in wanted:
                yield f"event {event['reason']}: {event['message']}"

    def _diagnosis(self, mover: Mover) -> str:
        said = []
        for words in (
            ("get", "pods", "-l", f"app={mover.app}", "-o", "wide"),
            ("get", "checkpoints", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            try:
                said.append(self.cluster.kubectl("-n", self.namespace, *words).strip()[-4000:])
            except lab_errors.LabError as error:
                said.append(str(error))
        return "\n".join(said)


@contextmanager
def drained(cluster: Cluster, node: str) -> Iterator[None]:
    """Let *node* take pods again afterwards, whatever became of its drain."""
    try:
        yield
    finally:
        cluster.kubectl("uncordon", node)


@contextmanager
def only(cluster: Cluster, node: str) -> Iterator[None]:
    """Let new pods come to *node* alone."""
    others = [other.name for other in cluster.nodes if other.name != node]
    try:
        cluster.kubectl("cordon", *others)
        yield
    finally:
        cluster.kubectl("uncordon", *others)


def address(pod: dict[str, Any]) -> str:
    """Return a pod's address. Raises DemoError while it has none."""
    found = pod["status"].get("podIP")
    if not found:
        raise DemoError(f"pod {pod['metadata']['name']} has no address yet")
    return str(found)


def story_of(checkpoint: dict[str, Any], began: float) -> str:
    """Return what a Checkpoint says about a move: how large, how long, and when what was true."""
    status = checkpoint.get("status") or {}
    steps = [
        f"{said['type']} {_since(said['lastTransitionTime'], began):+d} s"
        for said in sorted(_said(checkpoint), key=lambda c: str(c["lastTransitionTime"]))
        if said["status"] == "True"
    ]
    return (
        f"Checkpoint {checkpoint['metadata']['name']}, {status.get('size')}, "
        f"saved in {capture_seconds(checkpoint):.2f} s; " + ", ".join(steps)
    )


def capture_seconds(checkpoint: dict[str, Any]) -> float:
    """Return how long saving the pod took. Raises DemoError if the Checkpoint does not say."""
    said = ((checkpoint.get("status") or {}).get("durations") or {}).get("capture")
    if said is None:
        raise DemoError(f"checkpoint {checkpoint['metadata']['name']} says no duration of capture")
    return float(str(said).removesuffix("s"))


def _said(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (checkpoint.get("status") or {}).get("conditions") or []
    return found


def _since(timestamp: str, began: float) -> int:
    """Return the whole seconds from *began* to what Kubernetes wrote, which has no fractions."""
    at = datetime.datetime.fromisoformat(timestamp).timestamp()
    return round(at - began)
