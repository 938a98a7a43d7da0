"""Deadlines that a restart does not move."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.daemon.notices.firstseen import FirstSeen


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("one\n")
    return path


def test_the_first_deadline_stays_also_for_the_next_daemon(tmp_path: Path, boot: Path) -> None:
    path = tmp_path / "notices.json"
    seen = FirstSeen(path, boot_id=boot)
    assert seen.earliest("gcp/preempted", "preempted", 130.0) == 130.0
    assert seen.earliest("gcp/preempted", "preempted", 135.0) == 130.0
    after = FirstSeen(path, boot_id=boot)
    assert after.earliest("gcp/preempted", "preempted", 150.0) == 130.0
    assert after.earliest("gcp/preempted", "preempted", 120.0) == 120.0


def test_what_was_withdrawn_begins_anew_and_the_rest_does_not(tmp_path: Path, boot: Path) -> None:
    path = tmp_path / "notices.json"
    seen = FirstSeen(path, boot_id=boot)
    seen.earliest("gcp/preempted", "preempted", 130.0)
    seen.earliest("azure/events", "e1", 140.0)
    seen.earliest("azure/events", "e2", 150.0)
    seen.retain("gcp/preempted", ())
    seen.retain("azure/events", ("e2",))
    after = FirstSeen(path, boot_id=boot)
    assert after.earliest("gcp/preempted", "preempted", 500.0) == 500.0
    assert after.earliest("azure/events", "e1", 500.0) == 500.0
    assert after.earliest("azure/events", "e2", 500.0) == 150.0


def test_another_boot_knows_nothing(tmp_path: Path, boot: Path) -> None:
    path = tmp_path / "notices.json"
    FirstSeen(path, boot_id=boot).earliest("gcp/preempted", "preempted", 130.0)
    boot.write_text("two\n")
    assert FirstSeen(path, boot_id=boot).earliest("gcp/preempted", "preempted", 500.0) == 500.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"version": 1, "boot": "one", "deadlines": [1]}',
        '{"version": 1, "boot": "one", "deadlines": {"gcp/preempted: preempted": "soon"}}',
        '{"version": 2, "boot": "one", "deadlines": {}}',
    ],
)
def test_a_file_that_is_not_understood_is_none(tmp_path: Path, boot: Path, text: str) -> None:
    path = tmp_path / "notices.json"
    path.write_text(text)
    assert FirstSeen(path, boot_id=boot).earliest("gcp/preempted", "preempted", 500.0) == 500.0


def test_a_file_that_cannot_be_written_costs_only_the_memory(tmp_path: Path, boot: Path) -> None:
    seen = FirstSeen(tmp_path / "no" / "such" / "directory", boot_id=boot)
    assert seen.earliest("gcp/preempted", "preempted", 130.0) == 130.0
    assert seen.earliest("gcp/preempted", "preempted", 135.0) == 130.0
