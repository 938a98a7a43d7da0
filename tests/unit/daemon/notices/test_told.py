"""What people read on the node about what is announced."""

from __future__ import annotations

import pytest

from architect.daemon import status
from architect.daemon.notices.board import Change, ChangeKind
from architect.daemon.notices.notice import Kind, Notice
from architect.kube.events import EventType

NOTICE = Notice(
    kind=Kind.INTERRUPTION,
    source="node",
    id="taint x",
    said="taint x",
    ends_unix=None,
    deadline=None,
)


@pytest.mark.parametrize(
    ("kind", "reason", "event_type"),
    [
        (ChangeKind.APPEARED, "NoticeAppeared", EventType.WARNING),
        (ChangeKind.CHANGED, "NoticeChanged", EventType.WARNING),
        (ChangeKind.WITHDRAWN, "NoticeWithdrawn", EventType.NORMAL),
    ],
)
def test_each_change_is_an_event_and_its_end_is_no_warning(
    kind: ChangeKind, reason: str, event_type: EventType
) -> None:
    note = status.of_notice(Change(kind=kind, notice=NOTICE))
    assert (note.reason, note.event_type) == (reason, event_type)
    assert note.text == "interruption at a time that was not said (node: taint x)"
