from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import pytest

from lab import cgroups, errors

V1 = """\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw shared:12 - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw shared:13 - cgroup2 cgroup2 rw
"""
V1_MEMBERSHIP = "4:memory:/job/17\n3:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n"
V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V2_MEMBERSHIP = "0::/user.slice/user-0.slice/session-1.scope\n"


def test_with_v1_the_cgroups_are_below_the_process_own() -> None:
    plan = cgroups.MachineCgroups.plan(
        "m", state=Path("/lab"), found=cgroups.hierarchies(V1, V1_MEMBERSHIP)
    )
    assert plan.version == 1
    memory = next(d for d in plan.directories if "memory" in d.parts)
    assert str(memory).startswith("/sys/fs/cgroup/memory/job/17/architect-lab-")
    assert memory.name == "m"


def test_hierarchies_of_several_controllers_are_mounted_together_and_linked() -> None:
    plan = cgroups.MachineCgroups.plan(
        "m", state=Path("/lab"), found=cgroups.hierarchies(V1, V1_MEMBERSHIP)
    )
    together = next(h for h in plan.hierarchies if h["name"] == "cpu,cpuacct")
    assert together["options"] == "cpu,cpuacct"
    assert together["links"] == ["cpu", "cpuacct"]
    named = next(h for h in plan.hierarchies if h["name"] == "systemd")
    assert named["options"] == "none,name=systemd"


def test_with_v2_the_cgroup_is_at_the_top_and_processes_are_in_leaves() -> None:
    plan = cgroups.MachineCgroups.plan(
        "m", state=Path("/lab"), found=cgroups.hierarchies(V2, V2_MEMBERSHIP)
    )
    assert plan.version == 2
    (directory,) = plan.directories
    assert directory.parent.parent == Path("/sys/fs/cgroup")
    assert plan.join_files(leaf="init") == [f"{directory}/init/cgroup.procs"]


def test_with_v2_a_machines_own_cgroup_hands_nothing_down_before_it_has_been_entered(
    tmp_path: Path,
) -> None:
    top = cgroups.Hierarchy(version=2, options="", name="unified", mount=tmp_path, own=tmp_path)
    plan = cgroups.MachineCgroups.plan("m", state=Path("/lab"), found=(top,))
    (machine,) = plan.directories
    machine.mkdir(parents=True)
    for level in (tmp_path, machine.parent, machine):
        (level / "cgroup.controllers").write_text("cpu memory pids\n")
        (level / "cgroup.subtree_control").write_text("")
    plan.create()
    handed = [(level / "cgroup.subtree_control").read_text() for level in (tmp_path, machine)]
    assert handed == ["+pids", ""]
    assert Path(plan.join_files(leaf=cgroups.LEAF_INIT)[0]).parent.is_dir()
    plan.hand_down()
    assert (machine / "cgroup.subtree_control").read_text() == "+pids"


def test_two_labs_do_not_share_cgroups() -> None:
    found = cgroups.hierarchies(V2, V2_MEMBERSHIP)
    plans = [cgroups.MachineCgroups.plan("m", state=Path(p), found=found) for p in ("/a", "/b")]
    assert plans[0].directories != plans[1].directories


def test_a_host_without_cgroups_is_refused() -> None:
    with pytest.raises(errors.LabError, match="no cgroup"):
        cgroups.hierarchies("", "")


def test_machines_are_found_by_their_cgroups_in_any_hierarchy(tmp_path: Path) -> None:
    found = tuple(
        cgroups.Hierarchy(version=1, options=name, name=name, mount=tmp_path, own=tmp_path / name)
        for name in ("cpu", "memory")
    )
    cpu, memory = cgroups.parents(state=Path("/lab"), found=found)
    (cpu / "node1").mkdir(parents=True)
    (memory / "node2").mkdir(parents=True)
    (memory / "cgroup.procs").write_text("")
    assert cgroups.present(state=Path("/lab"), found=found) == {"node1", "node2"}
    assert cgroups.present(state=Path("/other"), found=found) == set()


def test_a_machine_is_made_while_the_last_other_one_ends(tmp_path: Path) -> None:
    """With which their parent goes."""
    top = cgroups.Hierarchy(version=1, options="cpu", name="cpu", mount=tmp_path, own=tmp_path)
    (parent,) = cgroups.parents(state=Path("/lab"), found=(top,))
    stop = threading.Event()

    def end() -> None:
        # Now and then: who does nothing else could be the faster one each time.
        while not stop.wait(0.0002):
            with contextlib.suppress(OSError):
                parent.rmdir()

    thread = threading.Thread(target=end)
    thread.start()
    try:
        for number in range(100):
            plan = cgroups.MachineCgroups.plan(f"m{number}", state=Path("/lab"), found=(top,))
            plan.create()
            assert f"m{number}" in cgroups.present(state=Path("/lab"), found=(top,))
            plan.directories[0].rmdir()
    finally:
        stop.set()
        thread.join()


def test_what_is_frozen_is_thawed_before_it_is_killed(tmp_path: Path) -> None:
    inner = tmp_path / "machine" / "pod"
    inner.mkdir(parents=True)
    for directory, state in ((inner.parent, "THAWED"), (inner, "FROZEN")):
        (directory / "freezer.state").write_text(f"{state}\n")
        (directory / "cgroup.procs").write_text("")
    cgroups.MachineCgroups(version=1, directories=(inner.parent,), hierarchies=())._kill()
    assert (inner / "freezer.state").read_text() == "THAWED"
