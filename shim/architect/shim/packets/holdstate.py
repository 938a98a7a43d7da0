"""What a new keeper must know to go on with a queue that the old one left: plain JSON values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from architect.core.errors import FormatError

from .gate import Knowledge, Listener, Mode, SavedConnection
from .headers import Flow

_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class HoldState:
    """A gate, but for the packets that it holds; those wait in the kernel."""

    mode: Mode
    knowledge: Knowledge
    #: (monotonic time, reason) of the first packet that woke, if any.
    wake: tuple[float, str] | None = None
    #: Identifier of the newest packet that was judged; 0 before the first.
    last_identifier: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        known = self.knowledge
        return {
            "version": _VERSION,
            "mode": self.mode.value,
            "wake": list(self.wake) if self.wake else None,
            "last_identifier": self.last_identifier,
            "listeners": [
                [e.protocol, e.address, e.port, e.v6only, e.wakes, e.connected]
                for e in known.listeners
            ],
            "connections": [
                [*flow, saved.receive_next, saved.window, saved.wakes]
                for flow, saved in known.connections.items()
            ],
            "probe_ports": sorted(known.probe_ports),
            "answered_ports": sorted(known.answered_ports),
        }

    @classmethod
    def from_dict(cls, value: Any) -> HoldState:
        """Read what `to_dict` gave. FormatError on anything else."""
        try:
            if value["version"] != _VERSION:
                raise FormatError(f"packet hold state has version {value['version']!r}")
            listeners = tuple(
                Listener(
                    protocol=str(protocol),
                    address=str(address),
                    port=int(port),
                    v6only=bool(v6only),
                    wakes=bool(wakes),
                    connected=bool(connected),
                )
                for protocol, address, port, v6only, wakes, connected in value["listeners"]
            )
            connections = {
                Flow(str(source), int(source_port), str(to), int(to_port)): SavedConnection(
                    receive_next=int(receive_next), window=int(window), wakes=bool(wakes)
                )
                for source, source_port, to, to_port, receive_next, window, wakes in value[
                    "connections"
                ]
            }
            wake = value["wake"]
            return cls(
                mode=Mode(value["mode"]),
                knowledge=Knowledge(
                    listeners=listeners,
                    connections=connections,
                    probe_ports=frozenset(int(port) for port in value["probe_ports"]),
                    answered_ports=frozenset(int(port) for port in value["answered_ports"]),
                ),
                wake=(float(wake[0]), str(wake[1])) if wake else None,
                last_identifier=int(value["last_identifier"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(f"packet hold state cannot be read: {error!r}") from error
