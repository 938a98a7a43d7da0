"""Who leaves this node and why, and whether anybody goes on with it: asked before it is saved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Final, TypeVar

from architect.api.policy import Storage
from architect.core import identity
from architect.core.errors import Rejected, Retryable
from architect.core.identity import Identity
from architect.daemon import succession
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.moves import objects, views
from architect.daemon.moves.announcing import Announcing
from architect.daemon.moves.depot import Depot
from architect.daemon.moves.judging import Judging
from architect.daemon.moves.lingering import Stay
from architect.daemon.patience import patiently
from architect.daemon.pods import ManagedPod
from architect.daemon.pods import read as read_pod
from architect.daemon.store import PodStore
from architect.kube import resources
from architect.kube.api import Api, JsonObject
from architect.kube.checkpoints import CheckpointSpec, Trigger
from architect.kube.resources import ObjectRef

log = logging.getLogger(__name__)

API_SECONDS: Final = 10.0
"""How long an API server that is away is waited for before anything is done; kubelet's grace
period begins after that."""
API_STEP_SECONDS: Final = 0.2
URGENT_SECONDS: Final = 1.5
"""How long it is waited for in the last minutes of a node, which are worth more."""
MAX_ASKERS: Final = 256
"""At once: kubelet's limit is 110 pods a node."""
STAYS: Final = "Stays"
"""The reason of an outcome that means nothing for the pod's end."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a pod that leaves."""

    is_captured: bool
    reason: str
    message: str = ""
    is_final: bool = True
    """False: nothing says yet that the pod leaves for good, and then this may be another."""
    stays: Stay | None = None
    """Why its containers are not ended at once."""


@dataclass(frozen=True, kw_only=True)
class Leaver:
    """A pod that leaves, as it is judged."""

    ref: ObjectRef
    value: JsonObject
    """As owners are to see it: one that nobody deletes is disrupted."""
    pod: ManagedPod
    who: Identity | None
    trigger: Trigger
    storage: Storage
    """Where it may lie."""
    is_evacuated: bool
    """Its machine ends at an announced time: nobody is waited for."""

    @property
    def spec(self) -> CheckpointSpec:
        """What its Checkpoint is to say."""
        return CheckpointSpec(
            pod=self.ref,
            trigger=self.trigger,
            template_hash="" if self.who is None else self.who.template_hash,
            template_parts=identity.parts(self.value),
            containers=self.pod.managed,
            owner=None if self.who is None else objects.owner_of(self.who),
            storage=self.storage,
        )


class Leavers:
    """Of one node. Safe to use from several threads, one pod a thread."""

    def __init__(
        self,
        api: Api,
        *,
        keeper: KeeperLink,
        depot: Depot,
        pods: PodStore,
        announcing: Announcing,
        hand_on: Callable[[ObjectRef], bool],
        is_shutting_down: Callable[[], bool],
        default_storage: Storage,
    ) -> None:
        self._api = api
        self._keeper = keeper
        self._depot = depot
        self._pods = pods
        self._announcing = announcing
        self._hand_on = hand_on
        self._is_shutting_down = is_shutting_down
        self._default_storage = default_storage
        self._judging = Judging(api)
        self._askers = ThreadPoolExecutor(max_workers=MAX_ASKERS, thread_name_prefix="asks")

    def close(self) -> None:
        """Ask nobody any more."""
        self._askers.shutdown(wait=False, cancel_futures=True)

    def look(self, ref: ObjectRef, *, is_evacuated: bool) -> Leaver | Outcome:
        """Return the pod as it leaves, or why it is not to be looked at. Raises ArchitectError."""
        # As the watch has it, where nobody can be waited for, and where it tells of the deletion:
        # why a pod is deleted is written before that.
        value = self._pods.raw(ref.uid)
        if value is not None and not (is_evacuated or value["metadata"].get("deletionTimestamp")):
            value = None
        if value is None:
            value = _asked(lambda: self._api.find(ref))
        if value is None:
            return Outcome(is_captured=False, reason="PodGone")
        pod = read_pod(value)
        if pod is None:
            return Outcome(is_captured=False, reason="Unmanaged")
        if not pod.is_terminating and (
            pod.is_terminal or not (is_evacuated or _asked(self._is_shutting_down))
        ):
            return Outcome(is_captured=False, reason=STAYS, is_final=False)
        if self._depot.runs_again(ref.uid):
            text = "it was saved before its node ended, and has run again since"
            return Outcome(is_captured=False, reason="RunsAgain", message=text)
        if self._depot.departure(ref.uid) is not None or self._depot.has_left(ref.uid):
            # By an earlier daemon; upkeep sees to what it left undone.
            return Outcome(is_captured=True, reason="Captured")
        if pod.is_terminating:
            trigger = succession.trigger_of(value)
        else:
            trigger = Trigger.SPOT_INTERRUPTION if is_evacuated else Trigger.NODE_SHUTDOWN
            value = succession.shut_down(value)
        return Leaver(
            ref=resources.pod(pod.namespace, pod.name, uid=pod.uid),
            value=value,
            pod=pod,
            who=identity.identity_of(value),
            trigger=trigger,
            storage=pod.policy.storage or self._default_storage,
            is_evacuated=is_evacuated,
        )

    def settle(self, leaver: Leaver) -> Outcome | None:
        """Ask whether anybody wants the pod's memory, and announce it; return why nobody does.

        Where the node ends soon nobody is waited for: what was not heard in time is taken to be
        yes, since the pod ends in any case, and is announced as soon as somebody listens. Raises
        ArchitectError.
        """
        pod = leaver.pod
        if self._hand_on(leaver.ref) or not self._has_begun(leaver.value):
            return _unwanted(leaver, "NotBegun", "it has not begun yet")
        if not leaver.is_evacuated:
            judged = _asked(lambda: self._judged(leaver))
            if judged is None:
                _asked(lambda: self._announcing.announce(leaver.spec))
            return judged
        if leaver.who is None:
            return _unwanted(leaver, "NoController", "nobody replaces it")
        # Before anybody is asked: it must not seem announced if this daemon ends.
        self._depot.note_unannounced(pod.uid, leaver.trigger.value)
        asked: Future[Outcome | None] = self._askers.submit(self._judge_and_announce, leaver)
        try:
            return asked.result(URGENT_SECONDS)
        except (NotYet, Retryable) as error:
            log.warning("%s is saved before anybody was heard: %r", pod.full_name, error)
            return None

    def _judge_and_announce(self, leaver: Leaver) -> Outcome | None:
        judged = self._judged(leaver)
        if judged is None:
            self._announcing.announce(leaver.spec)
        return judged

    def _judged(self, leaver: Leaver) -> Outcome | None:
        expected = self._judging.judge(leaver.value, leaver.pod, leaver.who, leaver.trigger)
        return (
            None if expected.is_expected else _unwanted(leaver, expected.reason, expected.message)
        )

    def _has_begun(self, value: JsonObject) -> bool:
        """Whether anything of the pod has run: of one that has not there is nothing to save.

        Its Checkpoint would only hide that of the pod before it.
        """
        names = [container["name"] for container in value["spec"]["containers"]]
        if views.has_run(value, containers=names):
            return True
        try:
            self._keeper.status(value["metadata"]["uid"])
        except Rejected:
            return False
        except Retryable:
            return True  # what is not known is tried
        return True


def _unwanted(leaver: Leaver, reason: str, message: str) -> Outcome:
    log.info("%s gets its signal: %s: %s", leaver.pod.full_name, reason, message)
    return Outcome(
        is_captured=False,
        reason=reason,
        message=message,
        is_final=leaver.pod.is_terminating,
    )


def _asked(ask: Callable[[], T]) -> T:
    """Return what *ask* returns, also while the API is away for a moment. Raises what it raises."""
    return patiently(ask, seconds=API_SECONDS, step_seconds=API_STEP_SECONDS)
