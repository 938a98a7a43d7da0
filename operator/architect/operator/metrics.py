"""The operator's numbers, in Prometheus' text format.

A handful of counters and gauges: the format is written here rather than by a library.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.operator import holdings

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One metric's name, type and meaning."""

    name: str
    type: str
    help: str


LEADER: Final = Family(
    name="architect_operator_leader", type="gauge", help="1 where this replica holds the lease."
)
ACTIONS: Final = Family(
    name="architect_operator_actions_total",
    type="counter",
    help="What was done, by action and result.",
)
CHECKPOINTS: Final = Family(
    name="architect_operator_checkpoints",
    type="gauge",
    help="Checkpoint objects at the last sweep.",
)
PERSISTENT: Final = Family(
    name="architect_operator_persistent_checkpoints",
    type="gauge",
    help="PersistentCheckpoint objects at the last sweep, by how far they have come.",
)
PERSISTENT_BYTES: Final = Family(
    name="architect_operator_persistent_checkpoint_bytes",
    type="gauge",
    help="Bytes, before compression, of available PersistentCheckpoints at the last sweep.",
)
HELD: Final = Family(
    name="architect_operator_held_checkpoints",
    type="gauge",
    help="Checkpoints that can be restored, at the last sweep, by namespace and kind.",
)
HELD_BYTES: Final = Family(
    name="architect_operator_held_checkpoint_bytes",
    type="gauge",
    help="Their bytes, before compression, by namespace and kind.",
)
BEYOND: Final = Family(
    name="architect_operator_beyond_limits",
    type="gauge",
    help="Namespaces, and the cluster, whose PersistentCheckpoints stay beyond objectStore.limits.",
)
UNMANAGED: Final = Family(
    name="architect_operator_unmanaged_pods",
    type="gauge",
    help="Pods that want to be managed and are not, now.",
)
UNMANAGED_TOTAL: Final = Family(
    name="architect_operator_unmanaged_pods_total",
    type="counter",
    help="Pods that were found to want management and not have it.",
)
NODES: Final = Family(
    name="architect_operator_nodes",
    type="gauge",
    help="Nodes with the ready label, by whether a daemon serves them.",
)
SWEEPS: Final = Family(
    name="architect_operator_sweeps_total", type="counter", help="Looks at everything, by result."
)
SWEEP_SECONDS: Final = Family(
    name="architect_operator_sweep_duration_seconds",
    type="gauge",
    help="Duration of the last complete sweep.",
)
SWEPT_AT: Final = Family(
    name="architect_operator_last_sweep_timestamp_seconds",
    type="gauge",
    help="Unix time of the last complete sweep.",
)
CERTIFICATES: Final = Family(
    name="architect_operator_certificates_total",
    type="counter",
    help="Requests of daemons for certificates, by what became of them.",
)
STORED: Final = Family(
    name="architect_operator_stored_checkpoints",
    type="gauge",
    help="Checkpoints in the object store at the last look through it.",
)
STORED_BYTES: Final = Family(
    name="architect_operator_stored_bytes",
    type="gauge",
    help="Bytes of checkpoints in the object store at the last look through it.",
)
REMOVALS: Final = Family(
    name="architect_operator_store_removals_total",
    type="counter",
    help="Checkpoints removed from the object store, by result.",
)
REMOVALS_LEFT: Final = Family(
    name="architect_operator_store_removals_left",
    type="gauge",
    help="Deleted objects whose data could not be removed from the object store yet.",
)
ADOPTIONS: Final = Family(
    name="architect_operator_adoptions_total",
    type="counter",
    help="Checkpoints that silent nodes left in the object store, by what became of them.",
)
ENDING: Final = Family(
    name="architect_operator_ending_nodes",
    type="gauge",
    help="Nodes whose machine is announced to end, by whether it is ready, silent or gone.",
)
KEY_RELEASES: Final = Family(
    name="architect_operator_key_releases_total",
    type="counter",
    help="Claims of checkpoints in the object store, by what became of their key.",
)
KEYS_SEALED: Final = Family(
    name="architect_operator_keys_sealed",
    type="gauge",
    help="1 where the private keys in their Secret are sealed by the key that is set, by provider.",
)
KEY_SERVICE: Final = Family(
    name="architect_operator_key_service_requests_total",
    type="counter",
    help="Questions to the key management service, by request and result.",
)

FAMILIES: Final = (
    LEADER,
    ACTIONS,
    CHECKPOINTS,
    PERSISTENT,
    PERSISTENT_BYTES,
    HELD,
    HELD_BYTES,
    BEYOND,
    UNMANAGED,
    UNMANAGED_TOTAL,
    NODES,
    SWEEPS,
    SWEEP_SECONDS,
    SWEPT_AT,
    CERTIFICATES,
    STORED,
    STORED_BYTES,
    REMOVALS,
    REMOVALS_LEFT,
    ADOPTIONS,
    ENDING,
    KEY_RELEASES,
    KEYS_SEALED,
    KEY_SERVICE,
)

_Labels = tuple[tuple[str, str], ...]


class Metrics:
    """The values; any thread may change or render them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[_Labels, float]] = {family.name: {} for family in FAMILIES}

    def set(self, family: Family, value: float, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[family.name][tuple(sorted(labels.items()))] = value

    def add(self, family: Family, value: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            values = self._values[family.name]
            values[key] = values.get(key, 0.0) + value

    def replace(
        self, family: Family, values: Iterable[tuple[Mapping[str, str], float]], **labels: str
    ) -> None:
        """Set a gauge to these values, by further labels, and to no others of those *labels*."""
        common = set(labels.items())
        new = {tuple(sorted({**labels, **more}.items())): value for more, value in values}
        with self._lock:
            kept = self._values[family.name]
            for key in [key for key in kept if common <= set(key)]:
                del kept[key]
            kept.update(new)

    def get(self, family: Family, **labels: str) -> float:
        """Return a value, 0 if it was never set."""
        with self._lock:
            return self._values[family.name].get(tuple(sorted(labels.items())), 0.0)

    def render(self) -> str:
        """Return everything in the text format."""
        lines: list[str] = []
        with self._lock:
            for family in FAMILIES:
                lines.append(f"# HELP {family.name} {family.help}")
                lines.append(f"# TYPE {family.name} {family.type}")
                lines += (
                    f"{family.name}{_labels(labels)} {value:.17g}"
                    for labels, value in sorted(self._values[family.name].items())
                )
        return "\n".join(lines) + "\n"


def tell_held(numbers: Metrics, values: Iterable[Mapping[str, Any]], *kinds: str) -> None:
    """Set what objects of these *kinds* hold; *values* are all of them that there are."""
    found = holdings.of(values)
    for kind in kinds:
        of_kind = {namespace: one for (namespace, k), one in found.items() if k == kind}
        counts = [({"namespace": n}, float(one.count)) for n, one in of_kind.items()]
        sizes = [({"namespace": n}, float(one.size)) for n, one in of_kind.items()]
        numbers.replace(HELD, counts, kind=kind)
        numbers.replace(HELD_BYTES, sizes, kind=kind)


def _labels(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
