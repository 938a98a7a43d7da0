"""The host's bundle: copied whole, verified, switched at once, kept as long as it is needed.

::

    /opt/architect/<version>/      a bundle, never changed once it is there
    /opt/architect/init/<sha>/init the static init, named by its content
    /opt/architect/current         link to the version in use
    /opt/architect/runtime.conf    the lower runtime
    /opt/architect/runsc.conf      flags of gVisor's runtime

A version stays while it is the current one, while a process runs from it, or while a container's
record or image needs its init. So an upgrade never takes away what a sleeping pod needs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from architect.api import names, saved
from architect.core import files
from architect.core.errors import FormatError, NodeError
from architect.daemon.checkpoint import landing
from architect.daemon.host import Host

log = logging.getLogger(__name__)

MANIFEST: Final = "MANIFEST.json"
MANIFEST_VERSION: Final = 1
RUNTIME_CONF: Final = "runtime.conf"
WARDEN: Final = "architect-warden"
RUNSC: Final = "bin/runsc"
"""Of a bundle, and put in place only where it is wanted: it is larger than all the rest."""
_VERSION_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
_SHA = re.compile(r"[0-9a-f]{64}")
_RESERVED: Final = frozenset({"init", "current"})


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle consists of."""

    version: str
    files: Mapping[str, str]
    """Path below the bundle to SHA-256."""
    links: Mapping[str, str]
    """Path below the bundle to what the link holds; none leaves the bundle."""
    init_sha: str

    def without(self, name: str) -> Manifest:
        """Return it without one file."""
        return replace(self, files={n: sha for n, sha in self.files.items() if n != name})


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where things lie; tests put them elsewhere."""

    install: Path = names.INSTALL
    run: Path = names.RUN
    pods: Path = names.PODS
    checkpoints: Path = names.CHECKPOINTS
    arrivals: Path = names.ARRIVALS
    uploads: Path = names.UPLOADS
    requests: Path = names.REQUESTS

    @property
    def current(self) -> Path:
        """The link to the version in use."""
        return self.install / "current"


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of the bundle in *directory*. Raises FormatError."""
    path = directory / MANIFEST
    try:
        value = files.read_json(path, version=MANIFEST_VERSION)
    except FileNotFoundError as error:
        raise FormatError(f"{directory} is no bundle: it has no {MANIFEST}") from error
    version, listed, init_sha = (value.get(k) for k in ("bundle", "files", "init_sha256"))
    if not isinstance(version, str) or not _VERSION_NAME.fullmatch(version) or version in _RESERVED:
        raise FormatError(f"{path}: {version!r:.80} is not a usable version")
    if not isinstance(listed, dict) or not listed:
        raise FormatError(f"{path} lists no files")
    plain: dict[str, str] = {}
    links: dict[str, str] = {}
    for name, entry in listed.items():
        sha, link = (entry.get("sha256"), entry.get("link")) if isinstance(entry, dict) else (0, 0)
        if _leaves(name):
            raise FormatError(f"{path}: {name!r:.120} is not a path in the bundle")
        if isinstance(link, str):
            if os.path.isabs(link) or _leaves(os.path.join(os.path.dirname(name), link)):
                raise FormatError(f"{path}: the link {name!r:.120} leaves the bundle")
            links[name] = link
        elif isinstance(sha, str) and _SHA.fullmatch(sha):
            plain[name] = sha
        else:
            raise FormatError(f"{path}: {name!r:.120} is neither a file nor a link")
    if not isinstance(init_sha, str) or init_sha not in plain.values():
        raise FormatError(f"{path}: init_sha256 {init_sha!r:.80} is no file of the bundle")
    return Manifest(version=version, files=plain, links=links, init_sha=init_sha)


def find_bundle(parent: Path) -> Path:
    """Return the one bundle in *parent*, or *parent* if it is one. Raises FormatError."""
    if (parent / MANIFEST).exists():
        return parent
    # `current` is a link to one of them.
    found = sorted(p.parent for p in parent.glob(f"*/{MANIFEST}") if not p.parent.is_symlink())
    if len(found) != 1:
        raise FormatError(f"{parent} holds {len(found)} bundles instead of one")
    return found[0]


def install(bundle: Path, layout: Layout, *, has_gvisor: bool = False) -> str:
    """Put the bundle in place, with gVisor's runtime if that is wanted, and switch to it.

    Returns its version.
    Whatever is interrupted is made anew at the next try; what is there and complete is not touched.
    Raises FormatError (the image is broken) or NodeError.
    """
    whole = read_manifest(bundle)
    manifest = whole.without(RUNSC)
    try:
        layout.install.mkdir(mode=0o755, parents=True, exist_ok=True)
        target = layout.install / manifest.version
        if not _is_complete(target, manifest, bundle):
            _copy(bundle, target, manifest)
        if not has_gvisor:
            (target / RUNSC).unlink(missing_ok=True)
        elif RUNSC in whole.files:
            _add(bundle, target, RUNSC, sha=whole.files[RUNSC])
        _install_init(target, manifest, layout)
        _switch(layout, manifest.version)
    except OSError as error:
        raise NodeError(
            f"cannot install {manifest.version} in {layout.install}: {error}",
            reason="InstallFailed",
            hint="is there space, and is the path writable and not mounted noexec?",
        ) from error
    return manifest.version


def write_runtime_conf(layout: Layout, runtime: Path) -> None:
    """Name the lower runtime. Raises OSError."""
    path = layout.install / RUNTIME_CONF
    data = f"# written by the architect daemon\nrunc={runtime}\n".encode()
    if not path.exists() or path.read_bytes() != data:
        files.write_atomic(path, data, mode=0o644)


def write_runsc_conf(layout: Layout, flags: Sequence[str]) -> None:
    """Name the flags of gVisor's runtime. Raises OSError."""
    path = layout.install / names.RUNSC_CONF.name
    data = "".join(f"{line}\n" for line in ("# written by the architect daemon", *flags)).encode()
    if not path.exists() or path.read_bytes() != data:
        files.write_atomic(path, data, mode=0o644)


def find_lower_runtime(host: Host, *, configured: str, from_engine: str) -> Path:
    """Return the host's runc: as configured, as the engine has it, or found. Raises NodeError."""
    for text in (configured, from_engine):
        # The engine may name ours, if somebody made our handler the default.
        if text.startswith("/") and not text.startswith(f"{names.INSTALL}/"):
            if os.path.lexists(host.path(Path(text))):
                return Path(text)
            raise NodeError(f"{text} does not exist on the host", reason="NoRuntime")
        if text and "/" not in text and (named := host.find_program(text)) is not None:
            return named
    for name in ("runc", "crun"):
        if (found := host.find_program(name)) is not None:
            return found
    raise NodeError(
        "there is neither runc nor crun on the host",
        reason="NoRuntime",
        hint="name it with --lower-runtime",
    )


def installed_version(layout: Layout) -> str:
    """Return the version in use; empty if there is none."""
    try:
        return os.readlink(layout.current)
    except OSError:
        return ""


def upgrade_keeper(host: Host, layout: Layout) -> bool:
    """Make a running keeper of another version replace itself; returns whether one was told.

    The warden goes on as the new version with all its descriptors, so no held packet is lost.
    """
    version = os.readlink(layout.current)
    told = False
    for process in host.processes(WARDEN):
        try:
            program = os.readlink(f"/proc/{process.pid}/exe")
        except OSError:
            continue
        if f"/{version}/" in program:
            continue
        log.info("asking the keeper's parent (%d) to become version %s", process.pid, version)
        try:
            os.kill(process.pid, signal.SIGHUP)
            told = True
        except OSError as error:
            raise NodeError(f"cannot signal the warden {process.pid}: {error.strerror}") from error
    return told


def prune(layout: Layout) -> list[Path]:
    """Remove versions and inits that nothing needs; returns what was removed. Raises OSError.

    What cannot be told while images move stays until the next time.
    """
    kept_versions = {os.readlink(layout.current)} | _running_versions(layout)
    versions = _versions(layout)
    kept = [directory for directory in versions if directory.name in kept_versions]
    removed = [directory for directory in versions if directory.name not in kept_versions]
    needed = _needed_inits(layout)
    if needed is not None:
        needed |= {read_manifest(directory).init_sha for directory in kept}
        removed += (
            init
            for init in layout.install.glob("init/*")
            if _SHA.fullmatch(init.name) and init.name not in needed
        )
    for path in removed:
        log.info("removing %s: nothing needs it any more", path)
        shutil.rmtree(path)
    return removed


def remove(layout: Layout) -> None:
    """Remove the installation; only once no container of ours is left. Raises OSError."""
    for directory in [*_versions(layout), layout.install / "init"]:
        if directory.exists():
            shutil.rmtree(directory)
    for name in ("current", RUNTIME_CONF, names.RUNSC_CONF.name):
        (layout.install / name).unlink(missing_ok=True)


def living_containers(layout: Layout) -> int:
    """Return how many containers of ours the engine has not deleted yet.

    Those that asked to be managed and are not count: they end by a call of the runtime, too.
    """
    places = (layout.run / "containers", layout.run / "unmanaged")
    known = {path.name for place in places for path in place.glob("*.json")}
    return len(known) + gvisor_containers(layout)


def gvisor_containers(layout: Layout) -> int:
    """Return how many of them are gVisor's, those of sandboxes included."""
    return sum(1 for _ in (layout.run / names.GVISOR_RECORDS.name).glob("*.json"))


def _leaves(name: str) -> bool:
    inside = os.path.normpath(name)
    return os.path.isabs(inside) or inside.split("/")[0] in ("..", ".")


def _is_complete(target: Path, manifest: Manifest, bundle: Path) -> bool:
    """Whether the same bundle is there, by content: a rebuilt version may bear the same name."""
    try:
        if (target / MANIFEST).read_bytes() != (bundle / MANIFEST).read_bytes():
            return False
        if any(os.readlink(target / name) != link for name, link in manifest.links.items()):
            return False
        return all(_sha256(target / name) == sha for name, sha in manifest.files.items())
    except OSError:
        return False


def _copy(bundle: Path, target: Path, manifest: Manifest) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(mode=0o755)
        for name, sha in sorted(manifest.files.items()):
            path = temporary / name
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            shutil.copyfile(bundle / name, path)
            path.chmod(0o755 if (bundle / name).stat().st_mode & 0o100 else 0o644)
            if _sha256(path) != sha:
                raise FormatError(f"{bundle / name} is not what the manifest says")
        for name, link in manifest.links.items():
            (temporary / name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            (temporary / name).symlink_to(link)
        shutil.copyfile(bundle / MANIFEST, temporary / MANIFEST)
        os.sync()  # one call instead of an fsync for each of some hundred files
        if target.exists():
            # Another build of the same version. What runs from it keeps its open files.
            aside = target.with_name(f".{target.name}.{os.getpid()}.old")
            os.rename(target, aside)
            os.rename(temporary, target)
            shutil.rmtree(aside)
        else:
            os.rename(temporary, target)
        files.sync_directory(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _add(bundle: Path, target: Path, name: str, *, sha: str) -> None:
    """Put one more file of the bundle into its place. Processes run from what is there already."""
    path = target / name
    if path.exists() and _sha256(path) == sha:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(bundle / name, temporary)
        temporary.chmod(0o755)
        if _sha256(temporary) != sha:
            raise FormatError(f"{bundle / name} is not what the manifest says")
        os.rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _install_init(target: Path, manifest: Manifest, layout: Layout) -> None:
    source = next(name for name, sha in manifest.files.items() if sha == manifest.init_sha)
    path = layout.install / "init" / manifest.init_sha / "init"
    if path.exists() and _sha256(path) == manifest.init_sha:
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    files.write_atomic(path, (target / source).read_bytes(), mode=0o755)


def _switch(layout: Layout, version: str) -> None:
    if layout.current.is_symlink() and os.readlink(layout.current) == version:
        return
    temporary = layout.install / f".current.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(version)
    os.rename(temporary, layout.current)
    files.sync_directory(layout.install)


def _versions(layout: Layout) -> list[Path]:
    if not layout.install.exists():
        return []
    return [
        p
        for p in sorted(layout.install.iterdir())
        if p.name not in _RESERVED and not p.name.startswith(".") and (p / MANIFEST).exists()
    ]


def _running_versions(layout: Layout) -> set[str]:
    """Return the versions from which some process of the host runs (hostPID shows all)."""
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            program = Path(os.readlink(entry / "exe"))
        except OSError:
            continue
        if program.is_relative_to(layout.install):
            found.add(program.relative_to(layout.install).parts[0])
    return found


def _needed_inits(layout: Layout) -> set[str] | None:
    """Return the inits that containers run or that images need: CRIU checks the file.

    None: it cannot be known now, for images arrive or move from one place to another.
    """
    before = _records(layout)
    needed: set[str] = set()
    for path in before:
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            if any(parent.name.endswith(landing.SUFFIX) for parent in path.parents):
                return None  # a checkpoint that still arrives: its size is there before its content
            raise FormatError(f"{path} is no record of a container: {error}") from error
        sha = value.get("init_sha") if isinstance(value, dict) else None
        if not isinstance(sha, str):
            raise FormatError(f"{path} names no init")
        needed.add(sha)
    # What went from a place that was not listed yet to one that was, was missed.
    return needed if _records(layout) == before else None


def _records(layout: Layout) -> set[Path]:
    saved_meta = f"*/{saved.container('*')}/{saved.META}"
    return {
        *files.matching(layout.run / "containers", "*.json"),
        *files.matching(layout.pods, "*/*/meta.json"),
        *files.matching(layout.checkpoints, saved_meta),
        *files.matching(layout.arrivals, saved_meta),
        *files.matching(layout.requests, saved_meta),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
