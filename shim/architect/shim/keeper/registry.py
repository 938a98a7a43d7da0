"""Which pods and managed containers there are on the node, and which of them somebody means.

A container is there from when the runtime registers it, or when a new keeper finds its record, to
when it is told to be removed; a pod from its first container to its last.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from architect.api import names
from architect.api.keeper import Event, PodState
from architect.api.policy import Policy, PolicyError
from architect.core import files
from architect.core.errors import ArchitectError, FormatError, Rejected
from architect.shim import records
from architect.shim.keeper import criu, resuming
from architect.shim.keeper.container import Container
from architect.shim.keeper.hooks import Hooks
from architect.shim.keeper.loop import Loop
from architect.shim.keeper.moving import MovingPod
from architect.shim.keeper.network import NodeNetwork
from architect.shim.keeper.pod import Emit
from architect.shim.keeper.volumes import Volumes
from architect.shim.records import Record

log = logging.getLogger(__name__)

SHORT_ID: Final = 12
"""Length of an id as engines shorten it; less is not enough to name a container."""


class Registry:
    """Every pod of the node that has a managed container."""

    def __init__(
        self,
        *,
        loop: Loop,
        server: criu.Server,
        network: NodeNetwork,
        hooks: Hooks,
        volumes: Volumes,
        emit: Emit,
    ) -> None:
        self._loop = loop
        self._server = server
        self._network = network
        self._hooks = hooks
        self._volumes = volumes
        self._emit = emit
        self._pods: dict[str, MovingPod] = {}

    # Who is there

    def everyone(self) -> list[MovingPod]:
        """Return all pods."""
        return list(self._pods.values())

    def get(self, uid: str) -> MovingPod | None:
        """Return the pod *uid*; None if there is none."""
        return self._pods.get(uid)

    def find(self, wanted: str) -> MovingPod:
        """Return the pod that *wanted* names. Raises Rejected if there is none, or several.

        By uid, namespace/name, name, or the id of a container; that of a stand-alone one may be
        short.
        """
        if (found := self._pods.get(wanted)) is not None:
            return found
        same = [
            p
            for p in self._pods.values()
            if p.name and wanted in (f"{p.namespace}/{p.name}", p.name)
        ]
        if (by_container := self.pod_of(wanted)) is not None:
            same.append(by_container)
        if not same and len(wanted) >= SHORT_ID:
            # As Podman and Docker show the id of a stand-alone container.
            same = [p for p in self._pods.values() if not p.name and p.uid.startswith(wanted)]
        if len(same) == 1:
            return same[0]
        if same:
            which = ", ".join(map(str, same))
            raise Rejected(f"pod {wanted!r:.80} is ambiguous: {which}", reason="Ambiguous")
        raise Rejected(
            f"no managed pod {wanted!r:.80} on this node",
            reason="UnknownPod",
            hint="`architect-runtime list` shows them",
        )

    def pod_of(self, container: str) -> MovingPod | None:
        """Return the pod of the container with that id; None if it is not managed."""
        for pod in self._pods.values():
            if any(each.record.id == container for each in pod.containers.values()):
                return pod
        return None

    def member(self, container: str) -> tuple[MovingPod, Container]:
        """Return the container with that id, and its pod. Raises Rejected."""
        pod = self.pod_of(container)
        if pod is None:
            raise Rejected(f"no managed container {container!r:.80}", reason="UnknownContainer")
        (found,) = [c for c in pod.containers.values() if c.record.id == container]
        return pod, found

    # Who comes and goes

    def register(self, container: str, *, is_new: bool = False) -> MovingPod:
        """Take in the container whose record is on disk, and return its pod.

        *is_new*: it is being created, so that no image there is its own. Repeated it does nothing.
        Raises Rejected, FormatError, NodeError.
        """
        record, policy = _record(container)
        rule = policy.containers.get(record.container)
        if rule is None:
            raise FormatError(
                f"record of container {container:.12}: its policy has no {record.container!r:.80}"
            )
        # First: a name that is a path leaves no pod behind.
        made = Container(record, rule)
        self._forget_unheard(record)
        pod = self._pods.get(record.pod)
        if pod is None:
            pod = self._pods[record.pod] = self._new(record, policy)
        if (old := pod.containers.get(record.container)) is not None:
            if old.record.id == container:
                return pod
            old.close()
        pod.policy = policy
        pod.refused, pod.found = None, []
        pod.signalled.discard(record.container)
        pod.containers[record.container] = made
        if is_new:
            made.leave_earlier(has_failed=pod.state is PodState.FAILED)
        pod.network.add(record.netns, record.container, rule)
        self._emit(Event.REGISTERED, {"pod": pod.uid, "at": time.time(), "container": container})
        return pod

    def _new(self, record: Record, policy: Policy) -> MovingPod:
        pod = MovingPod(
            uid=record.pod,
            namespace=record.namespace,
            name=record.pod_name,
            policy=policy,
            loop=self._loop,
            server=self._server,
            network=self._network.pod(record.pod),
            emit=self._emit,
        )
        pod.hooks, pod.volumes = self._hooks, self._volumes
        return pod

    def _forget_unheard(self, record: Record) -> None:
        """Let go of an earlier container with the id of *record*, of whose end nobody told."""
        pod = self._pods.get(record.pod)
        old = None if pod is None else pod.containers.get(record.container)
        if pod is None or old is None or old.record.id != record.id or old.record == record:
            return
        if old.find_init() is None:
            self._remove(pod, record.container)

    def removed(self, container: str) -> None:
        """Let go of the container with that id, known or not, and of its record."""
        for pod in self.everyone():
            for name, each in list(pod.containers.items()):
                if each.record.id == container:
                    self._remove(pod, name)
        records.remove(container)
        # An engine that ends kills the runtime where it stands.
        files.remove_leftovers(names.CONTAINER_RECORDS)

    def _remove(self, pod: MovingPod, name: str) -> None:
        container = pod.containers.pop(name)
        container.close()
        self._emit(
            Event.REMOVED,
            {"pod": pod.uid, "at": time.time(), "container": container.record.id, "name": name},
        )
        if not pod.containers:
            self._drop(pod)

    def forget(self, uid: str) -> None:
        """Let go of the pod *uid*, known or not. Raises Rejected while a container of it lives."""
        pod = self._pods.get(uid)
        if pod is None:
            return
        if any(c.find_init() is not None for c in pod.containers.values()):
            raise Rejected(f"pod {pod} still has running containers", reason="StillRunning")
        self._drop(pod)

    def _drop(self, pod: MovingPod) -> None:
        pod.close()
        self._pods.pop(pod.uid, None)

    def recover(self) -> None:
        """Take in every container that has a record, and pick up each pod where it was."""
        for identity in records.identities():
            try:
                self.register(identity)
            except (ArchitectError, OSError) as error:
                log.error("container %.12s is not picked up: %s", identity, error)
        for pod in self.everyone():
            pod.network.is_between_keepers = True
            pod.recover(self._loop.spawn(resuming.resume(pod), name=f"recover {pod}"))


def _record(container: str) -> tuple[Record, Policy]:
    try:
        record = records.read(container)
    except FileNotFoundError as error:
        raise Rejected(
            f"container {container!r:.80} has no record in {names.CONTAINER_RECORDS}",
            reason="UnknownContainer",
        ) from error
    try:
        return record, Policy.from_dict(record.policy, is_followed=True)
    except PolicyError as error:
        raise FormatError(f"record of container {container:.12}: {error}") from error
