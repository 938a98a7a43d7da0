"""Which node may read a checkpoint of this one: the one whose daemon has claimed it.

The claim stands in the Checkpoint object, which the manifest on our disk leads to. So it does not
matter what a caller says about itself or about the checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from architect.checkpoint.manifest import About
from architect.core.errors import FormatError
from architect.daemon.checkpoint import contents
from architect.kube import checkpoints, resources
from architect.kube.api import Api
from architect.kube.checkpoints import Trigger

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
