"""Which process is a container's init, as either lower runtime has written it down."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from architect.shim.keeper import processes


def start_time(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def runc(pid: int, started: int) -> tuple[str, dict[str, object]]:
    return "state.json", {"id": "c", "init_process_pid": pid, "init_process_start": started}


def crun(pid: int, started: int) -> tuple[str, dict[str, object]]:
    return "status", {"pid": pid, "process-start-time": started, "cgroup-path": "/c"}


@pytest.fixture(params=[runc, crun])
def written(request: pytest.FixtureRequest, tmp_path: Path):
    def write(pid: int, started: int) -> str:
        name, state = request.param(pid, started)
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / name).write_text(json.dumps(state))
        return str(tmp_path)

    return write


def test_the_init_is_the_process_that_was_written_down(written) -> None:
    pid = os.getpid()
    found = processes.find_init(written(pid, start_time(pid)), "c")
    assert found is not None and found.pid == pid and found.is_alive


def test_another_process_with_its_number_is_not_it(written) -> None:
    pid = os.getpid()
    assert processes.find_init(written(pid, start_time(pid) - 1), "c") is None


@pytest.mark.parametrize("name", ["state.json", "status"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "1"}', '{"pid": 0}'])
def test_what_cannot_be_read_names_nobody(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / name).write_text(text)
    assert processes.find_init(str(tmp_path), "c") is None
    assert processes.find_init(str(tmp_path), "nobody") is None
