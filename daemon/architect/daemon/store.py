"""What the daemon knows of its node's pods, kept by one watch. Safe to use from several threads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from architect.core.errors import Rejected
from architect.daemon import pods
from architect.daemon.pods import ManagedPod
from architect.kube.api import JsonObject
from architect.kube.watch import Change, ChangeKind, Snapshot

log = logging.getLogger(__name__)


class PodStore:
    """The managed pods, and the uids of all pods of the node."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pods: dict[str, ManagedPod] = {}
        self._raw: dict[str, JsonObject] = {}
        self._versions: dict[str, int] = {}
        self._classes: dict[str, str] = {}
        self._is_synced = False

    @property
    def is_synced(self) -> bool:
        """Whether the node's pods have been listed once."""
        return self._is_synced

    def get(self, uid: str) -> ManagedPod | None:
        """Return a managed pod."""
        with self._lock:
            return self._pods.get(uid)

    def all(self) -> list[ManagedPod]:
        """Return all managed pods."""
        with self._lock:
            return list(self._pods.values())

    def raw(self, uid: str) -> JsonObject | None:
        """Return a managed pod as the API sent it last, without ``managedFields``.

        It is shared: nobody may change it.
        """
        with self._lock:
            return self._raw.get(uid)

    def known_uids(self) -> frozenset[str]:
        """Return the uids of all pods of the node, managed or not."""
        with self._lock:
            return frozenset(self._versions)

    def runtime_classes(self) -> frozenset[str]:
        """Return the runtime classes of the node's pods that have not ended, managed or not."""
        with self._lock:
            return frozenset(self._classes.values())

    def take(self, item: Snapshot | Change) -> set[str]:
        """Take in what the watch says; returns the uids of managed pods that changed or went."""
        if isinstance(item, Snapshot):
            return self._replace(item)
        if item.kind is ChangeKind.DELETED:
            uid = item.object["metadata"]["uid"]
            with self._lock:
                self._versions.pop(uid, None)
                self._classes.pop(uid, None)
                self._raw.pop(uid, None)
                return {uid} if self._pods.pop(uid, None) is not None else set()
        return self.update(item.object)

    def update(self, value: Mapping[str, Any]) -> set[str]:
        """Take in one object, as the watch or a patch returned it, unless it is older."""
        uid, version = value["metadata"]["uid"], pods.version_of(value)
        read = _read(value)
        with self._lock:
            if version and version < self._versions.get(uid, 0):
                return set()
            self._versions[uid] = version
            self._classes.pop(uid, None)
            self._classes |= _class_of(value)
            before = self._pods.pop(uid, None)
            self._raw.pop(uid, None)
            if read is not None:
                self._pods[uid] = read
                self._raw[uid] = _kept(value)
            return {uid} if read is not None or before is not None else set()

    def _replace(self, snapshot: Snapshot) -> set[str]:
        versions = {v["metadata"]["uid"]: pods.version_of(v) for v in snapshot.objects}
        classes = {uid: name for v in snapshot.objects for uid, name in _class_of(v).items()}
        read = {uid: pod for v in snapshot.objects if (pod := _read(v)) for uid in (pod.uid,)}
        raw = {u: _kept(v) for v in snapshot.objects if (u := v["metadata"]["uid"]) in read}
        with self._lock:
            changed = self._pods.keys() | read.keys()
            self._pods, self._versions, self._classes = read, versions, classes
            self._raw = raw
            self._is_synced = True
        return set(changed)


def _kept(value: Mapping[str, Any]) -> JsonObject:
    """Return a pod without the list of who wrote what, which is half of its memory."""
    metadata = {key: v for key, v in value["metadata"].items() if key != "managedFields"}
    return {**value, "metadata": metadata}


def _class_of(value: Mapping[str, Any]) -> dict[str, str]:
    """Return a pod's uid and runtime class; nothing if it has none, or has ended."""
    name = (value.get("spec") or {}).get("runtimeClassName")
    if not name or (value.get("status") or {}).get("phase") in pods.TERMINAL:
        return {}
    return {value["metadata"]["uid"]: name}


def _read(value: Mapping[str, Any]) -> ManagedPod | None:
    try:
        return pods.read(value)
    except Rejected as error:
        log.error("not managed: %s", error)
        return None
