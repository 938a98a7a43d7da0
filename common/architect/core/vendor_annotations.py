"""Annotations of Loophole Labs' Architect, translated into our policy.

The keys, value shapes and defaults are those of that product's public documentation, so that a
pod written for it works unchanged. Two of its parts need no counterpart here:

* Its health-check proxy is a sidecar that answers on a shadow port. Our stand-in answers on the
  application's own port, so a probe that names a shadow port is led to the application's.
* Its shadow ports are redirected to the application. Ours are not: traffic to them is not
  activity, and reaches what listens there.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from architect.api import names
from architect.api.policy import ContainerPolicy, Migrate, Policy, Probe, WakeOn
from architect.core import annotation_values as values
from architect.core.annotation_values import Reader, Reading

MANAGED_CONTAINERS: Final = names.VENDOR_PREFIX + "managed-containers"
MANAGED_POD: Final = names.VENDOR_PREFIX + "managed-pod"
SCALEDOWN_DURATIONS: Final = names.VENDOR_PREFIX + "scaledown-durations"
INITIAL_SCALEDOWN_DELAYS: Final = names.VENDOR_PREFIX + "initial-scaledown-delays"
NETWORK_MONITOR: Final = names.VENDOR_PREFIX + "network-monitor"
HEALTH_CHECK_PROXY: Final = names.VENDOR_PREFIX + "health-check-proxy"
SHADOW_PORTS: Final = names.VENDOR_PREFIX + "shadow-ports"
START_FROM: Final = names.VENDOR_PREFIX + "start-from-persistent-checkpoint"

KEYS: Final = (
    MANAGED_CONTAINERS,
    MANAGED_POD,
    SCALEDOWN_DURATIONS,
    INITIAL_SCALEDOWN_DELAYS,
    NETWORK_MONITOR,
    HEALTH_CHECK_PROXY,
    SHADOW_PORTS,
    START_FROM,
)

DEFAULT_IDLE_SECONDS: Final = 60.0
MAX_DELAY_SECONDS: Final = 24 * 3600.0
"""Longer initial delays count as this one."""

_OF_SLEEP: Final = (SCALEDOWN_DURATIONS, INITIAL_SCALEDOWN_DELAYS, NETWORK_MONITOR, SHADOW_PORTS)
"""Keys that mean nothing for a pod that does not sleep."""

_ALLOWED_LIST: Final = 'a JSON list of app containers, each once, such as ["app"]'
_ALLOWED_MAPPINGS: Final = (
    '{"mappings": [{"containerName": "app", "appPort": 8080, "shadowPort": 9080}]}'
)
_MONITORS: Final = {"packets": WakeOn.PACKETS, "connections": WakeOn.CONNECTIONS}
_MAPPING_FIELDS: Final = frozenset({"containerName", "appPort", "shadowPort"})


def read(reader: Reader, *, runtime_class: str | None) -> Reading:
    """Return what the vendor's annotations say; what is wrong is written down in *reader*."""
    _warn_of_unknown_keys(reader)
    gvisor = bool(
        reader.scalar(
            MANAGED_POD,
            values.one_of({"": True, "true": True, "false": False}),
            allowed="true, false",
        )
    )
    managed = _managed(reader, whole_pod=gvisor, runtime_class=runtime_class)
    idle = reader.per_container(
        SCALEDOWN_DURATIONS,
        values.duration,
        allowed=values.ALLOWED_DURATION,
        managed=managed,
        scalars=False,
    )
    delays = reader.per_container(
        INITIAL_SCALEDOWN_DELAYS,
        values.duration,
        allowed="a duration such as 90s, 5m or 1h30m (longer than 24h counts as 24h)",
        managed=managed,
        scalars=False,
    )
    monitors = reader.per_container(
        NETWORK_MONITOR,
        values.one_of(_MONITORS),
        allowed=", ".join(_MONITORS),
        managed=managed,
        scalars=False,
    )
    proxied = _mappings(reader, HEALTH_CHECK_PROXY)
    shadowed = _mappings(reader, SHADOW_PORTS)
    start_from = reader.scalar(
        START_FROM,
        values.object_name,
        allowed="the name of a PersistentCheckpoint in the pod's namespace",
    )
    if not managed:
        for key in KEYS:
            if key in reader.annotations and key not in (MANAGED_CONTAINERS, MANAGED_POD):
                reader.warn(f"{key} has no effect: no container of the pod is managed")
        return Reading(warnings=tuple(reader.warnings))
    if gvisor:
        for key in _OF_SLEEP:
            if key in reader.annotations:
                reader.warn(f"{key} has no effect: a gVisor pod does not sleep by itself")
        idle, delays, monitors, shadowed = {}, {}, {}, {}
    for name, seconds in delays.items():
        if seconds > MAX_DELAY_SECONDS:
            reader.warn(f"{INITIAL_SCALEDOWN_DELAYS}: container {name} gets 24h, the longest delay")
    for name, seconds in idle.items():
        if seconds < 1:
            reader.warn(f"{SCALEDOWN_DURATIONS}: container {name} sleeps as soon as it is idle")
    for name, ports in proxied.items():
        for shadow, app in ports.items():
            reader.warn(
                f"{HEALTH_CHECK_PROXY}: nothing answers on port {shadow} of container {name}; its "
                f"probes are led to port {app}"
            )
    for name, ports in shadowed.items():
        for shadow, app in ports.items():
            reader.warn(
                f"{SHADOW_PORTS}: port {shadow} of container {name} is not redirected to {app}; "
                "traffic to it does not count"
            )
    policy = Policy(
        containers=MappingProxyType(
            {
                container.name: ContainerPolicy(
                    idle_seconds=None if gvisor else idle.get(container.name, DEFAULT_IDLE_SECONDS),
                    warmup_seconds=min(delays.get(container.name, 0.0), MAX_DELAY_SECONDS),
                    wake_on=monitors.get(container.name, WakeOn.EXEC),
                    shadow_ports=tuple(sorted(shadowed.get(container.name, {}))),
                    probes=_led(container.probes, proxied.get(container.name, {})),
                )
                for container in reader.containers
                if container.name in managed
            }
        ),
        migrate=Migrate.NEVER if gvisor or start_from is not None else Migrate.ALWAYS,
        start_from=start_from,
    )
    return Reading(
        policy=policy,
        runtime_class=names.RUNTIME_CLASS_GVISOR if gvisor else names.RUNTIME_CLASS,
        probe_ports={name: ports for name, ports in proxied.items() if name in managed},
        warnings=tuple(reader.warnings),
    )


def _managed(reader: Reader, *, whole_pod: bool, runtime_class: str | None) -> tuple[str, ...]:
    given = reader.json(MANAGED_CONTAINERS, allowed=_ALLOWED_LIST)
    if given is not None and whole_pod:
        reader.errors.append(
            f"{MANAGED_CONTAINERS} and {MANAGED_POD} cannot stand on one pod: the former is for "
            f"{names.RUNTIME_CLASS}, the latter for {names.RUNTIME_CLASS_GVISOR}"
        )
    expected, key = (
        (names.RUNTIME_CLASS_GVISOR, MANAGED_POD)
        if whole_pod
        else (names.RUNTIME_CLASS, MANAGED_CONTAINERS)
    )
    ours = (names.RUNTIME_CLASS, names.RUNTIME_CLASS_GVISOR)
    if key in reader.annotations and runtime_class in ours and runtime_class != expected:
        reader.refuse(
            key,
            reader.annotations[key],
            allowed=f"runtimeClassName {expected}, not {runtime_class}",
        )
    if whole_pod:
        return reader.names
    if given is None:
        return ()
    if (
        not isinstance(given, list)
        or not all(isinstance(name, str) for name in given)
        or len(set(given)) != len(given)
    ):
        reader.refuse(MANAGED_CONTAINERS, given, allowed=_ALLOWED_LIST)
        return reader.names
    unknown = [name for name in given if not reader.known(MANAGED_CONTAINERS, name)]
    return reader.names if unknown else tuple(given)


def _mappings(reader: Reader, key: str) -> dict[str, dict[int, int]]:
    """Return container → (shadow port → application's port)."""
    given = reader.json_object(key, allowed=_ALLOWED_MAPPINGS)
    if given is None:
        return {}
    entries = given.get("mappings")
    if given.keys() != {"mappings"} or not isinstance(entries, list):
        reader.refuse(key, given, allowed=_ALLOWED_MAPPINGS)
        return {}
    found: dict[str, dict[int, int]] = {}
    for entry in entries:
        mapping = _mapping(entry)
        if mapping is None:
            reader.refuse(key, entry, allowed=_ALLOWED_MAPPINGS)
            continue
        name, shadow, app = mapping
        if not reader.known(key, name):
            continue
        ports = found.setdefault(name, {})
        if ports.get(shadow, app) != app:
            reader.refuse(key, entry, allowed="one appPort for each shadowPort")
            continue
        ports[shadow] = app
    for name, ports in found.items():
        # A chain (8080 → 9080 → 9090) has no fixed point after one translation.
        for shadow, app in ports.items():
            if app in ports:
                reader.refuse(
                    key,
                    shadow,
                    allowed=f"shadow ports whose appPort ({app}) is not a shadowPort too",
                    where=f"container {name}",
                )
    return found


def _mapping(entry: Any) -> tuple[str, int, int] | None:
    if not isinstance(entry, dict) or entry.keys() != _MAPPING_FIELDS:
        return None
    name = entry["containerName"]
    if not isinstance(name, str):
        return None
    try:
        return name, values.port(entry["shadowPort"]), values.port(entry["appPort"])
    except ValueError:
        return None


def _led(probes: Sequence[Probe], ports: Mapping[int, int]) -> tuple[Probe, ...]:
    """Return *probes* with shadow ports replaced by the application's, each probe once."""
    led = (
        probe if probe.port is None else replace(probe, port=ports.get(probe.port, probe.port))
        for probe in probes
    )
    return tuple(dict.fromkeys(led))


def _warn_of_unknown_keys(reader: Reader) -> None:
    for key in reader.annotations:
        if key.startswith(names.VENDOR_PREFIX) and key not in KEYS:
            close = difflib.get_close_matches(key[:253], KEYS, n=1, cutoff=0.0)
            reader.warn(f"{values.quote(key)[1:-1]} is not known and ignored; near: {close[0]}")
