"""Connections that somebody left in repair mode are usable again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from architect.shim.keeper import repair

CHILD = """
import os, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.setsockopt(socket.IPPROTO_TCP, 19, 1)
print("marked", flush=True)
sys.stdin.readline()
try:
    connection.sendall(b"x")
    print(connection.recv(10).decode(), flush=True)
except OSError:
    print("refused", flush=True)
"""


@pytest.mark.parametrize("is_mended", [True, False])
def test_a_connection_in_repair_mode_is_its_processes_own_again(is_mended: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(server.getsockname()[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        connection, _ = server.accept()
        with connection:
            assert child.stdout.readline() == "marked\n"
            if is_mended:
                assert repair.mend([child.pid, child.pid, os.getpid()]) == 1
            connection.sendall(b"answer")
            said, _ = child.communicate("\n", timeout=60)
    assert said == ("answer\n" if is_mended else "refused\n")


def test_who_is_gone_or_has_no_connections_is_left_alone() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert repair.mend([child.pid, os.getpid()]) == 0
