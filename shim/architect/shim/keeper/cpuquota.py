"""A container's CPU quota, lifted while its memory is brought back.

CRIU restores inside the container's cgroups, so that the memory is the container's from the first
page. A quota would throttle it too: a container limited to a tenth of a core takes 300 ms for what
needs 40 ms of CPU, while somebody waits. What is lifted is on disk before, so that a keeper that is
killed in between is followed by one that puts it back.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from architect.core import files
from architect.core.errors import FormatError
from architect.shim.keeper import images

log = logging.getLogger(__name__)

VERSION: Final = 1
FILE: Final = "cpu-quota.json"
"""Beside the pod's ``pod.json``, while its quota is lifted."""

_V1: Final = ("cpu.cfs_quota_us", "-1")
_V2: Final = ("cpu.max", "max")
"""Name of the file, and what means no quota in it (Documentation/scheduler/sched-bwc.rst and
admin-guide/cgroup-v2.rst of Linux)."""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """One quota as it was found."""

    path: str
    value: str


def found(pod: str, cgroups: Iterable[Mapping[str, Path]]) -> list[Quota]:
    """Return the quotas of the pod with uid *pod*: its containers' and its own.

    *cgroups* are the containers' directories by controller (:func:`.cgroups.of_process`). Of the
    directories above, only one that is named after the pod is the pod's; what lies higher bounds
    others, too.
    """
    quotas: dict[str, Quota] = {}
    for directories in cgroups:
        directory, (name, none) = directories.get("cpu"), _V1
        if directory is None:
            directory, (name, none) = directories.get(""), _V2
        if directory is None:
            continue
        parent = directory.parent
        # kubelet's names: `pod<uid>`, or `kubepods-burstable-pod<uid with underscores>.slice`.
        owner = parent.name.removesuffix(".slice")
        is_pods = owner.endswith((f"pod{pod}", f"pod{pod.replace('-', '_')}"))
        for each in (directory, parent) if is_pods else (directory,):
            value = _read(each / name)
            if value is not None and value.split()[0] != none:
                quotas[str(each / name)] = Quota(path=str(each / name), value=value)
    return list(quotas.values())


@contextlib.contextmanager
def lifted(pod: str, cgroups: Iterable[Mapping[str, Path]]) -> Iterator[None]:
    """Let the pod with uid *pod* use the CPU without quota meanwhile.

    Nothing here fails a wake: where a quota cannot be lifted, the wake is slower.
    """
    quotas = found(pod, cgroups)
    if not quotas:
        yield
        return
    record = images.pod_directory(pod) / FILE
    try:
        value = {"version": VERSION, "quotas": [asdict(quota) for quota in quotas]}
        files.write_json(record, value, durable=False)
        for quota in quotas:
            Path(quota.path).write_text(_none(quota))
    except OSError as error:
        log.warning("pod %s: the CPU quota stays while it wakes: %s", pod, error)
    try:
        yield
    finally:
        _put_back(record, quotas)


def recover() -> None:
    """Put back what a keeper that was killed had lifted."""
    for pod in images.known_pods():
        record = images.pod_directory(pod) / FILE
        try:
            value = files.read_json(record, version=VERSION)
            quotas = [Quota(**each) for each in value["quotas"]]
        except FileNotFoundError:
            continue
        except (FormatError, KeyError, TypeError) as error:
            log.error("pod %s: its CPU quota may still be lifted: %s: %s", pod, record, error)
            continue
        log.info("pod %s: putting its CPU quota back", pod)
        _put_back(record, quotas)


def _put_back(record: Path, quotas: Iterable[Quota]) -> None:
    for quota in quotas:
        path = Path(quota.path)
        try:
            # Whatever else stands there was written by the engine meanwhile, and is newer.
            if (now := _read(path)) is not None and now.split()[0] == _none(quota):
                path.write_text(quota.value)
        except OSError as error:
            log.error("%s: quota %r cannot be put back: %s", path, quota.value, error)
    record.unlink(missing_ok=True)


def _none(quota: Quota) -> str:
    return dict((_V1, _V2))[Path(quota.path).name]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
