"""What the daemon knows of the keeper's pods and of their past. Safe to use from several threads.

Written by the reader of the keeper's events and by the sampler; read by all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from architect.api.keeper import PodState
from architect.daemon import planner
from architect.daemon.observation import KeeperPod
from architect.daemon.planner import History
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Reason


class Registry:
    """The keeper's pods as last told, each pod's history and latest verdict."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keeper: dict[str, KeeperPod] | None = None
        self._histories: dict[str, History] = {}
        self._verdicts: dict[str, tuple[Reason, ...]] = {}
        self._steps: dict[str, dict[str, float]] = {}

    @property
    def is_known(self) -> bool:
        """Whether the keeper has told its pods since the daemon started."""
        with self._lock:
            return self._keeper is not None

    def set_all(self, listed: Iterable[KeeperPod]) -> None:
        """Replace what is known by the keeper's list."""
        with self._lock:
            self._keeper = {pod.uid: pod for pod in listed}

    def set_one(self, uid: str, pod: KeeperPod | None) -> None:
        """Set what the keeper says of one pod; None: it does not know it."""
        with self._lock:
            if self._keeper is None:
                return
            if pod is None:
                self._keeper.pop(uid, None)
            else:
                self._keeper[uid] = pod

    def keeper_pod(self, uid: str) -> KeeperPod | None:
        """Return what the keeper says of one pod."""
        with self._lock:
            return (self._keeper or {}).get(uid)

    def keeper_pods(self) -> list[KeeperPod]:
        """Return the keeper's pods."""
        with self._lock:
            return list((self._keeper or {}).values())

    def state(self, uid: str) -> PodState | None:
        """Return a pod's state; None: not known."""
        pod = self.keeper_pod(uid)
        return None if pod is None else pod.state

    def history(self, pod: ManagedPod) -> History:
        """Return a pod's history.

        After a restart of the daemon the keeper's own note of a failure stands for what was
        forgotten: it holds for the pod as it is now.
        """
        with self._lock:
            known = self._histories.get(pod.uid)
            keeper = (self._keeper or {}).get(pod.uid)
            if known is None:
                known = History()
                if keeper is not None and keeper.refused is not None:
                    known = planner.failed(
                        known,
                        keeper.refused,
                        fingerprint=planner.fingerprint(pod, keeper=keeper),
                    )
                if keeper is not None:
                    self._histories[pod.uid] = known
            return known

    def change_history(self, uid: str, change: Callable[[History], History]) -> None:
        """Replace a pod's history by what *change* makes of it."""
        with self._lock:
            self._histories[uid] = change(self._histories.get(uid, History()))

    def verdict(self, uid: str) -> tuple[Reason, ...] | None:
        """Return why a pod is awake; None: not judged yet."""
        with self._lock:
            return self._verdicts.get(uid)

    def set_verdict(self, uid: str, reasons: tuple[Reason, ...]) -> bool:
        """Set why a pod is awake; returns whether the first kind of reason changed."""
        with self._lock:
            before = self._verdicts.get(uid)
            self._verdicts[uid] = reasons
        return before is None or {r.kind for r in before} != {r.kind for r in reasons}

    def steps(self, uid: str) -> dict[str, float]:
        """Return the durations of the parts of a pod's last sleep."""
        with self._lock:
            return dict(self._steps.get(uid, {}))

    def set_steps(self, uid: str, steps: dict[str, float]) -> None:
        """Set the durations of the parts of a pod's last sleep."""
        with self._lock:
            self._steps[uid] = steps

    def forget(self, uid: str) -> None:
        """Forget a pod's past."""
        with self._lock:
            for table in (self._histories, self._verdicts, self._steps):
                table.pop(uid, None)
