"""When a pod is looked at before its first sleep, and what that means for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from architect.core.errors import NodeError
from architect.daemon import foresight, status
from architect.daemon.foresight import AGAIN_SECONDS, Foresight, Look
from architect.daemon.observation import Finding, read_finding
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind, Reason

VSOCK = Finding(
    container="app", reason="Socket", message="process 7 (web) has a socket", hint="close it"
)
NOTE = Finding(container="app", reason="ExecSession", message="a shell", is_blocking=False)


def is_due(last: Look | None = None, **fields: Any) -> bool:
    given = {"mark": "m", "processes": 4, "now": 1000.0, "left_seconds": 20.0, "idle_seconds": 60.0}
    return foresight.is_due(last, **{**given, **fields})


def look(**fields: Any) -> Look:
    return Look(**{"mark": "m", "processes": 4, "at": 0.0, **fields})


@pytest.mark.parametrize(("left", "due"), [(0.0, True), (30.0, True), (30.1, False), (None, False)])
def test_a_pod_is_looked_at_when_half_of_its_idle_time_has_passed(
    left: float | None, due: bool
) -> None:
    assert is_due(left_seconds=left) is due


def test_one_in_which_nothing_was_found_is_not_looked_at_again() -> None:
    assert not is_due(look(), now=1e9)


@pytest.mark.parametrize(("processes", "due"), [(3, False), (6, False), (7, True), (400, True)])
def test_unless_it_has_grown(processes: int, due: bool) -> None:
    assert is_due(look(), processes=processes) is due
    assert not is_due(look(at=999.0), processes=processes), "not that soon"


def test_or_is_made_of_other_containers() -> None:
    assert is_due(look(mark="before", at=999.0))


@pytest.mark.parametrize("fields", [{"blocking": (VSOCK,)}, {"is_known": False}])
def test_what_was_found_is_looked_for_again_after_a_while(fields: dict[str, Any]) -> None:
    assert not is_due(look(**fields), now=AGAIN_SECONDS - 1)
    assert is_due(look(**fields), now=AGAIN_SECONDS)


def test_what_was_found_is_a_reason_of_the_same_pod_only() -> None:
    (reason,) = foresight.reasons(look(blocking=(VSOCK,)), mark="m")
    assert (reason.kind, reason.container) == (Kind.CANNOT_SLEEP, "app")
    assert reason.text == "Socket: process 7 (web) has a socket (hint: close it)"
    assert foresight.reasons(look(blocking=(VSOCK,)), mark="another") == ()
    assert foresight.reasons(None, mark="m") == ()


def test_a_condition_says_what_is_found_and_nothing_that_changes() -> None:
    found = foresight.reasons(look(blocking=(VSOCK,)), mark="m")
    busy = Reason(kind=Kind.PACKETS, text="3 packets 2s ago", container="app")
    condition = status.condition(None, reasons=(busy, *found))
    assert (condition.status.value, condition.reason) == ("False", "CannotSleep")
    assert condition.message == f"app: {VSOCK.text}"


def test_a_condition_is_written_again_when_something_else_is_found(make: Any) -> None:
    new = status.condition(None, reasons=foresight.reasons(look(blocking=(VSOCK,)), mark="m"))

    def said(message: str, reason: str = "CannotSleep") -> ManagedPod:
        condition = {
            "type": new.type,
            "status": "False",
            "reason": reason,
            "message": message,
        }
        made = make.pod(status={"phase": "Running", "conditions": [condition]})
        assert isinstance(made, ManagedPod)
        return made

    def due(pod: ManagedPod) -> bool:
        return status.is_condition_due(pod, new, may_update_reason=False)

    assert not due(said(new.message))
    assert due(said("app: IoUring"))
    assert due(said("2s ago", "Traffic")), "it does not wait"


def test_an_older_keeper_says_nothing_that_forbids() -> None:
    value = {"container": "a", "reason": "Mount", "message": "m", "is_blocking": True}
    assert not read_finding(value).is_lasting
    assert read_finding({**value, "about": "processes", "hint": "h"}).is_lasting


class Asked:
    """A keeper that is asked, and what is told of its answers."""

    def __init__(self) -> None:
        self.answers: list[tuple[Finding, ...] | NodeError] = []
        self.told: list[tuple[Finding, ...]] = []
        self.ended = threading.Semaphore(0)
        self.foresight = Foresight(
            self._check, found=lambda _, found: self.told.append(found), done=self.ended.release
        )

    def _check(self, _: str) -> tuple[Finding, ...]:
        answer = self.answers.pop(0)
        if isinstance(answer, NodeError):
            raise answer
        return answer

    def look(self, pod: ManagedPod, *, mark: str = "m", processes: int = 4) -> bool:
        """Return whether a look was made; it has ended then."""
        is_made = self.foresight.consider(
            pod, mark=mark, processes=processes, left_seconds=0.0, idle_seconds=60.0
        )
        return is_made and self.ended.acquire(timeout=20)


@pytest.fixture
def pod(make: Callable[..., Any]) -> ManagedPod:
    made: ManagedPod = make.pod()  # type: ignore[attr-defined]
    return made


def test_what_is_found_is_told_once(pod: ManagedPod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foresight, "AGAIN_SECONDS", 0.0)
    asked = Asked()
    asked.answers = [(VSOCK, NOTE), (VSOCK,), (), (VSOCK,)]
    assert asked.look(pod)
    assert asked.told == [(VSOCK,)]
    assert [r.container for r in asked.foresight.reasons(pod.uid, mark="m")] == ["app"]
    assert asked.look(pod)
    assert asked.told == [(VSOCK,)]
    assert asked.look(pod)
    assert asked.foresight.reasons(pod.uid, mark="m") == (), "it has closed it"
    assert not asked.look(pod), "nothing was found: once is enough"
    assert asked.look(pod, processes=40)
    assert asked.told == [(VSOCK,), (VSOCK,)], "it is there again"


def test_a_look_that_fails_forbids_nothing(pod: ManagedPod) -> None:
    asked = Asked()
    asked.answers = [NodeError("killed", reason="NotInspected")]
    assert asked.look(pod)
    assert asked.foresight.reasons(pod.uid, mark="m") == ()
    assert asked.told == []
    assert not asked.look(pod), "not at once again"


def test_a_pod_that_is_gone_is_forgotten(pod: ManagedPod) -> None:
    asked = Asked()
    asked.answers = [(VSOCK,), (VSOCK,)]
    assert asked.look(pod)
    asked.foresight.keep_only(set())
    assert asked.foresight.reasons(pod.uid, mark="m") == ()
    assert asked.look(pod)
