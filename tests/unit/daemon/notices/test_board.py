"""What stands, what is news, what was taken back."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from architect.daemon.notices.board import MOVED_SECONDS, Board, Change, ChangeKind
from architect.daemon.notices.notice import Kind, Notice
from unit.daemon.notices.test_notice import NOTICES, notice

APPEARED, CHANGED, WITHDRAWN = ChangeKind.APPEARED, ChangeKind.CHANGED, ChangeKind.WITHDRAWN


def kinds(changes: list[Change]) -> list[ChangeKind]:
    return [c.kind for c in changes]


def test_what_is_said_again_is_no_news() -> None:
    board, said = Board(), notice()
    assert board.take("aws", "action", [said]) == [Change(kind=APPEARED, notice=said)]
    assert board.take("aws", "action", [notice()]) == []
    assert board.standing() == (said,)


def test_what_is_not_said_any_more_is_withdrawn_and_may_come_again() -> None:
    board, said = Board(), notice()
    board.take("aws", "action", [said])
    assert board.take("aws", "action", []) == [Change(kind=WITHDRAWN, notice=said, before=said)]
    assert board.standing() == ()
    assert board.take("aws", "action", []) == []
    assert kinds(board.take("aws", "action", [said])) == [APPEARED]


def test_a_part_says_nothing_of_another_nor_of_another_source() -> None:
    board = Board()
    board.take("aws", "action", [notice()])
    assert board.take("aws", "rebalance", []) == []
    assert board.take("node", "action", []) == []
    assert board.standing() == (notice(),)


def test_another_time_is_news_and_the_jitter_of_a_clock_is_not() -> None:
    board, said = Board(), notice(ends_unix=1000.0)
    board.take("aws", "action", [said])
    jitter = dataclasses.replace(said, deadline=130.0 + MOVED_SECONDS - 0.1)
    assert board.take("aws", "action", [jitter]) == []
    assert board.standing() == (said,), "the first reading stays"
    moved = dataclasses.replace(said, deadline=130.0 - MOVED_SECONDS)
    assert board.take("aws", "action", [moved]) == [Change(kind=CHANGED, notice=moved, before=said)]
    later = dataclasses.replace(moved, ends_unix=1001.0)
    assert kinds(board.take("aws", "action", [later])) == [CHANGED]
    unknown = dataclasses.replace(later, deadline=None)
    assert kinds(board.take("aws", "action", [unknown])) == [CHANGED]
    assert kinds(board.take("aws", "action", [later])) == [CHANGED]


def test_another_kind_and_other_words_are_news() -> None:
    board = Board()
    board.take("azure", "events", [notice()])
    assert kinds(board.take("azure", "events", [notice(kind=Kind.MAINTENANCE)])) == [CHANGED]
    other = notice(kind=Kind.MAINTENANCE, said="stop")
    assert kinds(board.take("azure", "events", [other])) == [CHANGED]


def test_of_two_with_one_name_the_more_urgent_counts() -> None:
    board, early, late = Board(), notice(deadline=100.0), notice(deadline=200.0)
    board.take("azure", "events", [late, early])
    assert board.standing() == (early,)
    assert board.take("azure", "events", [early, late]) == []


@given(st.lists(st.tuples(st.sampled_from(["x", "y"]), st.lists(NOTICES, max_size=4)), max_size=12))
def test_the_changes_tell_all(takes: list[tuple[str, list[Notice]]]) -> None:
    """Whoever follows the changes knows what stands."""
    board = Board()
    known: dict[tuple[str, str], Notice] = {}
    for part, notices in takes:
        for change in board.take("s", part, notices):
            key = (part, change.notice.id)
            assert known.get(key) == change.before
            if change.kind is WITHDRAWN:
                del known[key]
            else:
                assert change.notice != change.before
                known[key] = change.notice
        assert {n.id for n in notices} == {i for p, i in known if p == part}
    assert sorted(map(repr, board.standing())) == sorted(map(repr, known.values()))
