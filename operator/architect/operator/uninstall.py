"""The chart's pre-delete hook: have every node wake its sleeping pods before the daemons go.

See :mod:`architect.kube.uninstall` for what is written where. Run again, it goes on with the
uninstall that is under way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from architect.api import names
from architect.core.durations import render
from architect.core.errors import Retryable, Unavailable
from architect.kube import patches, uninstall
from architect.kube.api import Api
from architect.kube.errors import NotFound
from architect.kube.resources import DAEMON_SETS, NODES, PODS, ObjectRef
from architect.operator.settings import OperatorSettings

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 2.0
"""A wake takes about 0.1 s a pod; a node answers within some of these."""


class Late(Unavailable):
    """Some nodes have not answered in time; the uninstall was called off."""


def run(
    api: Api,
    settings: OperatorSettings,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Announce the uninstall and wait until every node with a daemon has answered.

    Nothing to do without the DaemonSet, or where it has no pods. After the time-out the
    announcement is taken back, so that the daemons work on, and Late is raised; or, by the setting
    ``proceed``, the late nodes are named and left.
    """
    deadline = clock() + settings.uninstall_timeout_seconds
    ref = ObjectRef(resource=DAEMON_SETS, namespace=settings.namespace, name=settings.daemonset)
    daemon_set = _patiently(lambda: api.find(ref), deadline=deadline, clock=clock, sleep=sleep)
    if daemon_set is None:
        log.info("%s is not there: nothing to wait for", ref)
        return
    token = uninstall.requested(daemon_set) or _token(daemon_set)
    _patiently(
        lambda: patches.set_metadata(api, ref, annotations={names.UNINSTALL: token}),
        deadline=deadline,
        clock=clock,
        sleep=sleep,
    )
    said = ""
    while True:
        waiting = _waiting(api, settings, token=token)
        if waiting is not None and not waiting:
            log.info("every node has woken its pods")
            return
        text = "the API server does not answer" if waiting is None else ", ".join(waiting)
        if text != said:
            log.info("waiting for: %s", text)
            said = text
        if clock() >= deadline:
            break
        sleep(POLL_SECONDS)
    late = f"not answered after {render(settings.uninstall_timeout_seconds)}: {text}"
    if settings.uninstall_on_timeout == "proceed":
        log.warning("%s; going on: pods that sleep there wake by the node's keeper alone", late)
        return
    _take_back(api, ref)
    raise Late(
        late,
        hint="the uninstall was called off and the daemons work on; look at the daemon's log there,"
        " or give uninstall.onTimeout=proceed",
    )


def _waiting(api: Api, settings: OperatorSettings, *, token: str) -> tuple[str, ...] | None:
    """Return the nodes that have not answered; None if the API server cannot say."""
    try:
        daemons = api.list(PODS, namespace=settings.namespace, labels=settings.daemon_selector)
        found = {(pod.get("spec") or {}).get("nodeName") for pod in daemons.items}
        nodes = api.list(NODES).items
    except Retryable as error:
        log.warning("%s", error)
        return None
    among = frozenset(name for name in found if name)
    return uninstall.progress(nodes, among=among, token=token).waiting


def _take_back(api: Api, ref: ObjectRef) -> None:
    try:
        patches.set_metadata(api, ref, annotations={names.UNINSTALL: None})
    except (NotFound, Retryable) as error:
        log.warning("the announcement stays: %s", error)


def _patiently(
    action: Callable[[], Any],
    *,
    deadline: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Any:
    """Try until the API server answers or the time is up."""
    while True:
        try:
            return action()
        except Retryable as error:
            if clock() >= deadline:
                raise
            log.warning("%s", error)
            sleep(POLL_SECONDS)


def _token(daemon_set: dict[str, Any]) -> str:
    """Name this uninstall: unlike any earlier one of the same DaemonSet, and a valid label."""
    return f"{daemon_set['metadata']['uid'][:8]}-{time.time_ns() // 1_000_000:x}"
