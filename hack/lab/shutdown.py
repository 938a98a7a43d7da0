"""A node whose kubelet shuts it down gracefully, as on a machine with systemd.

For that kubelet needs logind, by the system bus. Nodes have neither; who tries shutdowns gets both
for a ``with`` block: a real bus, and a double of logind (``logind.py``) that ends no machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab import errors, waiting
from lab.node import Node
from lab.patience import patient

BUS: Final = "/run/dbus/system_bus_socket"
BUS_CONFIG: Final = "/usr/lib/lab/system-bus.conf"
LOGIND: Final = "/usr/lib/lab/logind.py"
START_SECONDS: Final = 120.0
KUBELET_SECONDS: Final = 180.0
_MANAGER: Final = (
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)

_BUS_CONFIG: Final = f"""\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={BUS}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow send_type="signal"/>
  </policy>
</busconfig>
"""


@dataclass(frozen=True, kw_only=True)
class Shutdowns:
    """The shutdowns of one node."""

    node: Node

    def begin(self) -> None:
        """Have the node shut down: kubelet ends its pods."""
        self._busctl("call", "PowerOff", "b", "false")

    def take_back(self) -> bool:
        """Have the node not shut down; whether it did. Kubelet hears it once all pods are ended."""
        (was_under_way,) = self._busctl("call", "CancelScheduledShutdown")
        return bool(was_under_way)

    def is_under_way(self) -> bool:
        """Whether one was begun, and not taken back."""
        return bool(self._busctl("get-property", "PreparingForShutdown"))

    def holders(self) -> list[str]:
        """Return who delays the end of the node, or would."""
        (rows,) = self._busctl("call", "ListInhibitors")
        return [str(who) for what, who, why, mode, uid, pid in rows]

    def wait_for_kubelet(self, *, timeout_seconds: float = KUBELET_SECONDS) -> None:
        """Return once kubelet would delay a shutdown."""
        waiting.until(
            lambda: "kubelet" in self.holders(),
            what=f"kubelet of {self.node.name} delays shutdowns",
            timeout_seconds=timeout_seconds,
            interval_seconds=0.2,
        )

    def _busctl(self, verb: str, member: str, *arguments: str) -> Any:
        said = self.node.exec(
            ["busctl", "--system", "--json=short", verb, *_MANAGER, member, *arguments]
        )
        return json.loads(said)["data"] if said.strip() else ()


@contextmanager
def graceful(
    node: Node, *, seconds: float = 60, critical_seconds: float = 20
) -> Iterator[Shutdowns]:
    """Have *node*'s kubelet end pods within *seconds* of a shutdown, for the ``with`` block.

    *critical_seconds* of them are for the critical ones, which come last. Then kubelet is as
    before, and a shutdown that was begun is taken back.
    """
    found = Shutdowns(node=node)
    _put(node, LOGIND, (Path(__file__).parent / "logind.py").read_text())
    _put(node, BUS_CONFIG, _BUS_CONFIG)
    node.exec(["sh", "-c", f"mkdir -p {Path(BUS).parent} && rm -f {BUS}"])
    try:
        bus = ["/usr/bin/dbus-daemon", f"--config-file={BUS_CONFIG}", "--nofork", "--nopidfile"]
        node.machine.start_service("dbus", bus)
        delay = str(patient(seconds))
        node.machine.start_service("logind", ["/usr/bin/python3", LOGIND, delay])
        waiting.until(
            lambda: _answers(found),
            what=f"logind of {node.name}",
            timeout_seconds=START_SECONDS,
            last_seen=lambda: (node.machine.logs / "logind.log").read_text()[-2000:],
        )
        node.configure_kubelet(
            shutdownGracePeriod=f"{patient(seconds):.0f}s",
            shutdownGracePeriodCriticalPods=f"{patient(critical_seconds):.0f}s",
        )
        found.wait_for_kubelet()
        yield found
    finally:
        if node.machine.pid is not None:  # else it has ended
            node.configure_kubelet()
            for name in ("logind", "dbus"):
                node.machine.service(name).stop()
            node.exec(["rm", "-f", BUS])


def _put(node: Node, path: str, text: str) -> None:
    node.exec(["sh", "-c", f"cat > {path}"], input=text)


def _answers(found: Shutdowns) -> bool:
    try:
        found.holders()
    except errors.CommandFailed:
        return False
    return True
