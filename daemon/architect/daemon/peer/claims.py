"""Which node may read a checkpoint of this one: the one that claims it for a pod of its own.

The claim stands in the Checkpoint object, which the manifest on our disk leads to. So it does not
matter what a caller says about itself or about the checkpoint. Any daemon may write a claim, so the
pod that it names is compared with what the API has: by the operator's rule for the keys of what
lies in the object store. Whose pod was saved is taken from our manifest: who makes the object anew
can name another owner there.

It costs the claimant two reads of the API, one after the other, for each checkpoint and each
:data:`TRUSTED_SECONDS`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from architect.checkpoint.manifest import About
from architect.core.errors import FormatError
from architect.daemon.checkpoint import contents
from architect.kube import checkpoints, claimants, resources
from architect.kube.api import Api
from architect.kube.checkpoints import Trigger

log = logging.getLogger(__name__)

TRUSTED_SECONDS: Final = 10.0
"""How long a claim that was seen is believed: a checkpoint is read in hundreds of calls."""

MAX_REMEMBERED: Final = 1024


class Claims:
    """Answers from the API. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        node: str,
        locate: Callable[[str], Path | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._node = node
        self._locate = locate
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], float] = {}

    def may_read(self, node: str, checkpoint_id: str) -> bool:
        """Whether the daemon of *node* may read it now.

        Raises the errors of the API, and FormatError for a manifest of ours that cannot be read.
        """
        key, now = (node, checkpoint_id), self._clock()
        with self._lock:
            if now - self._seen.get(key, float("-inf")) < TRUSTED_SECONDS:
                return True
        directory = self._locate(checkpoint_id)
        if directory is None:
            return False
        try:
            about = contents.read(directory).about
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FormatError(f"{directory}: {error}") from error
        pod = resources.pod(about.namespace, about.pod_name, uid=about.pod_uid)
        value = self._api.find(checkpoints.ref_of(pod, trigger=Trigger.EVICTION))
        if value is None or not is_claimed(value, about, by=node, source=self._node):
            return False
        claim = value["status"]["claimedBy"]
        claimant = self._api.find(resources.pod(about.namespace, claim["name"], uid=""))
        if refused := why_not(claim, claimant, about):
            log.warning("node %s claims checkpoint %s: %s: %s", node, checkpoint_id, *refused)
            return False
        with self._lock:
            self._seen[key] = now
            while len(self._seen) > MAX_REMEMBERED:
                self._seen.pop(next(iter(self._seen)))
        return True


def is_claimed(value: Mapping[str, Any], about: About, *, by: str, source: str) -> bool:
    """Whether Checkpoint *value* is of what *about* says, lies with *source*, and *by* has it."""
    status = value.get("status") or {}
    peer = checkpoints.peer_of(value)
    pod = (value.get("spec") or {}).get("podRef") or {}
    return (
        not value["metadata"].get("deletionTimestamp")
        and pod.get("uid") == about.pod_uid
        and (peer.get("node"), peer.get("id")) == (source, about.id)
        and bool(by)
        and (status.get("claimedBy") or {}).get("node") == by
    )


def why_not(
    claim: Mapping[str, Any], pod: Mapping[str, Any] | None, about: About
) -> tuple[str, str] | None:
    """Return why *pod*, which the API has by the claimant's name, may not have it; None: it may.

    As reason and text.
    """
    differs = claimants.what_differs(claim, pod)
    if differs is not None or pod is None:
        return differs
    return claimants.wrong_owner(pod, owner_uid=about.owner.uid if about.owner else "")
