"""The container engine of the node: its configuration changed, checked and taken into use.

A change that the engine does not take is taken back. Containers survive an engine's restart,
because their shims (containerd) or monitors (CRI-O) do.
"""

from __future__ import annotations

import logging
import shlex
import socket
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from architect.api import names
from architect.core.errors import ConfigError, NodeError
from architect.daemon import containerd, crio
from architect.daemon import host as hosts
from architect.daemon.containerd import ConfigFile, Edit
from architect.daemon.host import Host, Process
from architect.daemon.settings import DaemonSettings, Engine

log = logging.getLogger(__name__)

CONTAINERD_SOCKET: Final = Path("/run/containerd/containerd.sock")
CRIO_SOCKET: Final = Path("/run/crio/crio.sock")
POLL_SECONDS: Final = 0.2
DUMP_TIMEOUT_SECONDS: Final = 20.0
MAX_IMPORTED_FILES: Final = 100


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What :func:`configure` did."""

    engine: Engine
    is_changed: bool


def detect(settings: DaemonSettings, host: Host) -> Engine:
    """Return the node's engine. Raises ConfigError if none runs."""
    if settings.engine is not Engine.AUTO:
        return settings.engine
    for engine, program in ((Engine.CONTAINERD, "containerd"), (Engine.CRIO, "crio")):
        if next(host.processes(program), None) is not None:
            return engine
    raise ConfigError(
        "neither containerd nor CRI-O runs on this node",
        hint="is hostPID set? other engines are configured by hand (--engine none)",
    )


def lower_runtime(settings: DaemonSettings, host: Host) -> str:
    """Return the runc that the engine's default handler names; empty if it names none."""
    engine = detect(settings, host)
    if engine is Engine.CONTAINERD:
        main, imported = read_containerd(settings, host)
        return containerd.install(main, imported).lower_runtime
    if engine is Engine.CRIO:
        directory = settings.crio_config_directory
        return crio.install(directory, read_crio(directory, host)).lower_runtime
    return ""


def configure(
    settings: DaemonSettings, host: Host, *, handlers: Sequence[str] = (names.RUNTIME_CLASS,)
) -> Outcome:
    """Make the engine know these of our runtime *handlers*; a second time nothing is written.

    CRI-O is told of that of runc only. Raises ConfigError or NodeError; the engine's configuration
    is then as it was.
    """
    engine = detect(settings, host)
    if engine is Engine.CONTAINERD:
        main, imported = read_containerd(settings, host)
        installed = containerd.install(main, imported, wanted=handlers)
        if installed.edits:
            _change_containerd(settings, host, main.path, installed.edits, handlers=handlers)
        return Outcome(engine=engine, is_changed=bool(installed.edits))
    if engine is Engine.CRIO:
        directory = settings.crio_config_directory
        edits = crio.install(directory, read_crio(directory, host)).edits
        _change_crio(settings, host, edits)
        return Outcome(engine=engine, is_changed=bool(edits))
    return Outcome(engine=engine, is_changed=False)


def unconfigure(settings: DaemonSettings, host: Host) -> bool:
    """Take our handlers out of the engine's configuration; returns whether anything changed."""
    engine = detect(settings, host)
    if engine is Engine.CONTAINERD:
        main, imported = read_containerd(settings, host)
        edits = containerd.remove((main, *imported))
        if edits:
            _change_containerd(settings, host, main.path, edits, handlers=())
            for edit in edits:
                if edit.text is not None:
                    host.forget_backup(edit.path)
        return bool(edits)
    if engine is Engine.CRIO:
        directory = settings.crio_config_directory
        edits = crio.remove(directory, current=host.read(directory / crio.DROP_IN))
        _change_crio(settings, host, edits)
        return bool(edits)
    return False


def read_containerd(
    settings: DaemonSettings, host: Host
) -> tuple[ConfigFile, tuple[ConfigFile, ...]]:
    """Return containerd's main file and what it imports, in the order in which it loads them.

    The running containerd's ``--config`` wins over the setting: k3s and RKE2 keep it elsewhere.
    """
    path = settings.containerd_config
    for process in host.processes("containerd"):
        path = config_option(process.argv) or path
    main = ConfigFile(path=path, text=host.read(path) or "")
    loaded: dict[Path, ConfigFile] = {path: main}
    pending = [main]
    while pending:
        file = pending.pop(0)
        for pattern in containerd.import_patterns(file):
            for found in host.glob(pattern):
                if found in loaded:
                    continue
                if len(loaded) > MAX_IMPORTED_FILES:
                    raise ConfigError(f"{path} imports more than {MAX_IMPORTED_FILES} files")
                loaded[found] = ConfigFile(path=found, text=host.read(found) or "")
                pending.append(loaded[found])
    del loaded[path]
    return main, tuple(loaded.values())


def read_crio(directory: Path, host: Host) -> tuple[ConfigFile, ...]:
    """Return CRI-O's main file, if there is one, and its drop-ins, in the order it reads them."""
    paths = [directory.parent / crio.MAIN, *host.glob(f"{directory}/*")]
    texts = [(path, host.read(path)) for path in paths if not host.path(path).is_dir()]
    return tuple(ConfigFile(path=path, text=text) for path, text in texts if text is not None)


def config_option(argv: Sequence[str]) -> Path | None:
    """Return the file that containerd's command line names."""
    for at, word in enumerate(argv[1:], start=1):
        name, has_value, value = word.partition("=")
        if name in ("--config", "-c", "-config"):
            value = value if has_value else (argv[at + 1] if at + 1 < len(argv) else "")
            return Path(value) if value.startswith("/") else None
        if not word.startswith("-"):
            return None
    return None


def _change_containerd(
    settings: DaemonSettings,
    host: Host,
    main: Path,
    edits: Sequence[Edit],
    *,
    handlers: Sequence[str],
) -> None:
    before = {edit.path: host.read(edit.path) for edit in edits}
    running = next(host.processes("containerd"), None)
    old_dump = _dump(host, running, main)
    for edit in edits:
        host.apply(edit)
    try:
        _check_dump(old_dump, _dump(host, running, main), handlers=frozenset(handlers))
        _restart(settings, host, "containerd", CONTAINERD_SOCKET)
    except (ConfigError, NodeError):
        log.error("containerd does not take the changed configuration; taking it back")
        for path, text in before.items():
            host.apply(Edit(path=path, text=text))
        if next(host.processes("containerd"), None) is None:
            _restart(settings, host, "containerd", CONTAINERD_SOCKET)
        raise


def _dump(host: Host, running: Process | None, main: Path) -> str | None:
    """Return the configuration as containerd itself reads it; None if it cannot be asked."""
    program = host.find_program("containerd")
    if running is not None and running.argv[0].startswith("/"):
        program = Path(running.argv[0])
    if program is None:
        return None
    argv = [str(program), "--config", str(main), "config", "dump"]
    try:
        return host.run(argv, timeout_seconds=DUMP_TIMEOUT_SECONDS)
    except NodeError as error:
        log.warning("%s", error)
        return None


def _check_dump(before: str | None, after: str | None, *, handlers: frozenset[str]) -> None:
    """Raise ConfigError unless containerd reads the same as before, and our *handlers*.

    None: ours were taken out.

    If it could not be asked before either, the check of the text has to do.
    """
    if before is None:
        return
    if after is None:
        raise ConfigError("containerd cannot read its configuration with our handlers added")
    try:
        found = containerd.handlers_of(after)
        is_unchanged = not handlers and found == containerd.handlers_of(before)
        if is_unchanged or not handlers <= found:
            raise ConfigError("containerd does not see the change of its configuration")
        if containerd.without_handlers(before) != containerd.without_handlers(after):
            raise ConfigError(
                "containerd would read other parts of its configuration differently",
                hint="configure the handler by hand and set --engine none; see docs/daemon.md",
            )
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"containerd's config dump is not TOML: {error}") from error


def _change_crio(settings: DaemonSettings, host: Host, edits: Sequence[Edit]) -> None:
    if not edits:
        return
    before = {edit.path: host.read(edit.path) for edit in edits}
    for edit in edits:
        host.apply(edit)
    try:
        _restart(settings, host, "crio", CRIO_SOCKET)
    except NodeError:
        log.error("CRI-O does not take the changed configuration; taking it back")
        for path, text in before.items():
            host.apply(Edit(path=path, text=text))
        if next(host.processes("crio"), None) is None:
            _restart(settings, host, "crio", CRIO_SOCKET)
        raise


def _restart(settings: DaemonSettings, host: Host, program: str, socket_path: Path) -> None:
    """Restart the engine and wait until another process of it answers. Raises NodeError."""
    old = {process.pid for process in host.processes(program)}
    deadline = time.monotonic() + settings.restart_delay_seconds
    log.info("restarting %s for its changed configuration", program)
    if settings.engine_restart_command:
        argv = shlex.split(settings.engine_restart_command)
        host.run(argv, timeout_seconds=settings.restart_delay_seconds)
    elif host.has_systemd():
        unit = _unit(old) or f"{program}.service"
        host.run(["systemctl", "restart", unit], timeout_seconds=settings.restart_delay_seconds)
    else:
        for process in host.processes(program):
            hosts.terminate(process)
    while not (
        {process.pid for process in host.processes(program)} - old
        and _answers(host.path(socket_path))
    ):
        if time.monotonic() > deadline:
            raise NodeError(
                f"{program} did not come back within {settings.restart_delay_seconds:.0f} s",
                hint="its supervisor must restart it, or set --engine-restart-command",
            )
        time.sleep(POLL_SECONDS)


def _unit(pids: set[int]) -> str | None:
    """Return the systemd service that the engine runs in: containerd.service, k3s.service, …"""
    for pid in sorted(pids):
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            service = line.rsplit("/", 1)[-1]
            if service.endswith(".service"):
                return service
    return None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
