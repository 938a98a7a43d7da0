"""Which pods want to be managed and are not: reported once, counted as long as they are there."""

from __future__ import annotations

import threading
from typing import Any

from architect.api import names
from architect.operator import metrics, plan
from architect.operator.apply import Applier
from architect.operator.metrics import Metrics


class UnmanagedPods:
    """The uids of such pods; events and sweeps, from different threads, keep it."""

    def __init__(self, applier: Applier, numbers: Metrics, *, has_gvisor: bool = True) -> None:
        self._applier = applier
        self._metrics = numbers
        self._has_gvisor = has_gvisor
        self._lock = threading.Lock()
        self._uids: set[str] = set()

    def look_at(self, pod: dict[str, Any]) -> None:
        """Judge a pod, report it if it is not as its owner wants it, and count it."""
        report = plan.for_pod(pod, has_gvisor=self._has_gvisor)
        is_unmanaged = report is not None and report.reason == names.EVENT_UNMANAGED
        uid = pod["metadata"]["uid"]
        with self._lock:
            if is_unmanaged and uid not in self._uids:
                self._uids.add(uid)
                self._metrics.add(metrics.UNMANAGED_TOTAL)
            elif not is_unmanaged:
                self._uids.discard(uid)
            self._metrics.set(metrics.UNMANAGED, len(self._uids))
        if report is not None:
            self._applier.apply(report)

    def forget(self, pod: dict[str, Any]) -> None:
        """Stop counting a pod that is gone."""
        with self._lock:
            self._uids.discard(pod["metadata"]["uid"])
            self._metrics.set(metrics.UNMANAGED, len(self._uids))

    def keep_only(self, uids: set[str]) -> None:
        """Stop counting every pod that is not among *uids*."""
        with self._lock:
            self._uids &= uids
            self._metrics.set(metrics.UNMANAGED, len(self._uids))
