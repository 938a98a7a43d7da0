"""What is there only after is found, whatever kind it is of."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from architect.shim.packets import ruleset
from faults import leaks
from faults.leaks import Scope, iptables_rules, leaked, nft_rules, snapshot


def test_only_what_is_more_is_leaked() -> None:
    before = {"files": {"a": 1, "b": 1}, "descriptors": {"x: socket": 3}}
    after = {"files": {"b": 1, "c": 1}, "descriptors": {"x: socket": 5}}
    assert leaked(before, after) == ["descriptors: x: socket (2 more)", "files: c"]
    assert leaked(after, after) == []


def test_files_directories_and_sockets_are_found(tmp_path: Path) -> None:
    scope = Scope(below=os.getpid(), directories=(str(tmp_path),), socket_paths=(str(tmp_path),))
    before = snapshot(scope)
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods/left").touch()
    (tmp_path / "keeper.log").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "left.sock"))
        found = leaked(before, snapshot(scope))
    assert f"files: /pods/left in {tmp_path}" in found
    assert f"sockets: {tmp_path}/left.sock" in found
    assert not any("keeper.log" in each for each in found)


def test_sockets_of_who_is_not_below_are_theirs(tmp_path: Path) -> None:
    """Nodes in miniature beside each other have the same paths in the same network namespace."""
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            scope = Scope(below=process.pid, socket_paths=(str(tmp_path),))
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(tmp_path / "keeper.sock"))
                assert snapshot(scope)["sockets"] == {}
        finally:
            process.kill()


def test_a_process_is_found() -> None:
    scope = Scope(below=os.getpid())
    before = snapshot(scope)
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            # Popen returns a moment before it has its name.
            while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
                time.sleep(0.01)
            # Others come and go on this machine, with cgroups and sockets.
            found = [text for text in leaked(before, snapshot(scope)) if "processes" in text]
            assert found == ["processes: sleep"]
        finally:
            process.kill()


def test_another_python_can_run_it(tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    scope = Scope(below=os.getpid(), directories=(str(tmp_path),))
    done = subprocess.run(
        [sys.executable, "-I", "-S", leaks.__file__],
        input=leaks.to_json(scope),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"/left in {tmp_path}" in json.loads(done.stdout)["files"]


KUBE_PROXY = """\
*nat
:KUBE-SVC-OE2J3WZ - [0:0]
:KUBE-SEP-OE2J3WZ - [0:0]
-A KUBE-SERVICES -d 10.0.0.9/32 -p tcp -m comment --comment "architect/architect-webhook:https" -j X
-A KUBE-SEP-OE2J3WZ -s 10.1.0.4/32 -m comment --comment "architect/architect-webhook" -j KUBE-MARK
COMMIT
"""


def test_rules_of_others_that_name_us_are_theirs() -> None:
    assert list(iptables_rules(KUBE_PROXY.splitlines())) == []
    listed = f"table ip nat {{\n{KUBE_PROXY}}}\ntable ip architected {{\n}}\n"
    assert list(nft_rules(listed.splitlines())) == []


def test_rules_that_only_we_would_have_are_found() -> None:
    assert leaks.TABLES[0] == ruleset.TABLE
    lines = ["-A INPUT -p tcp -j NFQUEUE --queue-num 5", ":ARCHITECT-HOLD - [0:0]"]
    assert list(iptables_rules(KUBE_PROXY.splitlines() + lines)) == lines
    listed = """\
table ip nat {
	chain KUBE-X {
	}
}
table ip6 architect {
	chain in {
		queue to 5
	}
}
table ip other {
	chain out {
	}
}
"""
    assert list(nft_rules(listed.splitlines())) == [
        "ip6 architect: table ip6 architect {",
        "ip6 architect: chain in {",
        "ip6 architect: queue to 5",
    ]
