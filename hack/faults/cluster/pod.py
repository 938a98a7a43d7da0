"""A pod on that node: what it runs, and what is known of it without the API server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from faults.cluster.place import Place
from faults.matrix import Fault
from support import workloads
from support.workloads import BarePod, eventually

TERM_SECONDS: Final = 8
"""Of its grace period, used by the application."""
EXIT_STATUS: Final = 7
"""Of the application, after SIGTERM."""


def application(
    place: Place, name: str, *, fault: Fault, metadata: Mapping[str, Any] | None = None
) -> AbstractContextManager[BarePod]:
    """Return a pod for a ``with`` block, with some memory and an end that takes its time."""
    container = {
        **workloads.memory_server(mebibytes=32),
        "env": [{"name": "TERM_SECONDS", "value": f"{TERM_SECONDS}"}],
    }
    return workloads.bare_pod(
        place.cluster,
        place.namespace,
        f"{fault.name}-{name}",
        containers=[container],
        node=place.node.name,
        metadata=metadata,
        spec={"terminationGracePeriodSeconds": 30},
    )


@dataclass
class Life:
    """A running pod and what is known of it without the API server."""

    place: Place
    pod: BarePod
    uid: str
    address: str
    sandbox: str = ""

    @classmethod
    def of(cls, place: Place, pod: BarePod) -> Life:
        """Read what is known."""
        return cls(place=place, pod=pod, uid=pod.uid(), address=pod.pod_ip())

    def ask(self) -> dict[str, Any]:
        """Return what the application says, with the digest of its memory."""
        return workloads.ask(self.place.cluster, f"http://{self.address}:8080/digest")

    def sleep(self) -> None:
        """Put it to sleep, through the node alone."""
        eventually(
            lambda: workloads.try_to_sleep(
                lambda: workloads.ask_runtime(self.place.node, "sleep", self.uid)
            ),
            what="it falls asleep",
        )

    def find_sandbox(self) -> str:
        """Return the id of its sandbox, as the node has written it down."""
        said = self.place.node.exec(
            ["sh", "-c", f"grep -l {self.uid} {names.CONTAINER_RECORDS}/*.json"]
        )
        record = self.place.root / said.split()[0].lstrip("/")
        return str(json.loads(record.read_text())["sandbox_id"])
