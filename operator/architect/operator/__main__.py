"""``architect-operator``: run the operator, or wait for the nodes before an uninstall."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from architect.core.errors import ArchitectError, ConfigError
from architect.kube.api import Api
from architect.kube.connection import connect
from architect.operator import settings as reading
from architect.operator.settings import OperatorSettings

DISTRIBUTION: Final = "architect-k8s"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = argparse.ArgumentParser(
        prog="architect-operator",
        description="Cares for Architect's objects in the cluster.",
        epilog="POD_NAME and POD_NAMESPACE are the defaults of --identity and --namespace.",
    )
    result.add_argument(
        "command",
        nargs="?",
        choices=("run", "uninstall"),
        default="run",
        help="run (default): serve until stopped; uninstall: have all nodes wake their pods",
    )
    reading.add_flags(result)
    return result


def settings_of(
    argv: Sequence[str], environment: Mapping[str, str]
) -> tuple[str, OperatorSettings]:
    """Return the command and the settings. Raises ConfigError."""
    arguments = vars(parser().parse_args(list(argv)))
    command = arguments.pop("command")
    defaults = {
        "namespace": environment.get("POD_NAMESPACE"),
        "identity": environment.get("POD_NAME") or socket.gethostname(),
    }
    given = {key: value for key, value in defaults.items() if value} | arguments
    settings = reading.from_arguments(given)
    if settings.log_level not in LEVELS:
        raise ConfigError(f"--log-level: {settings.log_level!r} is not one of {', '.join(LEVELS)}")
    return command, settings


def start(command: str, settings: OperatorSettings) -> None:
    """Carry out *command*."""
    version = importlib.metadata.version(DISTRIBUTION)
    connection = connect(user_agent=f"architect-operator/{version}", kubeconfig=settings.kubeconfig)
    try:
        if command == "uninstall":
            from architect.operator import uninstall

            uninstall.run(Api(connection, field_manager="architect-uninstall"), settings)
            return
        # kopf takes a third of a second to import; the hook does without.
        from architect.operator import run

        run.check_kinds(Api(connection, field_manager=run.FIELD_MANAGER))
        asyncio.run(run.Operator(settings, connection).run())
    finally:
        connection.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        command, settings = settings_of(sys.argv[1:] if argv is None else argv, os.environ)
        logging.basicConfig(
            level=settings.log_level,
            stream=sys.stderr,
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        # kopf tells of every event that a handler was called for.
        if settings.log_level == "INFO":
            logging.getLogger("kopf").setLevel(logging.WARNING)
        start(command, settings)
    except ArchitectError as error:
        print(f"architect-operator: {error}", file=sys.stderr)
        return error.exit_code
    except Exception:
        logging.getLogger("architect.operator").exception("unexpected failure")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
