"""What a run that was killed at any point leaves must not stop the next one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import cgroups, cluster, machine, sysctls
from lab.cluster import Cluster
from lab.machine import Machine
from lab.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache=tmp_path / "cache", state=tmp_path / "state")


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> cgroups.Hierarchy:
    place = tmp_path / "cgroup"
    place.mkdir()
    found = cgroups.Hierarchy(version=2, options="", name="unified", mount=place, own=place)
    monkeypatch.setattr(cgroups, "hierarchies", lambda: (found,))
    return found


def test_cgroups_of_a_machine_whose_directory_is_gone_are_removed(
    settings: Settings, hierarchy: cgroups.Hierarchy
) -> None:
    (parent,) = cgroups.parents(state=settings.state, found=(hierarchy,))
    for name in ("node1", "node2"):
        (parent / name / "init").mkdir(parents=True)
    (settings.machines / "node1").mkdir(parents=True)
    assert machine.remove_strays(settings) == [parent / "node2"]
    assert [entry.name for entry in parent.iterdir()] == ["node1"]


def test_a_machine_of_which_there_is_only_a_directory_is_removed(settings: Settings) -> None:
    one = Machine("node1", settings=settings)
    (one.directory / "upper").mkdir(parents=True)
    assert (one.pid, one.complete) == (None, False)
    one.destroy()
    assert not one.exists


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1, "start_ticks": -1}'])
def test_a_pid_that_was_not_written_or_is_another_process_is_none(
    settings: Settings, text: str
) -> None:
    one = Machine("node1", settings=settings)
    one.directory.mkdir(parents=True)
    (one.directory / "pid.json").write_text(text)
    assert one.pid is None


def test_settings_of_the_kernel_are_recorded_completely_or_not_at_all(tmp_path: Path) -> None:
    proc, record = tmp_path / "proc", tmp_path / "sysctls.json"
    (proc / "kernel").mkdir(parents=True)
    (proc / "kernel/panic").write_text("0\n")
    record.with_suffix(".new").write_text("{")
    sysctls.prepare(record, proc=proc)
    (proc / "kernel/panic").unlink()
    assert json.loads(record.read_text()) == {"kernel/panic": "0"}
    # A setting that has gone with its module is no reason to fail.
    sysctls.restore(record, proc=proc)
    assert not record.exists()


def test_what_is_left_of_a_cluster_without_machines_is_removed(
    settings: Settings, hierarchy: cgroups.Hierarchy
) -> None:
    for name in ("pki", "node-pki", "shared", "trial-1"):
        (settings.state / name).mkdir(parents=True)
    for name in ("kubeconfig", "cluster.json", "relay.json", "relay.log"):
        (settings.state / name).touch()
    for _ in range(2):
        Cluster(settings=settings).down()
        assert [entry.name for entry in settings.state.iterdir()] == ["lock"]


def test_logs_of_the_last_failures_are_kept(settings: Settings) -> None:
    directory = settings.state / "failed-logs"
    for number in range(8):
        (directory / f"2020010{number}-000000").mkdir(parents=True)
    Cluster(settings=settings)._gather_after(ValueError())
    kept = sorted(entry.name for entry in directory.iterdir())
    assert len(kept) == cluster.KEPT_FAILURES
    assert kept[0] == "20200104-000000"


def test_the_first_process_of_a_machine_ends_if_nobody_can_record_it(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from lab import boot\n"
        "boot.libc = type('libc', (), {'prctl': lambda *a: 0, 'unshare': lambda *a: 0})()\n"
        "def record(path, pid):\n"
        "    pathlib.Path(sys.argv[3]).write_text(str(pid))\n"
        "    os._exit(0)  # killed before it let the child go\n"
        "boot.record = record\n"
        "boot.main()\n"
    )
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"cgroup": {"join": [], "leaf": []}, "pid_file": "x"}))
    # Its output is a pipe, which ends when the last process that has it does: the child.
    done = subprocess.run(
        [sys.executable, "-c", script, spec, str(os.getpid()), tmp_path / "pid"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "the parent died before it recorded the pid" in done.stderr
    assert (tmp_path / "pid").read_text().isdigit()
