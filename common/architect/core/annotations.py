"""A user's annotations, read: the policy of the pod, or everything that is wrong with them.

Two families of keys are understood, ours (``architect.dev/``) and the vendor-compatible one
(:mod:`architect.core.vendor_annotations`); a pod uses one of them. Keys hold for the whole pod, or
are scalars that may be replaced by a JSON object keyed by container name.
``docs/labels-and-annotations.md`` is the reference; tests run its examples through this module.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from architect.api import names
from architect.api.policy import ContainerPolicy, Migrate, OnRestoreFailure, Policy, Storage, WakeOn
from architect.core import annotation_values as values
from architect.core import vendor_annotations
from architect.core.annotation_values import AnnotationErrors, AppContainer, Reader, Reading

__all__ = [
    "OPT_IN",
    "WRITTEN_BY_US",
    "AnnotationErrors",
    "AppContainer",
    "Reading",
    "policy_from_annotations",
    "read",
]

WRITTEN_BY_US: Final = frozenset({names.POLICY, names.ORIGINAL_REQUESTS})
"""Annotations that a pod may carry and that no user writes."""

OPT_IN: Final = (names.IDLE, names.MIGRATE, names.START_FROM)
"""Any of these (``migrate: "false"`` excepted) makes the pod a managed one."""

LABELS_ONLY: Final = frozenset({names.FRESH, names.WEBHOOK_LABEL, *names.NODE_LABELS})
"""Keys that mean something as a label and nothing as an annotation."""

QUICK_SECONDS: Final = 1.0
"""A shorter idle time is legal and odd: a dump and a restore take a tenth of a second or more."""

_NOT_UNDER_GVISOR: Final = MappingProxyType(
    {
        names.CONTAINERS: "a gVisor pod is one sandbox, with all its containers",
        names.IDLE: "a gVisor pod does not sleep by itself",
        names.WAKE_ON: "a gVisor pod does not sleep",
        names.WARMUP: "a gVisor pod does not sleep",
        names.SHADOW_PORTS: "a gVisor pod does not sleep",
        names.MIGRATE: "a gVisor pod does not move",
    }
)
"""What is read and has no effect on a pod of gVisor, and why."""

_RUNTIMES: Final = {"runc": names.RUNTIME_CLASS, "runsc": names.RUNTIME_CLASS_GVISOR}
_BOOLEANS: Final = {"true": True, "false": False}
_MOVING: Final = (Migrate.ALWAYS, Migrate.EVICTION)
_ALLOWED_IDLE: Final = f"{values.ALLOWED_DURATION} or never"
_ALLOWED_CONTAINERS: Final = "a comma list of app containers, each once, such as app,worker"


def policy_from_annotations(
    annotations: Mapping[str, str], containers: Sequence[AppContainer]
) -> Policy | None:
    """Return the policy that *annotations* ask for, None if the pod is not opted in.

    Raises AnnotationErrors with every problem found.
    """
    return read(annotations, containers).policy


def read(
    annotations: Mapping[str, str],
    containers: Sequence[AppContainer],
    *,
    runtime_class: str | None = None,
) -> Reading:
    """Return what *annotations* say about a pod with these app *containers*.

    *runtime_class* is the class that the pod already names, if any: one of ours decides the
    runtime where no annotation does. Raises AnnotationErrors with every problem found.
    """
    reader = Reader(annotations, containers)
    _refuse_unknown_keys(reader)
    ours = [key for key in names.USER_ANNOTATIONS if key in annotations]
    theirs = [key for key in vendor_annotations.KEYS if key in annotations]
    if ours and theirs:
        reader.errors.append(
            f"{ours[0]} and {theirs[0]} cannot stand on one pod: use annotations of "
            f"{names.GROUP}/ or of {names.VENDOR_PREFIX}, not both"
        )
    if theirs:
        reading = vendor_annotations.read(reader, runtime_class=runtime_class)
        if ours:
            _native(reader, present=ours, runtime_class=runtime_class)
    else:
        reading = _native(reader, present=ours, runtime_class=runtime_class)
    reader.finish()
    return reading


def _native(reader: Reader, *, present: Sequence[str], runtime_class: str | None) -> Reading:
    managed = _managed(reader)
    idle = reader.per_container(names.IDLE, _idle, allowed=_ALLOWED_IDLE, managed=managed)
    warmup = reader.per_container(
        names.WARMUP, values.duration, allowed=values.ALLOWED_DURATION, managed=managed
    )
    wake_on = reader.per_container(
        names.WAKE_ON, values.member(WakeOn), allowed=_members(WakeOn), managed=managed
    )
    shadow_ports = reader.per_container(
        names.SHADOW_PORTS, values.ports, allowed=values.ALLOWED_PORTS, managed=managed
    )
    after_restore = reader.per_container(
        names.AFTER_RESTORE, values.command, allowed=values.ALLOWED_COMMAND, managed=managed
    )
    migrate = reader.scalar(names.MIGRATE, values.member(Migrate), allowed=_members(Migrate))
    move_asleep = reader.scalar(
        names.MOVE_ASLEEP, values.one_of(_BOOLEANS), allowed=", ".join(_BOOLEANS)
    )
    on_failure = reader.scalar(
        names.ON_RESTORE_FAILURE,
        values.member(OnRestoreFailure),
        allowed=_members(OnRestoreFailure),
    )
    start_from = reader.scalar(
        names.START_FROM,
        values.object_name,
        allowed="the name of a PersistentCheckpoint in the pod's namespace",
    )
    priority = reader.scalar(names.PRIORITY, values.priority, allowed=values.ALLOWED_PRIORITY)
    storage = reader.scalar(names.STORAGE, values.member(Storage), allowed=_members(Storage))
    chosen_class = _runtime_class(reader, runtime_class)

    moves = migrate in _MOVING
    opted_in = names.IDLE in present or names.START_FROM in present or moves
    if not opted_in:
        for key in present:
            if key != names.MIGRATE:
                reader.warn(f"{key} has no effect without one of {', '.join(OPT_IN)}")
        return Reading(runtime_class=chosen_class, warnings=tuple(reader.warnings))

    is_gvisor = chosen_class == names.RUNTIME_CLASS_GVISOR
    if is_gvisor:
        _warn_under_gvisor(reader, asks_for_sleep=_asks_for_sleep(idle), moves=moves)
        managed, idle = reader.names, dict.fromkeys(idle)
    elif start_from is not None and moves:
        reader.warn(
            f"{names.MIGRATE} has no effect beside {names.START_FROM}: the pod starts from "
            f"PersistentCheckpoint {start_from}, and does not move"
        )
    if is_gvisor or start_from is not None:
        # A gVisor pod does not move; a PersistentCheckpoint is the only source of its pod's state.
        migrate = Migrate.NEVER
    policy = Policy(
        containers=MappingProxyType(
            {
                container.name: ContainerPolicy(
                    idle_seconds=idle.get(container.name),
                    warmup_seconds=warmup.get(container.name, 0.0),
                    wake_on=wake_on.get(container.name, WakeOn.PACKETS),
                    shadow_ports=shadow_ports.get(container.name, ()),
                    probes=container.probes,
                    after_restore=after_restore.get(container.name, ()),
                )
                for container in reader.containers
                if container.name in managed
            }
        ),
        migrate=Migrate.ALWAYS if migrate is None else migrate,
        move_asleep=move_asleep is not False,
        on_restore_failure=OnRestoreFailure.FRESH if on_failure is None else on_failure,
        start_from=start_from,
        priority=priority,
        storage=storage,
    )
    if after_restore and migrate is Migrate.NEVER and start_from is None:
        reader.warn(f"{names.AFTER_RESTORE} has no effect: the pod does not move")
    if move_asleep is not None and migrate is Migrate.NEVER:
        reader.warn(f"{names.MOVE_ASLEEP} has no effect: the pod does not move")
    if priority is not None and migrate is Migrate.NEVER:
        reader.warn(f"{names.PRIORITY} has no effect: the pod does not move")
    if storage is Storage.OBJECT_STORE and migrate is Migrate.NEVER:
        reader.warn(f"{names.STORAGE} has no effect: the pod does not move")
    _warn_about(reader, policy, idle=idle)
    return Reading(policy=policy, runtime_class=chosen_class, warnings=tuple(reader.warnings))


def _managed(reader: Reader) -> tuple[str, ...]:
    """Return the managed containers; after an error all, so that reading can go on."""
    given = reader.scalar(names.CONTAINERS, values.word_list, allowed=_ALLOWED_CONTAINERS)
    if given is None:
        return reader.names
    unknown = [name for name in given if not reader.known(names.CONTAINERS, name)]
    return reader.names if unknown else given


def _runtime_class(reader: Reader, present: str | None) -> str:
    given = reader.scalar(names.RUNTIME, values.one_of(_RUNTIMES), allowed=", ".join(_RUNTIMES))
    ours = present if present in _RUNTIMES.values() else None
    if given is not None and ours is not None and given != ours:
        reader.refuse(
            names.RUNTIME,
            reader.annotations[names.RUNTIME],
            allowed=f"what agrees with the pod's runtimeClassName {ours}",
        )
    return given or ours or names.RUNTIME_CLASS


def _asks_for_sleep(idle: Mapping[str, float | None]) -> bool:
    return any(seconds is not None for seconds in idle.values())


def _warn_under_gvisor(reader: Reader, *, asks_for_sleep: bool, moves: bool) -> None:
    # What switches off what such a pod does not have is no mistake.
    silent = {names.IDLE: not asks_for_sleep, names.MIGRATE: not moves}
    for key, why in _NOT_UNDER_GVISOR.items():
        if key in reader.annotations and not silent.get(key, False):
            reader.warn(f"{key} has no effect: {why}")


def _warn_about(reader: Reader, policy: Policy, *, idle: Mapping[str, float | None]) -> None:
    for name, seconds in idle.items():
        if seconds is not None and seconds < QUICK_SECONDS:
            reader.warn(
                f"{names.IDLE}: container {name} sleeps {seconds:g}s after its last activity, "
                "which is less than sleeping and waking take"
            )
    without = [name for name in policy.containers if name not in idle]
    if without and _asks_for_sleep(idle):
        reader.warn(
            f"{names.IDLE}: container {without[0]} has no idle time, so the pod never sleeps by "
            f"itself; name it there, or leave it out with {names.CONTAINERS}"
        )
    if (
        idle
        and policy.migrate is Migrate.NEVER
        and policy.start_from is None
        and reader.annotations.get(names.MIGRATE, "").strip() == Migrate.NEVER.value
        and not _asks_for_sleep(idle)
    ):
        reader.warn("the pod is managed, and neither sleeps by itself nor moves")


def _refuse_unknown_keys(reader: Reader) -> None:
    known = {*names.USER_ANNOTATIONS, *WRITTEN_BY_US}
    for key in reader.annotations:
        if not key.startswith(f"{names.GROUP}/") or key in known:
            continue
        if key in LABELS_ONLY:
            reader.errors.append(f"{key} is a label: it means nothing as an annotation")
            continue
        close = difflib.get_close_matches(key[:253], names.USER_ANNOTATIONS, n=1, cutoff=0.0)
        value = values.quote(reader.annotations[key])
        reader.errors.append(
            f"{values.quote(key)[1:-1]}: {value} has an unknown key, did you mean {close[0]}? "
            f"known: {', '.join(names.USER_ANNOTATIONS)}"
        )


def _idle(value: Any) -> float | None:
    return None if value == "never" else values.duration(value)


def _members(kind: type[enum.Enum]) -> str:
    return ", ".join(str(member.value) for member in kind)
