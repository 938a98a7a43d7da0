"""The kernel's own table of UNIX sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from architect.shim.packets import unixdiag
from architect.shim.packets.netns import Netns


def test_the_kernel_tells_the_sockets_of_a_namespace(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
        accepted, _ = server.accept()
        with accepted, Netns.own() as here:
            found = unixdiag.sockets(here)
        inode = os.fstat(client.fileno()).st_ino
        peer = found[found[inode].peer]
    assert peer.peer == inode
    assert peer.name == str(tmp_path / "s")
