"""Saved pods through their lives on a node with a bound, against a model of who is missed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.core.errors import NodeError
from architect.daemon.checkpoint import contents
from architect.daemon.metrics import Metrics
from architect.daemon.moves.room import OVER_QUOTA, Room
from architect.kube import resources
from architect.kube.api import Api
from architect.kube.checkpoints import MOVE_SUFFIX, name_of
from architect.kube.events import Note
from architect.kube.resources import CHECKPOINTS, ObjectRef
from support.memoryserver import MemoryServer
from support.tiers import IS_LONG

Json = dict[str, Any]
HERE, ELSEWHERE = "node1", "node2"


@dataclass
class Pod:
    """What the model knows of one that was saved."""

    size: int
    saved_at: float
    is_there: bool = True
    """Its containers have not ended yet."""
    claimed_by: str = ""
    """A node."""
    has_come: bool = False
    is_restored: bool = False
    is_stored: bool = False
    is_deleted: bool = False
    """Its Checkpoint is."""

    def is_missed(self, now: float) -> str:
        """Return who would miss it: ``nobody``, ``somebody perhaps``, ``its successor``."""
        if self.is_there:
            return "its successor"
        if self.is_deleted or self.is_restored:
            return "nobody"
        if self.claimed_by:
            is_elsewhere = self.has_come and self.claimed_by != HERE
            if not is_elsewhere:
                return "its successor"
            return "nobody" if self.is_stored else "somebody perhaps"
        if self.is_stored:
            return "nobody"
        return "somebody perhaps" if now - self.saved_at > 900 else "its successor"


class DepotDouble:
    """A disk."""

    def __init__(self) -> None:
        self.whole: dict[str, Any] = {}
        self.half: dict[str, Any] = {}

    def departures(self) -> list[str]:
        return sorted(self.whole)

    def departure(self, uid: str) -> Path | None:
        return Path("whole", uid) if uid in self.whole else None

    def half_departures(self) -> dict[str, bool]:
        return dict.fromkeys(self.half, True)

    def half_departure(self, uid: str) -> Path:
        return Path("half", uid)

    def unannounced(self, uid: str) -> None:
        return None

    def drop_departure(self, uid: str) -> None:
        del self.whole[uid]

    def read(self, directory: Path) -> Any:
        found = {"whole": self.whole, "half": self.half}[directory.parts[0]]
        return found[directory.name]


class RoomMachine(RuleBasedStateMachine):
    @initialize(quota=st.integers(1, 9))
    def a_node_begins(self, quota: int) -> None:
        self.quota = quota
        self.now = 1_000_000.0
        self.pods: dict[str, Pod] = {}
        self.server = MemoryServer()
        self.depot = DepotDouble()
        self.events: list[str] = []
        self.left: set[str] = set()
        """Who lay there when it was looked last."""
        self.room = Room(
            Api(self.server, field_manager="architect-daemon"),
            node=HERE,
            depot=cast(Any, self.depot),
            metrics=Metrics(),
            quota_bytes=quota,
            is_there=lambda uid: self.pods[uid].is_there,
            tell=self.tell,
            clock=lambda: self.now,
            boot=lambda: self.now,
        )
        setattr(contents, "read", self.depot.read)  # noqa: B010  # as a double

    def tell(self, where: ObjectRef, note: Note) -> None:
        assert note.reason == "Expired"
        self.events.append(where.name)

    # What happens outside

    def name(self, uid: str) -> str:
        return name_of(resources.pod("default", uid, uid=uid)) + MOVE_SUFFIX

    def path(self, uid: str) -> str:
        return CHECKPOINTS.path(namespace="default", name=self.name(uid))

    def tells(self, uid: str) -> None:
        """Have the Checkpoint say what the model knows."""
        pod = self.pods[uid]
        if pod.is_deleted:
            self.server.objects.pop(self.path(uid), None)
            return
        before = self.server.objects.get(self.path(uid)) or {"status": {"conditions": []}}
        said = {c["type"]: c for c in before["status"]["conditions"]}

        def say(kind: str, status: str, reason: str) -> None:
            said[kind] = {"type": kind, "status": status, "reason": reason, "message": ""}

        say("Captured", "True", "Captured")
        if "Available" not in said:
            say("Available", "True", "OnPeer")
        if pod.is_stored:
            say("Stored", "True", "Stored")
        if pod.claimed_by and pod.has_come:
            say("Restored", "Unknown", "Restoring")
        elif "Restored" in said:
            say("Restored", "False", "GivenBack")
        if pod.is_restored:
            say("Restored", "True", "Restored")
            say("Available", "False", "Restored")
        status: Json = {"conditions": list(said.values())}
        if pod.claimed_by:
            status["claimedBy"] = {"name": "new", "uid": "uid-new", "node": pod.claimed_by}
        metadata = {"name": self.name(uid), "namespace": "default"}
        value = {"kind": "Checkpoint", "metadata": metadata, "spec": {}, "status": status}
        self.server.put(self.path(uid), value)

    def some(self, data: st.DataObject) -> tuple[str, Pod]:
        uid = data.draw(st.sampled_from(sorted(self.pods)))
        return uid, self.pods[uid]

    @precondition(lambda self: bool(getattr(self, "pods", None)))
    @rule(
        data=st.data(),
        what=st.sampled_from(
            ["ends", "claimed", "claimed here", "came", "given back", "restored", "stored", "gone"]
        ),
    )
    def one_goes_its_way(self, data: st.DataObject, what: str) -> None:
        uid, pod = self.some(data)
        is_free = not (pod.claimed_by or pod.is_restored or pod.is_deleted)
        said = self.available(uid)
        match what:
            case "ends":
                pod.is_there = False
            case "claimed" | "claimed here" if is_free and said == "True":
                pod.claimed_by = ELSEWHERE if what == "claimed" else HERE
            case "came" if pod.claimed_by:
                pod.has_come = True
            case "given back" if pod.claimed_by and not pod.is_restored:
                pod.claimed_by, pod.has_come = "", False
            case "restored" if pod.has_come:
                pod.is_restored = True
            case "stored" if uid in self.depot.whole:
                pod.is_stored = True
            case "gone":
                pod.is_deleted = True
        self.tells(uid)

    @rule(seconds=st.sampled_from([1, 300, 901]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    # What the node does

    @rule(size=st.integers(1, 4))
    def one_leaves(self, size: int) -> None:
        uid = f"uid-{len(self.pods)}"
        before = self.held()
        try:
            self.room.check(uid)
            with self.room.admitting(uid, size):
                self.depot.half[uid] = self.manifest(uid, size)
        except NodeError as error:
            assert error.reason == OVER_QUOTA
            stay = sum(
                p.size for u, p in before.items() if p.is_missed(self.now) == "its successor"
            )
            assert stay + size > self.quota, "there was room, or could have been made"
            self.nobody_is_lost_but(set())
            return
        assert self.bytes() <= self.quota
        self.pods[uid] = Pod(size=size, saved_at=self.now)
        self.depot.whole[uid] = self.depot.half.pop(uid)
        self.tells(uid)
        self.nobody_is_lost_but(self.may_go(before))
        self.left = set(self.depot.whole)

    @rule()
    def the_daemon_looks(self) -> None:
        before = self.held()
        self.room.keep()
        if self.bytes() > self.quota:
            assert all(p.is_missed(self.now) == "its successor" for p in self.held().values()), (
                "somebody stays who need not"
            )
        self.nobody_is_lost_but(self.may_go(before))
        self.left = set(self.depot.whole)

    @precondition(lambda self: bool(getattr(self, "left", None)))
    @rule(data=st.data())
    def the_daemon_looks_while_one_is_claimed(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(sorted(self.left)))
        pod = self.pods[uid]
        if pod.claimed_by or pod.is_restored or pod.is_deleted or self.available(uid) != "True":
            return

        def claim(request: Any) -> None:
            if request.method == "PATCH" and request.path.startswith(self.path(uid)):
                pod.claimed_by = ELSEWHERE
                self.tells(uid)

        self.server.fail = claim
        self.room.keep()
        self.server.fail = lambda _: None
        if pod.claimed_by:
            assert uid in self.depot.whole, "it was claimed in time, and has gone"
            assert self.available(uid) == "True"
        self.left = set(self.depot.whole)

    # What is compared

    def manifest(self, uid: str, size: int) -> Any:
        created = datetime.datetime.fromtimestamp(self.now, tz=datetime.UTC)
        about = SimpleNamespace(namespace="default", pod_name=uid, pod_uid=uid, created=created)
        return SimpleNamespace(total_bytes=size, about=about)

    def held(self) -> dict[str, Pod]:
        return {uid: self.pods[uid] for uid in self.depot.whole}

    def bytes(self) -> int:
        return sum(m.total_bytes for m in (*self.depot.whole.values(), *self.depot.half.values()))

    def available(self, uid: str) -> str:
        value = self.server.objects.get(self.path(uid)) or {"status": {"conditions": []}}
        return next(
            (c["status"] for c in value["status"]["conditions"] if c["type"] == "Available"), ""
        )

    def may_go(self, before: dict[str, Pod]) -> set[str]:
        return {u for u, p in before.items() if p.is_missed(self.now) == "somebody perhaps"}

    def nobody_is_lost_but(self, may_go: set[str]) -> None:
        """Whoever went either is missed by nobody, or may go and said so."""
        for uid in self.left - set(self.depot.whole):
            who = self.pods[uid].is_missed(self.now)
            assert who == "nobody" or uid in may_go, f"{uid}, which {who} misses, is gone"
            if who == "nobody":
                continue
            value = self.server.objects[self.path(uid)]
            said = next(c for c in value["status"]["conditions"] if c["type"] == "Available")
            assert (said["status"], said["reason"]) == ("False", OVER_QUOTA)
            assert self.events.count(self.name(uid)) == 1
        self.left = set(self.depot.whole)

    @invariant()
    def what_lies_in_the_store_can_be_had(self) -> None:
        for uid, pod in getattr(self, "pods", {}).items():
            is_over = pod.is_restored or pod.is_deleted
            assert is_over or not pod.is_stored or self.available(uid) == "True"


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give back in the end what each machine replaces."""
    monkeypatch.setattr(contents, "read", contents.read)


@pytest.mark.usefixtures("as_before")
def test_who_is_awaited_stays_and_who_goes_says_so() -> None:
    run_state_machine_as_test(
        RoomMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 200, stateful_step_count=25, deadline=None
        ),
    )
