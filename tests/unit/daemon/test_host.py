"""Programs of the host that wait for their cue."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from architect.core.errors import NodeError
from architect.daemon import host as hosts
from architect.daemon.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(root=tmp_path, is_entered=False)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_program_does_its_work_at_its_cue(host: Host) -> None:
    with host.on_cue(["/bin/sh", "-c", 'read cue; echo "did $cue"']) as program:
        assert program.go(timeout_seconds=60) == "did go\n"


def test_a_program_without_a_cue_does_nothing_and_ends(host: Host, tmp_path: Path) -> None:
    with host.on_cue(["/bin/sh", "-c", f"read cue || exit 0; touch {tmp_path}/done"]):
        pass
    assert not (tmp_path / "done").exists()


def test_one_that_fails_is_told_with_what_it_said(host: Host) -> None:
    argv = ["/bin/sh", "-c", "read cue; echo no room >&2; exit 3"]
    with host.on_cue(argv) as program, pytest.raises(NodeError, match="ended with 3: no room"):
        program.go(timeout_seconds=60)


def test_one_that_ended_before_its_cue_is_told(host: Host) -> None:
    with (
        host.on_cue(["/bin/sh", "-c", "echo unknown flag >&2; exit 2"]) as program,
        pytest.raises(NodeError, match="ended with 2: unknown flag"),
    ):
        program.go(timeout_seconds=60)


def test_one_that_is_not_there_is_told(host: Host, tmp_path: Path) -> None:
    with (
        pytest.raises(NodeError, match=r"cannot run /.*/none on the host"),
        host.on_cue([str(tmp_path / "none")]),
    ):
        pass


@pytest.mark.parametrize("is_cued", [True, False])
def test_one_that_hangs_is_ended(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cued: bool
) -> None:
    monkeypatch.setattr(hosts, "UNCUED_SECONDS", 0.1)
    note = tmp_path / "pid"
    hangs = f"echo $$ > {note}.new; mv {note}.new {note}; exec sleep 600"
    with host.on_cue(["/bin/sh", "-c", hangs]) as program:
        if is_cued:
            with pytest.raises(NodeError, match="timed out"):
                program.go(timeout_seconds=0.1)
        while not note.exists():
            os.sched_yield()
    assert not is_alive(int(note.read_text()))
