"""Whether gVisor works on a node is found out by running a container there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

COMMAND = "/opt/architect/current/bin/architect-runtime try-gvisor -o json"
READ_ONLY = "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mount -o remount,bind,ro $d; done"
"""As where root may not make cgroups. In a mount namespace of its own; what is no mount says so."""


def trial(node: Any, script: str) -> list[str]:
    found = json.loads(node.run("sh", "-c", script))
    return list(found["flags"])


def leftovers(node: Any) -> str:
    look = "ls -d /run/architect/gvisor-trial-*; grep gvisor-trial /proc/mounts; "
    look += "find /sys/fs/cgroup -name 'architect-trial-*'"
    return str(node.run("sh", "-c", f"({look}) 2>/dev/null || true"))


def test_a_container_runs_without_any_flag_and_leaves_nothing(node: Any) -> None:
    assert trial(node, COMMAND) == []
    assert leftovers(node) == ""


def test_where_no_cgroup_can_be_made_it_is_done_without(node: Any) -> None:
    script = f"unshare --mount sh -c '{READ_ONLY} 2>/dev/null; {COMMAND}'"
    assert trial(node, script) == ["--ignore-cgroups"]
    assert trial(node, f"{COMMAND} -- --debug") == ["--debug"]
    assert leftovers(node) == ""


def test_where_it_does_not_run_the_reason_is_what_runsc_says(node: Any) -> None:
    said = node.fails("sh", "-c", f"{COMMAND} -- --platform=none-such")
    assert "runsc cannot run a container here: --platform=none-such: " in said
    said = node.fails("sh", "-c", f"setpriv --bounding-set=-sys_admin {COMMAND}")
    assert "runsc cannot run a container here: " in said
    assert "CAP_SYS_ADMIN" in said
    assert leftovers(node) == ""


def test_the_flags_of_the_node_are_those_of_its_sandboxes(
    node: Any, new_pod: Callable[[], Any]
) -> None:
    conf = node.write("/opt/architect/runsc.conf", "# as the daemon writes it\n--ignore-cgroups\n")
    try:
        pod = new_pod()
        pod.start("web", "sleep", "1000")
        assert pod.exec("web", "echo", "here") == "here"
        assert len(node.processes("runsc-sandbox", "--ignore-cgroups", pod.id)) == 1
    finally:
        node.run("rm", conf)
