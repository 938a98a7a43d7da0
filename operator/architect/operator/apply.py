"""Carry out what :mod:`architect.operator.plan` and its kin decided."""

from __future__ import annotations

import logging
from typing import Final

from architect.api import names
from architect.core.errors import Rejected, Retryable
from architect.kube import checkpoints, patches
from architect.kube.api import Api
from architect.kube.conditions import Condition, Status
from architect.kube.errors import Conflict, NotFound
from architect.kube.events import EventType, Note, Recorder
from architect.kube.notes import Tell
from architect.kube.resources import ObjectRef
from architect.operator import metrics, plan
from architect.operator.metrics import Metrics

log = logging.getLogger(__name__)

DISRUPTION: Final = "DisruptionTarget"
DISRUPTED_BY_US: Final = "DeletionByArchitect"
"""In the form that Kubernetes' own reasons have."""

MAX_WHY_CHARS: Final = 1024

REMEMBERED_REPORTS: Final = 65536
"""About 10 MB of text; a cluster with more wrong pods than that hears of some of them again."""


class Applier:
    """Carries out actions; safe to use from several threads.

    Whatever goes wrong is said and left to the next sweep: no action here is the last chance.
    """

    def __init__(self, api: Api, recorder: Recorder, numbers: Metrics, *, tell: Tell) -> None:
        self._api = api
        self._recorder = recorder
        self._tell = tell
        """Of what happens once: no sweep would say it again."""
        self._metrics = numbers
        self._reported: dict[tuple[str, str, str], None] = {}

    def apply(self, action: plan.Action) -> bool:
        """Carry out one action and return whether it is done (or was before)."""
        name = type(action).__name__
        if isinstance(action, plan.Report) and _key(action) in self._reported:
            return True
        try:
            done = self._do(action)
        except NotFound:
            done = True  # what it was about is gone
        except Conflict as error:
            log.info("%s: %s; decided anew at its next event", name, error)
            done = False
        except (Rejected, Retryable) as error:
            log.warning("%s: %s", name, error)
            self._metrics.add(metrics.ACTIONS, action=name, result="failed")
            return False
        self._metrics.add(metrics.ACTIONS, action=name, result="done" if done else "late")
        return done

    def _do(self, action: plan.Action) -> bool:
        match action:
            case plan.Collect(checkpoint=ref, resource_version=version, why=why):
                self._api.delete(ref, resource_version=version)
                log.info("deleted %s: %s", ref, why)
            case plan.Expire(persistent=ref, resource_version=version, why=why):
                self._api.delete(ref, resource_version=version)
                log.info("deleted %s: %s", ref, why)
                # Of an object that is gone; its namespace keeps it for an hour.
                self._tell(
                    ref, Note(reason=names.EVENT_EXPIRED, text=f"removed: {why}", action="Expire")
                )
            case plan.Declare(value=value, conditions=said, fields=fields):
                checkpoints.set_status(self._api, value, *said, fields=fields)
            case plan.Report():
                return self._report(action)
            case plan.Unlabel(node=ref, labels=labels, why=why):
                patches.set_metadata(self._api, ref, labels=dict.fromkeys(labels))
                log.warning("took label %s off %s: %s", ", ".join(labels), ref, why)
            case plan.Mark():
                self._mark(action)
            case plan.Dismiss(pod=ref, is_saved=is_saved, why=why):
                self._disrupt(ref, why)
                self._api.delete(ref)
                log.info("deleted %s: %s", ref, why)
                self._tell(
                    ref,
                    Note(
                        reason=names.EVENT_DISMISSED,
                        text=f"deleted: {why}",
                        action="Dismiss",
                        event_type=EventType.NORMAL if is_saved else EventType.WARNING,
                    ),
                )
        return True

    def _disrupt(self, pod: ObjectRef, why: str) -> None:
        """Say that nobody's decision ends the pod: a Job does not count it as a failure of its own.

        As evictions do (KEP-3329). Where it cannot be said, the pod goes all the same.
        """
        said = Condition(
            type=DISRUPTION, status=Status.TRUE, reason=DISRUPTED_BY_US, message=why[:MAX_WHY_CHARS]
        )
        try:
            patches.set_condition(self._api, pod, [], said)
        except NotFound:
            raise
        except (Rejected, Retryable) as error:
            log.warning("%s does not say that it is disrupted: %s", pod, error)

    def _mark(self, action: plan.Mark) -> None:
        change = patches.metadata_patch(annotations={names.OUT_OF_SERVICE: action.boot_id})
        change["spec"] = {"taints": list(action.taints)}
        self._api.patch(action.node, change, resource_version=action.resource_version)
        is_gone = action.boot_id is not None
        log.warning("%s: %s", action.node, action.why)
        self._tell(
            action.node,
            Note(
                reason=names.EVENT_MACHINE_GONE if is_gone else names.EVENT_MACHINE_BACK,
                text=action.why,
                action="Mark",
                event_type=EventType.WARNING if is_gone else EventType.NORMAL,
            ),
        )

    def _report(self, action: plan.Report) -> bool:
        """Record an event unless the API server remembers that it was."""
        is_recorded = self._recorder.record(
            action.regarding,
            Note(
                reason=action.reason,
                text=action.note,
                action=action.action,
                event_type=EventType.WARNING,
                is_once=True,
            ),
        )
        if is_recorded:
            self._reported[_key(action)] = None
            while len(self._reported) > REMEMBERED_REPORTS:
                self._reported.pop(next(iter(self._reported)))
        return is_recorded


def _key(action: plan.Report) -> tuple[str, str, str]:
    return (action.regarding.uid, action.reason, action.note)
