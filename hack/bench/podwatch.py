"""What the API server tells about some pods, and when it told it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from bench.errors import BenchError
from lab import errors
from lab.api import Api

SILENCE_SECONDS: Final = 600.0
MILESTONES: Final = ("created", "scheduled", "address", "ready", "deleted", "gone")


class PodWatch:
    """The pods of one label from now on, watched by a thread until :meth:`close`."""

    def __init__(self, api: Api, *, namespace: str, label: str) -> None:
        self._changed = threading.Condition()
        self._times: dict[str, dict[str, float]] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._error = ""
        self._is_closed = False
        path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={label.replace('=', '%3D')}"
        found = api.get(path)
        self._before = frozenset(pod["metadata"]["uid"] for pod in found["items"])
        version = found["metadata"]["resourceVersion"]
        self._stream = api.watch(
            f"{path}&watch=true&resourceVersion={version}", silence_seconds=SILENCE_SECONDS
        )
        threading.Thread(target=self._read, name="podwatch", daemon=True).start()

    def close(self) -> None:
        """Watch no more; the thread ends with the next change."""
        self._is_closed = True

    def newcomers(self) -> dict[str, dict[str, Any]]:
        """Return the pods, by uid, that were not there at the beginning.

        Raises BenchError if the watch ended: nobody tells of more.
        """
        with self._changed:
            if self._error:
                raise BenchError(f"the watch of pods: {self._error}")
            return {uid: pod for uid, pod in self._pods.items() if uid not in self._before}

    def when(self, uid: str, milestone: str) -> float:
        """Return when the API server told a milestone. Raises BenchError if it has not."""
        with self._changed:
            try:
                return self._times[uid][milestone]
            except KeyError:
                raise BenchError(f"pod {uid} is not {milestone} yet") from None

    def wait(self, uids: Callable[[], set[str]], milestone: str, *, seconds: float) -> set[str]:
        """Return *uids()* as soon as they are some, and all of them have reached a milestone.

        Raises BenchError if that is not so within *seconds*, or if the watch ended.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                wanted = uids()
                missing = {u for u in wanted if milestone not in self._times.get(u, {})}
                if wanted and not missing:
                    return wanted
                left = deadline - time.monotonic()
                if self._error or left <= 0:
                    raise BenchError(
                        f"{len(missing)} of {len(wanted)} pods are not {milestone} within "
                        f"{seconds:g} s{self._error and f': {self._error}'}"
                    )
                self._changed.wait(left)

    def _read(self) -> None:
        try:
            for change in self._stream:
                at = time.time()
                with self._changed:
                    if self._is_closed:
                        return
                    self._note(change, at)
                    self._changed.notify_all()
            self._end("the API server ended the watch")
        except (OSError, errors.LabError, ValueError) as error:
            self._end(f"{type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(OSError):
                self._stream.close()  # type: ignore[attr-defined]  # a generator

    def _end(self, why: str) -> None:
        with self._changed:
            self._error = why
            self._changed.notify_all()

    def _note(self, change: dict[str, Any], at: float) -> None:
        pod = change["object"]
        uid = pod.get("metadata", {}).get("uid")
        if uid is None:
            raise ValueError(f"watch of pods: {str(change)[:300]}")
        self._pods[uid] = pod
        times = self._times.setdefault(uid, {})
        for milestone in reached(change["type"], pod):
            times.setdefault(milestone, at)


def reached(kind: str, pod: dict[str, Any]) -> list[str]:
    """Return which of :data:`MILESTONES` a change says that a pod has reached."""
    status = pod.get("status") or {}
    is_ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ()
    )
    said = {
        "created": True,
        "scheduled": bool(pod["spec"].get("nodeName")),
        "address": bool(status.get("podIP")),
        "ready": is_ready,
        "deleted": "deletionTimestamp" in pod["metadata"],
        "gone": kind == "DELETED",
    }
    return [milestone for milestone in MILESTONES if said[milestone]]
