"""Where the bundle that this code belongs to lies, and which lower runtime it stands in front of.

``shim/native/launcher.c`` finds the lower runtime by the same rule for calls that never get here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, NoReturn

from architect.api import names
from architect.core.errors import NodeError

SEARCH: Final = tuple(
    map(Path, ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"))
)


def version_directory() -> Path:
    """Return ``/opt/architect/<version>``: the bundle of this very code."""
    bundle = Path(__file__).resolve().parents[3]
    return bundle if (bundle / "MANIFEST.json").exists() else names.CURRENT


def program(name: str) -> Path:
    """Return one of the bundle's programs."""
    return version_directory() / "bin" / name


def init() -> tuple[str, Path]:
    """Return the SHA-256 and the path of the init for new containers. Raises NodeError."""
    version = version_directory()
    named = version / "init.sha256"
    try:
        sha = named.read_text().strip()
    except OSError as error:
        raise NodeError(
            f"cannot read {named}: {error.strerror}",
            reason="BrokenInstallation",
            path=named,
            hint="install the bundle again",
        ) from error
    return sha, init_of(sha)


def criu_version() -> str:
    """Return the version of the bundle's CRIU; empty if the bundle does not tell."""
    try:
        return (version_directory() / "criu.version").read_text().strip()
    except OSError:
        return ""


def init_of(sha: str) -> Path:
    """Return the init with that SHA-256, whichever version it came with. Raises NodeError."""
    path = version_directory().resolve().parent / "init" / Path(sha).name / "init"
    if not path.exists():
        raise NodeError(
            f"{path} is missing",
            reason="BrokenInstallation",
            path=path,
            hint="install the bundle again, of the version that the pod ran with",
        )
    return path


def lower_runtime() -> Path:
    """Return the OCI runtime that does the work. Raises NodeError if there is none."""
    return _lower("runc", "crun")


def default_root() -> str:
    """Return where the lower runtime keeps its state if no ``--root`` says otherwise."""
    try:
        is_crun = lower_runtime().name.startswith("crun")
    except NodeError:
        is_crun = False
    if not is_crun:
        return "/run/runc"
    # crun's rule for root, too; runc has it for other users only.
    return f"{os.environ.get('XDG_RUNTIME_DIR') or '/run'}/crun"


def runsc() -> Path:
    """Return gVisor's runtime: the bundle's, else the host's. Raises NodeError if there is none."""
    own = program("runsc")
    return own if os.access(own, os.X_OK) else _lower("runsc")


def runsc_flags() -> list[str]:
    """Return what runsc needs on this node, as the daemon found out or was told.

    For what makes or ends containers; the launcher passes anything else to runsc without them.
    """
    try:
        lines = (
            (version_directory().resolve().parent / names.RUNSC_CONF.name).read_text().splitlines()
        )
    except FileNotFoundError:
        return []
    return [line for line in lines if line.startswith("--")]


def _lower(*programs: str) -> Path:
    """Return what runtime.conf names by the first of *programs*, else the first that is there."""
    key = programs[0]
    root = version_directory().resolve().parent
    configuration = root / "runtime.conf"
    try:
        lines = configuration.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    named = [Path(line.partition("=")[2]) for line in lines if line.startswith(f"{key}=")]
    searched = [directory / program for program in programs for directory in SEARCH]
    for candidate in [*named, *searched]:
        if _is_lower(candidate, root=root):
            return candidate
    raise NodeError(
        f"no {' or '.join(programs)} found",
        reason="NoRuntime",
        hint=f"name it in {configuration}: {key}=/path",
    )


def pass_on(words: list[str] | tuple[str, ...]) -> NoReturn:
    """Become the lower runtime. Raises NodeError if there is none."""
    runtime = str(lower_runtime())
    os.execv(runtime, [runtime, *words])


def _is_lower(candidate: Path, *, root: Path) -> bool:
    try:
        found = candidate.stat()
    except OSError:
        return False
    return (
        stat.S_ISREG(found.st_mode)
        and os.access(candidate, os.X_OK)
        # Under whatever name, it must not be one of ours.
        and not candidate.resolve().is_relative_to(root)
    )
