"""What this node is, as far as a checkpoint depends on it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import re
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core.errors import NodeError
from architect.daemon.host import Host
from architect.kube.checkpoints import Gvisor, Requirements

log = logging.getLogger(__name__)

ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""``uname -m`` → node label ``kubernetes.io/arch``."""

CPUINFO: Final = Path("/proc/cpuinfo")
_CPU_FLAGS: Final = ("flags", "Features")
"""Of /proc/cpuinfo, on x86 and on ARM."""
_VERSION: Final = re.compile(r"^Version: ([0-9][0-9A-Za-z.]*)", re.MULTILINE)
_RUNSC_VERSION: Final = re.compile(r"^runsc version (\S+)", re.MULTILINE)
_PLATFORM: Final = re.compile(r"^--?platform=(\w+)$", re.MULTILINE)
PLATFORM: Final = "systrap"
"""runsc's default."""
_VERSION_SECONDS: Final = 10.0


class NodeFacts:
    """Of the node that the daemon runs on. Safe to use from several threads."""

    def __init__(self, host: Host, *, current: Path) -> None:
        self._host = host
        self._current = current
        self._criu = ("", "")
        """Which bundle was asked, and the version that its CRIU told."""

    @property
    def requirements(self) -> Requirements:
        """What a node must have to go on with what runs on this one. Raises OSError."""
        return dataclasses.replace(self._lasting, criu=self._criu_of_bundle())

    @functools.cached_property
    def _lasting(self) -> Requirements:
        return Requirements(
            architecture=architecture(),
            cpu_features=cpu_features(CPUINFO.read_text()),
            kernel=os.uname().release,
        )

    @property
    def gvisor(self) -> Gvisor | None:
        """What restores pods of gVisor here; None: nothing. Read anew: it is installed late."""
        program = self._current / "bin" / "runsc-architect"
        try:
            said = self._host.run([str(program), "--version"], timeout_seconds=_VERSION_SECONDS)
            flags = self._host.read(names.RUNSC_CONF) or ""
        except NodeError as error:
            log.warning("gVisor's version is not known: %s", error)
            return None
        version, platform = _RUNSC_VERSION.search(said), _PLATFORM.search(flags)
        if version is None:
            return None
        return Gvisor(version=version[1], platform=platform[1] if platform else PLATFORM)

    def _criu_of_bundle(self) -> str:
        """Return the version of the installed CRIU; empty if it does not tell.

        Asked once for each bundle: pods come and go before a new daemon has installed its own.
        """
        bundle = str(self._current.resolve())
        if self._criu[0] != bundle and (told := self._ask_criu()):
            self._criu = (bundle, told)
        return self._criu[1] if self._criu[0] == bundle else ""

    def _ask_criu(self) -> str:
        program = self._current / "bin" / "architect-criu"
        try:
            said = self._host.run([str(program), "--version"], timeout_seconds=_VERSION_SECONDS)
        except NodeError as error:
            log.error("CRIU's version is not known: %s", error)
            return ""
        found = _VERSION.search(said)
        return found[1] if found else ""


def architecture() -> str:
    """Return the architecture as in the node label ``kubernetes.io/arch``."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """Return the CPU features that every processor has, sorted."""
    found: set[str] | None = None
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _CPU_FLAGS:
            flags = set(value.split())
            found = flags if found is None else found & flags
    return tuple(sorted(found or ()))
