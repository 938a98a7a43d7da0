"""Where the host reaches the cluster: a port of its loopback, and the relay behind it.

A record says which port that is, and to the relay which nodes there are, whose ports it carries.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import addresses, errors, waiting
from lab.machine import Machine

HERE = Path(__file__).parent
RELAY_TIMEOUT_SECONDS = 60.0
FILES = ("cluster.json", "relay.json", "relay.log")


class Entrance:
    """Of the cluster in the directory *state*, by the control plane's machine *plane*."""

    def __init__(self, state: Path, *, plane: Machine, pki: Path, preferred_port: int) -> None:
        self._state = state
        self._plane = plane
        self._pki = pki
        self._preferred_port = preferred_port

    @property
    def port(self) -> int:
        """Port of the API server on 127.0.0.1."""
        try:
            return int(self._read()["api_port"])
        except (FileNotFoundError, KeyError):
            return self._preferred_port

    def choose_port(self) -> int:
        """Take a port that nobody has, and write it down as that of a cluster without nodes."""
        port = _free_port(self._preferred_port)
        self._write({"api_port": port, "node_addresses": []})
        return port

    def note_nodes(self, names: Sequence[str]) -> None:
        """Write down which nodes there are."""
        where = [addresses.of_node(addresses.number_of(name)).v4 for name in names]
        self._write({**self._read(), "node_addresses": where})

    def open(self, port: int) -> None:
        """Start the relay, and return when it answers at *port*."""
        api_address = (addresses.CONTROL_PLANE_V4, addresses.API_PORT)
        config = {
            "pid": self._plane.running_pid,
            "fixed": {str(port): api_address},
            "api": api_address,
            "ca": str(self._pki / "ca.crt"),
            "certificate": str(self._pki / "admin.crt"),
            "key": str(self._pki / "admin.key"),
            "nodes_file": str(self._record),
        }
        path = self._state / "relay.json"
        path.write_text(json.dumps(config))
        log = self._state / "relay.log"
        # In the control plane's cgroups, so that it is found and killed with them.
        self._plane.spawn_on_host(
            [sys.executable, "-I", "-S", str(HERE / "relay.py"), str(path)], log=log
        )
        waiting.until(
            self.is_open,
            what="relay on the host's loopback",
            timeout_seconds=RELAY_TIMEOUT_SECONDS,
            last_seen=log.read_text,
        )

    def is_open(self) -> bool:
        """Whether somebody answers at the port."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def forget(self) -> None:
        """Remove what was written down. The relay ends with the control plane."""
        for name in FILES:
            (self._state / name).unlink(missing_ok=True)

    @property
    def _record(self) -> Path:
        return self._state / "cluster.json"

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._record.read_text()))

    def _write(self, value: dict[str, Any]) -> None:
        temporary = self._record.with_suffix(".new")
        temporary.write_text(json.dumps(value))
        temporary.rename(self._record)


def _free_port(preferred: int) -> int:
    """Return *preferred*, or another port of the loopback if somebody listens there."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise errors.LabError("no free port on 127.0.0.1")
