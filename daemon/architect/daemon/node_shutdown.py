"""Whether this node shuts down, so that kubelet ends its pods without deleting them.

Kubelet's graceful node shutdown (Kubernetes 1.36, ``pkg/kubelet/nodeshutdown``) holds a delay lock
of logind. At logind's signal it writes the node's condition *and beside that* begins to end pods,
by priority. Of a pod itself nothing tells why, before all its containers have ended: only then its
phase is Failed. So the node is asked when a container of a pod that nobody has deleted is to get a
signal, and a container that is restarted must not wait long for the answer.

Logind knows before kubelet does, and is asked first. It does not know that kubelet goes on ending
pods when a shutdown was taken back, nor that of a kubelet in a container with another logind: the
condition tells that.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from architect.core import podspec
from architect.core.errors import FormatError, NodeError
from architect.core.podspec import Object
from architect.daemon import logind
from architect.daemon.host import Host
from architect.daemon.logind import Shutdown
from architect.daemon.shared import SharedReads
from architect.kube.api import Api
from architect.kube.resources import NODES, ObjectRef

log = logging.getLogger(__name__)

KUBELET: Final = "kubelet"
"""How kubelet calls itself as the holder of its lock (``nodeshutdown/systemd``)."""

MESSAGE: Final = "node is shutting down"
"""In the message of the node's condition Ready, alone or among other troubles."""

CONDITION_SECONDS: Final = 1.0
"""How long the condition is waited for where logind gives no answer: kubelet writes it while it
begins to end pods."""

APART_SECONDS: Final = 0.1


def is_delayed_by_kubelet(shutdown: Shutdown) -> bool:
    """Whether a shutdown waits for kubelet, which then ends the node's pods.

    One that does not wait for it leaves the pods to systemd, and to the node when it is back: they
    stay the same pods, and get no successors.
    """
    return shutdown.is_prepared and KUBELET in shutdown.delayed_by


def is_told_by(node: Object) -> bool:
    """Whether kubelet says in its Node that it shuts down. Raises FormatError."""
    status = podspec.fields(node.get("status"), "status")
    return any(
        condition.get("type") == "Ready"
        and condition.get("status") != "True"
        and MESSAGE in str(condition.get("message") or "")
        for condition in podspec.items(status.get("conditions"), "status.conditions")
    )


class NodeShutdown:
    """Of this node. Safe to use from several threads."""

    def __init__(self, api: Api, *, node: str, host: Host) -> None:
        self._api = api
        self._where = ObjectRef(resource=NODES, name=node)
        self._host = host
        self._reads = SharedReads[bool](apart_seconds=APART_SECONDS)
        self.was_under_way = False
        """What the last look found."""

    def is_under_way(self) -> bool:
        """Whether kubelet ends this node's pods now. Raises ArchitectError if nobody can tell."""
        return self._reads.read("", self._look)

    def _look(self) -> bool:
        found = self._find_out()
        if found != self.was_under_way:
            log.info("the node %s", "shuts down" if found else "does not shut down any more")
        self.was_under_way = found
        return found

    def _find_out(self) -> bool:
        patience = 0.0
        try:
            found = logind.shutdown(self._host)
            if found is not None and is_delayed_by_kubelet(found):
                return True
        except (NodeError, FormatError) as error:
            log.warning("logind does not tell whether the node shuts down: %s", error)
            patience = CONDITION_SECONDS
        deadline = time.monotonic() + patience
        while not self._is_told():
            if time.monotonic() >= deadline:
                return False
            time.sleep(APART_SECONDS)
        return True

    def _is_told(self) -> bool:
        node = self._api.find(self._where)
        return node is not None and is_told_by(node)
