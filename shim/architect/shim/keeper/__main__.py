"""``python -m architect.shim.keeper``: started by the warden, one per node."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from architect.api import names
from architect.core.errors import ArchitectError
from architect.shim.keeper import criu, machinerun, programs
from architect.shim.keeper.control import Server
from architect.shim.keeper.loop import Loop
from architect.shim.keeper.network import NodeNetwork
from architect.shim.keeper.programs import Children, Programs
from architect.shim.keeper.service import Service
from architect.shim.keeper.warden import Warden

PR_SET_NAME = 15

M_TRIM_THRESHOLD = -1
HEAP_SPARE_BYTES = 128 << 10
"""So much may be free at the end of malloc's heap before the kernel gets it back: glibc's default,
which glibc raises by itself (to twice the largest block that was ever freed) unless it is set."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line says."""

    socket: Path
    criu: Path
    is_verbose: bool


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    options = _parse(sys.argv[1:])
    logging.basicConfig(
        level=logging.DEBUG if options.is_verbose else logging.INFO,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    log = logging.getLogger("keeper")
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, b"architect-keeper", 0, 0, 0)
    libc.mallopt(M_TRIM_THRESHOLD, HEAP_SPARE_BYTES)
    try:
        return _serve(options, log)
    except ArchitectError as error:
        log.error("%s", error)
        return error.exit_code


def _serve(options: Options, log: logging.Logger) -> int:
    loop = Loop()
    warden = Warden()
    server = criu.Server(loop, options.criu)
    network = NodeNetwork(loop, warden)
    version = _version()
    children = Children(loop)
    service = Service(
        loop=loop,
        server=server,
        network=network,
        programs=Programs(loop, children),
        version=version,
    )
    _handle_signals(loop, server, children)
    log.info("keeper %s, pid %d", version, os.getpid())
    server.prepare()
    machinerun.begin()
    service.recover()
    warden.drop_untaken()
    control = Server(loop, options.socket, service)
    loop.run()
    log.info("keeper ends; pods stay as they are")
    control.close()
    server.close()
    return 0


def _handle_signals(loop: Loop, server: criu.Server, children: Children) -> None:
    def reaped(pid: int, status: int) -> None:
        server.reaped(pid)
        children.reaped(pid, status)

    def on_child(_: int, __: FrameType | None) -> None:
        programs.reap(reaped)

    def on_end(_: int, __: FrameType | None) -> None:
        loop.stop()

    # Python runs handlers between bytecodes of the main thread; the wake-up descriptor makes a
    # blocking select return so that they run at once.
    signal.set_wakeup_fd(loop.wakeup_descriptor(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, on_child)
    signal.signal(signal.SIGTERM, on_end)
    signal.signal(signal.SIGINT, on_end)


def _version() -> str:
    """Return the bundle's version: the name of the directory that we run from."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "MANIFEST.json").exists():
            return parent.name
    return "development"


def _parse(arguments: list[str]) -> Options:
    socket, criu_binary = names.KEEPER_SOCKET, _beside("architect-criu")
    if not arguments:  # from the warden
        return Options(socket=socket, criu=criu_binary, is_verbose=False)
    import argparse  # half a megabyte

    parser = argparse.ArgumentParser(prog="architect-keeper", description=__doc__)
    parser.add_argument("--socket", type=Path, default=socket)
    parser.add_argument("--criu", type=Path, default=criu_binary)
    parser.add_argument("--verbose", action="store_true", help="log every decision")
    found = parser.parse_args(arguments)
    return Options(socket=found.socket, criu=found.criu, is_verbose=found.verbose)


def _beside(program: str) -> Path:
    """Return the program of our own bundle, so that two versions never mix."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "bin" / program).exists():
            return parent / "bin" / program
    return names.CURRENT / "bin" / program


if __name__ == "__main__":
    sys.exit(main())
