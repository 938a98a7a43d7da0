"""What a failed sleep or wake means for the next one."""

from __future__ import annotations

import errno

import pytest

from architect.api.policy import OnRestoreFailure
from architect.core.errors import FormatError, NodeError, Rejected
from architect.shim.keeper.failures import (
    ATTEMPTS_WHILE_SHORT,
    RETRY_SECONDS,
    Refusal,
    after_failed_wake,
    pause_seconds,
)

FRESH, RETRY, FAIL = OnRestoreFailure.FRESH, OnRestoreFailure.RETRY, OnRestoreFailure.FAIL


@pytest.mark.parametrize(
    ("error", "outcomes"),
    [
        (NodeError("restore ended with status 1", reason="Unknown"), (FRESH, RETRY, FAIL)),
        (OSError("no such device"), (FRESH, RETRY, FAIL)),
        (FormatError("meta.json is of version 9"), (FAIL, FAIL, FAIL)),
        (NodeError("it was written", reason="VolumeChanged"), (FRESH, FAIL, FAIL)),
        (NodeError("nobody knows", reason="VolumeUnknown"), (RETRY, RETRY, FAIL)),
        (NodeError("restore ended with status 1", reason="NoSpace"), (RETRY, RETRY, FAIL)),
        (OSError(errno.EROFS, "Read-only file system"), (RETRY, RETRY, FAIL)),
        (OSError(errno.ENOSPC, "No space left on device"), (RETRY, RETRY, FAIL)),
    ],
)
def test_what_follows_a_wake_that_failed_depends_on_what_failed(
    error: NodeError | FormatError | OSError, outcomes: tuple[OnRestoreFailure, ...]
) -> None:
    found = tuple(after_failed_wake(wish, error, attempts=1) for wish in (FRESH, RETRY, FAIL))
    assert found == outcomes


@pytest.mark.parametrize("reason", ["NoPids", "OutOfMemory"])
@pytest.mark.parametrize("wish", list(OnRestoreFailure))
def test_memory_is_not_given_up_at_once_for_what_a_node_is_short_of(
    reason: str, wish: OnRestoreFailure
) -> None:
    error = NodeError("restore ended with status 1", reason=reason)
    found = [
        after_failed_wake(wish, error, attempts=number + 1)
        for number in range(ATTEMPTS_WHILE_SHORT)
    ]
    first = RETRY if wish is FRESH else wish
    assert found == [*[first] * (ATTEMPTS_WHILE_SHORT - 1), wish]


@pytest.mark.parametrize(
    ("error", "stands"),
    [
        (NodeError("it uses io_uring", reason="IoUring"), True),
        (FormatError("meta.json is of version 9"), True),
        (OSError("no such device"), True),
        (Rejected("it talks", reason="Busy"), False),
        (Rejected("the disk is full", reason="NoSpace"), False),
        (OSError(errno.EROFS, "Read-only file system"), False),
        (NodeError("somebody killed it", reason="CriuKilled"), False),
        (NodeError("restore ended with status 1", reason="NoPids"), False),
    ],
)
def test_a_refusal_stands_where_the_next_attempt_would_end_like_this_one(
    error: NodeError | FormatError | Rejected | OSError, stands: bool
) -> None:
    assert Refusal.of(error).stands is stands


def test_pauses_grow_to_the_last_one_and_stay_there() -> None:
    pauses = [pause_seconds(failures) for failures in range(1, 8)]
    assert pauses[: len(RETRY_SECONDS)] == list(RETRY_SECONDS)
    assert set(pauses[len(RETRY_SECONDS) :]) == {RETRY_SECONDS[-1]}
