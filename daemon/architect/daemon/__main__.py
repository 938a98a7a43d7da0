"""``architect-daemon``: run on a node, or check, install or uninstall it once."""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from architect.api import names
from architect.core.errors import ArchitectError, ConfigError
from architect.daemon import engine, gvisor, installer, preflight, settings
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.settings import DaemonSettings

DISTRIBUTION = "architect-k8s"

_COMMANDS = {
    "run": "install the runtime, then serve the node until it is told to end",
    "check": "say whether this node can run managed pods, and if not, why",
    "install": "put the runtime on the host and tell the engine, then end",
    "uninstall": "take the runtime off the host; refused while pods of its class are left",
}


def main() -> None:
    """Run the daemon's command line and exit."""
    status = run(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # What is under way in pools of threads would be waited for, minutes at the worst. All of it is
    # made for a daemon that is killed, and kubelet would kill it in the end.
    os._exit(status)


def run(argv: Sequence[str]) -> int:
    """Carry out one command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="architect-daemon", description=__doc__)
    parser.add_argument("--version", action="version", version=version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog="every flag may be given as ARCHITECT_<NAME> in the environment, too",
        )
        settings.add_flags(command)
    arguments = vars(parser.parse_args(list(argv)))
    name = arguments.pop("command")
    try:
        config = settings.from_arguments(arguments, environment=os.environ)
        logging.basicConfig(
            level=config.log_level.upper(),
            format="%(asctime)s %(levelname)s %(threadName)s %(message)s",
        )
        host = Host(root=config.host_root, is_entered=config.host_root != Path("/"))
        if name == "run":
            return _serve(config, host)
        if name == "check":
            return _check(config, host)
        if name == "install":
            installer.install_all(config, host, Layout())
            return _check_gvisor(config, host) if config.has_gvisor else 0
        return _uninstall(config, host)
    except ArchitectError as error:
        print(f"architect-daemon {name}: {error}", file=sys.stderr)
        return error.exit_code


def version() -> str:
    """Return the installed version."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "0"


def _serve(config: DaemonSettings, host: Host) -> int:
    # The client library takes a second to import; the other commands do without it.
    from architect.daemon.service import Daemon
    from architect.kube.api import open_api

    if not config.node_name:
        raise ConfigError("node_name is not set", hint="NODE_NAME by the downward API")
    kubeconfig = Path(config.kubeconfig) if config.kubeconfig else None
    api = open_api(field_manager="architect-daemon", version=version(), kubeconfig=kubeconfig)
    daemon = Daemon(config, api=api, host=host)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: daemon.stop())
    return 0 if daemon.run() else 1


def _check(config: DaemonSettings, host: Host) -> int:
    link = KeeperLink(
        timeout_seconds=config.keeper_timeout_seconds,
        transition_timeout_seconds=config.transition_timeout_seconds,
    )
    keeper = ""
    try:
        link.version()
    except ArchitectError as error:
        keeper = str(error)
    report = preflight.assess(
        preflight.gather(
            host,
            keeper=keeper,
            criu=preflight.probe_criu(host, current=names.CURRENT),
            install="",
            uninstalling="",
            state=names.STATE,
        )
    )
    print(f"{report.reason}: {report.message}")
    status = _check_gvisor(config, host) if config.has_gvisor else 0
    return status if report.is_ready else 3


def _check_gvisor(config: DaemonSettings, host: Host) -> int:
    report = gvisor.assess(
        gvisor.attempt(config, host, Layout()),
        is_wanted=True,
        engine=engine.detect(config, host),
        install="",
        uninstalling="",
    )
    print(f"gVisor: {report.reason}: {report.message}")
    return 0 if report.is_ready else 3


def _uninstall(config: DaemonSettings, host: Host) -> int:
    started = time.monotonic()
    left = installer.uninstall_all(config, host, Layout())
    if left:
        print(
            f"{left} containers or pods of the runtime class are left; delete or restart these"
            " first",
            file=sys.stderr,
        )
        return 2
    print(f"removed after {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    main()
