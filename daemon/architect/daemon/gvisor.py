"""Whether pods of gVisor can run on this node, and if not, why.

Runs a container of it once, by the bundle's ``architect-runtime try-gvisor``, and writes down with
which of runsc's flags that worked. The rest is pure.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Final

from architect.core.errors import NodeError
from architect.daemon import install
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.preflight import Report
from architect.daemon.settings import DaemonSettings, Engine

TRIAL_SECONDS: Final = 300.0
"""A container with each choice of flags, none of which takes longer than two minutes."""
UNBOUNDED: Final = "--ignore-cgroups"
UNTRIED: Final = "Untried"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How the container fared."""

    problem: str = ""
    """Empty: it ran."""
    flags: tuple[str, ...] = ()


def attempt(settings: DaemonSettings, host: Host, layout: Layout) -> Trial:
    """Run a container, and have all others run with the same flags. Raises OSError."""
    program = layout.current / "bin" / "architect-runtime"
    given = shlex.split(settings.gvisor_flags)
    words = [str(program), "try-gvisor", "--output=json", "--", *given]
    try:
        said = host.run(words, timeout_seconds=TRIAL_SECONDS)
        flags = tuple(str(flag) for flag in json.loads(said)["flags"])
    except NodeError as error:
        return Trial(problem=error.message)
    except (ValueError, KeyError, TypeError) as error:
        return Trial(problem=f"{program} try-gvisor said what is not understood: {error!r}")
    install.write_runsc_conf(layout, flags)
    return Trial(problem="", flags=flags)


def assess(
    trial: Trial | None, *, is_wanted: bool, engine: Engine | None, install: str, uninstalling: str
) -> Report:
    """Return the verdict; *trial* and *engine* are None as long as they are not known."""
    if uninstalling:
        return _refused("Uninstalling", "Architect is being uninstalled")
    if not is_wanted:
        return _refused("Disabled", "not enabled (the chart's gvisor.enabled)")
    if install:
        return _refused("InstallFailed", install)
    if engine is Engine.CRIO:
        return _refused("EngineUnsupported", "pods of gVisor run under containerd, not CRI-O")
    if trial is None:
        return _refused(UNTRIED, "it is being tried")
    if trial.problem:
        return _refused("RunscFails", trial.problem)
    text = "a container ran"
    if trial.flags:
        text += f" with runsc {' '.join(trial.flags)}"
    if UNBOUNDED in trial.flags:
        text += ": the limits of such pods are not enforced, and what they use is not known"
    return Report(is_ready=True, reason="Ready", message=text)


def _refused(reason: str, message: str) -> Report:
    return Report(is_ready=False, reason=reason, message=message)
