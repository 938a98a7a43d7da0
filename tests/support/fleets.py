"""Pods of many sizes on one node, whose memory is known, with clients that visit them all the time.

What each pod must still have after a move is what it said before: its identity, the digest of its
memory, and a counter that goes on. Who comes without that has started anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from architect.api import names
from lab.cluster import Cluster
from support import moves
from support.moves import Pod
from support.workloads import (
    Workload,
    apply,
    code,
    eventually,
    memory_server,
    pod_template,
    service,
)

READY_SECONDS: Final = 600
"""For 4 GiB of random bytes on two cores that do other things, too."""
VISITOR: Final = Path(__file__).parent / "visitor.py"
PAUSE_SECONDS: Final = 0.5
DIGEST_SECONDS: Final = 120


@dataclass(frozen=True, kw_only=True)
class Squad:
    """Pods that are alike, of one owner."""

    name: str
    mebibytes: int
    """Of memory, each."""
    replicas: int = 1
    kind: str = "Deployment"
    fill: str = "random"
    """Or ``digits``, which compress to half."""
    annotations: Mapping[str, str] = field(default_factory=dict)


TWENTY: Final = (
    Squad(name="model", mebibytes=2048),
    Squad(name="ledger", mebibytes=576, kind="StatefulSet", fill="digits"),
    Squad(name="index", mebibytes=256, replicas=2),
    Squad(name="session", mebibytes=128, replicas=4, fill="digits"),
    Squad(name="shard", mebibytes=64, replicas=4, kind="StatefulSet"),
    Squad(name="worker", mebibytes=32, replicas=4),
    Squad(name="edge", mebibytes=16, replicas=4, fill="digits"),
)
"""Twenty pods of 16 MiB to 2 GiB, 4 GiB in all."""

FOUR: Final = (
    Squad(name="large", mebibytes=64),
    Squad(name="pair", mebibytes=16, replicas=2, kind="StatefulSet"),
    Squad(name="text", mebibytes=32, fill="digits"),
)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a pod said of itself."""

    squad: str
    pod: Pod
    identity: str
    digest: str
    count: int

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.pod["metadata"]["uid"])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the pods of before."""

    went_on: Mapping[str, Known]
    """The uid of the pod of before, to the one that has its memory."""
    lost: Sequence[Known]
    """Pods of before whose memory nobody has."""
    fresh: Sequence[Known]
    """Pods that began with memory of their own."""


class Fleet:
    """Squads that run in a namespace."""

    def __init__(self, cluster: Cluster, namespace: str, squads: Sequence[Squad]) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.squads = tuple(squads)

    def app(self, squad: Squad) -> Workload:
        return Workload(cluster=self.cluster, namespace=self.namespace, name=squad.name)

    @property
    def any_app(self) -> Workload:
        """One of the workloads, for what is asked of the namespace."""
        return self.app(self.squads[0])

    def create(self, node: str) -> None:
        """Make the pods, all on *node*, and return once they are ready."""
        with moves.alone(self.any_app, node):
            for squad in self.squads:
                apply(self.app(squad), code(squad.name), service(squad.name), workload(squad))
            here = {pod["spec"]["nodeName"] for pods in self.ready().values() for pod in pods}
        assert here == {node}

    def ready(
        self, *, apart_from: Sequence[Pod] = (), seconds: float = READY_SECONDS
    ) -> dict[str, list[Pod]]:
        """Return each squad's pods once all are ready, and none is of *apart_from*."""
        return {
            squad.name: moves.ready(
                self.app(squad), squad.replicas, apart_from=apart_from, seconds=seconds
            )
            for squad in self.squads
        }

    def known(
        self, *, apart_from: Sequence[Pod] = (), seconds: float = READY_SECONDS
    ) -> list[Known]:
        """Return what each pod says of itself, once all are ready."""
        found = []
        for squad in self.squads:
            app = self.app(squad)
            for pod in self.ready(apart_from=apart_from, seconds=seconds)[squad.name]:
                said = moves.answer(app, pod, "/digest", seconds=DIGEST_SECONDS)
                found.append(
                    Known(
                        squad=squad.name,
                        pod=pod,
                        identity=str(said["identity"]),
                        digest=str(said["digest"]),
                        count=int(said["count"]),
                    )
                )
        return found

    def wait_for_services(self) -> None:
        """Return once each Service leads somewhere."""
        for squad in self.squads:
            self.app(squad).get_when_reachable()

    @contextmanager
    def visited(self) -> Iterator[Visits]:
        """Have clients visit each squad's Service for the ``with`` block."""
        targets = [f"{s.name}={self.app(s).service_ip()}:8080" for s in self.squads]
        process = subprocess.Popen(
            self.cluster.plane.machine.in_network(
                sys.executable, "-I", "-S", VISITOR, str(PAUSE_SECONDS), *targets
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Visits(process)
        finally:
            process.kill()
            process.communicate()

    def checkpoints(self) -> dict[str, dict[str, Any]]:
        """Return the Checkpoints by which pods move, by the uid of the pod that is saved."""
        items = self.any_app.get_json("checkpoints.architect.dev")["items"]
        return {c["spec"]["podRef"]["uid"]: c for c in items if c["spec"]["trigger"] != "Sleep"}

    def conditions(self, kind: str) -> dict[str, tuple[str, str]]:
        """Return status and reason of a condition of each Checkpoint that has it, by pod."""
        return {
            uid: (condition["status"], condition["reason"])
            for uid, found in self.checkpoints().items()
            for condition in found.get("status", {}).get("conditions", [])
            if condition["type"] == kind
        }

    def captured(self) -> set[str]:
        """Return the uids of the pods that are saved, wherever."""
        return {uid for uid, said in self.conditions("Captured").items() if said[0] == "True"}

    def safe(self) -> set[str]:
        """Return the uids of the pods that need their node no more.

        They lie in the object store; or did, and went on elsewhere.
        """
        return {
            uid
            for kind in ("Stored", "Restored")
            for uid, said in self.conditions(kind).items()
            if said[0] == "True"
        }

    def wait_until_safe(self, pods: Sequence[Known], *, seconds: float) -> None:
        """Return once none of *pods* needs its node any more."""
        wanted = {pod.uid: pod.name for pod in pods}

        def missing() -> list[str]:
            there = self.safe()
            return [name for uid, name in wanted.items() if uid not in there]

        eventually(
            lambda: not missing(), what=f"all of {len(wanted)} pods are safe", seconds=seconds
        )

    def remove(self) -> None:
        """Ask for the removal of all of it."""
        for squad in self.squads:
            self.app(squad).kubectl(
                *("delete", squad.kind.lower(), squad.name, "--ignore-not-found"), "--wait=false"
            )


@dataclass(frozen=True)
class Visits:
    """The clients that run."""

    process: subprocess.Popen[str]

    def told(self) -> dict[str, dict[str, Any]]:
        """Return what the visits of each squad have shown until now."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("told\n")
        self.process.stdin.flush()
        answer: dict[str, dict[str, Any]] = json.loads(self.process.stdout.readline())
        return answer

    def check(self) -> None:
        """Fail if nobody was served, or somebody has forgotten a visit."""
        for name, said in self.told().items():
            assert said["answered"] > 0, (name, said)
            assert said["went_back"] == [], (name, said)

    def are_served(self, *, within: float = 5.0) -> bool:
        """Whether each squad has answered a moment ago."""
        return all(said["silent_now"] < within for said in self.told().values())


def compare(before: Sequence[Known], after: Sequence[Known]) -> Outcome:
    """Say who went on with its memory. Fails where one has half of it."""
    now = {known.identity: known for known in after}
    assert len(now) == len(after), "each identity is had by one pod at most"
    went_on = {}
    for old in before:
        new = now.get(old.identity)
        if new is None:
            continue
        assert new.digest == old.digest, f"{new.name} has other memory than {old.name}"
        assert new.count > old.count, f"{new.name} has forgotten what {old.name} counted"
        assert new.squad == old.squad
        went_on[old.uid] = new
    kept = {known.identity for known in went_on.values()}
    return Outcome(
        went_on=went_on,
        lost=[old for old in before if old.identity not in kept],
        fresh=[new for new in after if new.identity not in kept],
    )


def workload(squad: Squad) -> dict[str, Any]:
    """Return the owner of a squad's pods."""
    container = memory_server(
        mebibytes=squad.mebibytes, env=[{"name": "FILL", "value": squad.fill}]
    )
    annotations = {names.IDLE: "1h", **squad.annotations}
    spec: dict[str, Any] = {
        "replicas": squad.replicas,
        "selector": {"matchLabels": {"app": squad.name}},
        "template": pod_template(squad.name, [container], annotations=annotations),
    }
    if squad.kind == "StatefulSet":
        spec |= {"serviceName": squad.name, "podManagementPolicy": "Parallel"}
    return {
        "apiVersion": "apps/v1",
        "kind": squad.kind,
        "metadata": {"name": squad.name},
        "spec": spec,
    }


@contextmanager
def running(
    cluster: Cluster, namespace: str, squads: Sequence[Squad], *, node: str
) -> Iterator[Fleet]:
    """Run *squads* on *node* for the ``with`` block."""
    made = Fleet(cluster, namespace, squads)
    try:
        made.create(node)
        made.wait_for_services()
        yield made
    finally:
        made.remove()
