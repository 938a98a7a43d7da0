"""Look at everything and do what is to be done: what events were missed is found here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from architect.api import names
from architect.core.errors import FormatError, Rejected, Retryable
from architect.kube import checkpoints
from architect.kube.api import Api
from architect.kube.errors import Conflict, NotFound
from architect.kube.resources import CHECKPOINTS, NODES, PODS, ObjectRef
from architect.operator import abandoned, holdings, metrics, plan
from architect.operator.apply import Applier
from architect.operator.concerned import Concerned, uids_of
from architect.operator.metrics import Metrics
from architect.operator.registrar import Registrar
from architect.operator.unmanaged import UnmanagedPods

log = logging.getLogger(__name__)

JsonObject = dict[str, Any]


class Sweeper:
    """One look after the other; what the last one suspected is remembered for the next."""

    def __init__(
        self,
        api: Api,
        applier: Applier,
        numbers: Metrics,
        unmanaged: UnmanagedPods,
        registrar: Registrar,
        *,
        daemon_namespace: str,
        daemon_selector: str,
    ) -> None:
        self._api = api
        self._applier = applier
        self._metrics = numbers
        self._unmanaged = unmanaged
        self._registrar = registrar
        self._daemon_namespace = daemon_namespace
        self._daemon_selector = daemon_selector
        self._concerned = Concerned()
        self._suspects: frozenset[str] = frozenset()

    def sweep(self) -> bool:
        """Look once and return whether everything could be read."""
        started = time.monotonic()
        try:
            pods = self._api.list(PODS, is_cached=True).items
            self._sweep_pods(pods)
            self._sweep_checkpoints(pods)
            self._registrar.sweep()
            self._sweep_nodes(pods)
        except (Rejected, Retryable) as error:
            log.warning("sweep is incomplete: %s", error)
            self._metrics.add(metrics.SWEEPS, result="incomplete")
            return False
        self._metrics.add(metrics.SWEEPS, result="complete")
        self._metrics.set(metrics.SWEEP_SECONDS, time.monotonic() - started)
        self._metrics.set(metrics.SWEPT_AT, time.time())
        return True

    def changed(self, value: JsonObject) -> None:
        """Learn of a checkpoint as it is now, and decide about it."""
        try:
            self._concerned.learn(value)
        except FormatError as error:
            log.warning("checkpoint %s: %s", value["metadata"].get("name"), error)
        else:
            self.collect(value)

    def deleted(self, value: JsonObject) -> None:
        """Learn that a checkpoint was deleted."""
        self._concerned.forget((ObjectRef.of(CHECKPOINTS, value),))

    def collect(self, value: JsonObject) -> None:
        """Decide about one checkpoint, by a read of its pod that is not from a cache."""
        try:
            ref = plan.pod_it_goes_with(value)
            if ref is None:
                return
            pod = self._api.find(ObjectRef(resource=PODS, namespace=ref.namespace, name=ref.name))
            action = plan.for_checkpoint(value, pod=pod)
        except (FormatError, Rejected, Retryable) as error:
            log.warning("checkpoint %s: %s", value["metadata"].get("name"), error)
            return
        if action is not None:
            self._applier.apply(action)

    def pod_deleted(self, pod: JsonObject) -> None:
        """Decide about the checkpoint of a pod that has just gone, and about what it claimed."""
        for ref in self._concerned.by(pod["metadata"]["uid"]):
            try:
                value = self._api.find(ref)
            except (Rejected, Retryable) as error:
                log.warning("what %s left is not looked at: %s", ObjectRef.of(PODS, pod), error)
                return
            if value is not None:
                self.collect(value)
                self._free(value)

    def node_lost(self, name: str) -> None:
        """Learn that a node is gone, or out of service: what its pods claimed may be given back.

        Those that were gone before it: of the others their own end tells.
        """
        for ref in self._concerned.claimed_on(name):
            try:
                value = self._api.find(ref)
            except (Rejected, Retryable) as error:
                log.warning("what pods of node %s claimed is not looked at: %s", name, error)
                return
            if value is not None:
                self._free(value)

    def _free(self, value: JsonObject) -> None:
        """Give a claim back if who made it is lost, by reads that are not from a cache."""
        claimant = abandoned.claimant_of(value)
        if claimant is None:
            return
        namespace = value["metadata"]["namespace"]
        try:
            pod = self._api.find(ObjectRef(resource=PODS, namespace=namespace, name=claimant.name))
            if abandoned.may_go_on(claimant, pod=pod):
                return
            node = self._api.find(ObjectRef(resource=NODES, name=claimant.node))
            if not abandoned.is_lost(claimant, pod=pod, node=node):
                return
            said, fields = abandoned.freed(value, claimant)
            checkpoints.set_status(self._api, value, said, fields=fields)
        except (Conflict, NotFound):
            return  # it was changed meanwhile: decided anew at its next event
        except (Rejected, Retryable) as error:
            ref = ObjectRef.of(CHECKPOINTS, value)
            log.warning("%s: the claim of pod %s stays: %s", ref, claimant.name, error)
            return
        log.info("%s: %s: %s", ObjectRef.of(CHECKPOINTS, value), said.reason, said.message)

    def _sweep_pods(self, pods: tuple[JsonObject, ...]) -> None:
        self._unmanaged.keep_only({pod["metadata"]["uid"] for pod in pods})
        for pod in pods:
            self._unmanaged.look_at(pod)

    def _sweep_checkpoints(self, pods: Iterable[JsonObject]) -> None:
        """Look at those whose pod is not among *pods*, which may lag behind: there it is asked."""
        known = self._concerned.all()
        values = self._api.list(CHECKPOINTS).items
        self._concerned.forget(known - {ObjectRef.of(CHECKPOINTS, value) for value in values})
        self._metrics.set(metrics.CHECKPOINTS, len(values))
        metrics.tell_held(self._metrics, values, holdings.ASLEEP, holdings.MOVING)
        running = {pod["metadata"]["uid"] for pod in pods if not plan.is_finished(pod)}
        for value in values:
            try:
                is_in_doubt = not uids_of(value) <= running
            except FormatError as error:
                log.warning("checkpoint %s: %s", value["metadata"].get("name"), error)
                continue
            if is_in_doubt:
                self.collect(value)
                self._free(value)

    def _sweep_nodes(self, pods: tuple[JsonObject, ...]) -> None:
        daemons = self._api.list(
            PODS, namespace=self._daemon_namespace, labels=self._daemon_selector
        ).items
        nodes = {
            node["metadata"]["name"]: node
            for label in names.NODE_LABELS
            for node in self._api.list(NODES, labels=f"{label}=true").items
        }
        view = plan.for_nodes(nodes.values(), daemons=daemons, pods=pods, suspects=self._suspects)
        self._suspects = view.unserved
        self._metrics.set(metrics.NODES, view.labelled - len(view.unserved), served="true")
        self._metrics.set(metrics.NODES, len(view.unserved), served="false")
        for action in view.actions:
            self._applier.apply(action)
