"""``python -m architect.webhook``: serve admission requests until SIGTERM.

Exit codes: 0 ended in good order, 1 a defect, 2 wrong settings or missing rights, 3 unreadable
certificates, 4 the API server did not answer in time.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from architect.core import flags
from architect.core.errors import ArchitectError
from architect.webhook import logs
from architect.webhook.rotation import Mounted, SelfMade, Source
from architect.webhook.server import Webhook
from architect.webhook.settings import Settings

NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

log = logging.getLogger("architect.webhook")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the webhook and return the process's exit code."""
    settings = parse(arguments)
    logs.configure(level=settings.log_level, format_name=settings.log_format)
    try:
        asyncio.run(_run(settings))
    except ArchitectError as error:
        log.error("%s", error)
        return error.exit_code
    except Exception:
        log.exception("unexpected failure")
        return 1
    return 0


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Return the settings that the command line gives."""
    default = Settings()
    parser = argparse.ArgumentParser(prog="architect-webhook", description=__doc__)
    parser.add_argument("--host", help="address to listen on (default: all, IPv6 and IPv4)")
    parser.add_argument("--port", type=_port, default=default.port, help="(default %(default)s)")
    parser.add_argument(
        "--tls-dir",
        type=Path,
        help="directory with tls.crt and tls.key that somebody else renews, such as cert-manager "
        "(default: make certificates and keep them in the Secret)",
    )
    parser.add_argument(
        "--namespace",
        default=_own_namespace() or default.namespace,
        help="of the Secret and the Service (default: the pod's own, here %(default)s)",
    )
    parser.add_argument("--secret-name", default=default.secret_name, help="(default %(default)s)")
    parser.add_argument(
        "--service-name", default=default.service_name, help="(default %(default)s)"
    )
    for kind in ("mutating", "validating"):
        parser.add_argument(
            f"--{kind}-configuration",
            default=getattr(default, f"{kind}_configuration"),
            help=f"{kind} webhook configuration whose CA bundle is kept up to date; empty: none "
            "(default %(default)s)",
        )
    parser.add_argument(
        "--has-gvisor",
        type=_switch,
        default=default.has_gvisor,
        help="true where there is the runtime class of gVisor (default false)",
    )
    parser.add_argument("--kubeconfig", type=Path, help="(default: the pod's service account)")
    for name, text in (
        ("sync", "between two looks at the certificate"),
        ("start", "to wait for a first certificate"),
        ("drain", "to serve on, not ready, after SIGTERM"),
        ("finish", "that requests in flight may take after that"),
    ):
        parser.add_argument(
            f"--{name}-seconds",
            type=_seconds,
            default=getattr(default, f"{name}_seconds"),
            help=f"{text} (default %(default)g)",
        )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default=default.log_level,
        help="(default %(default)s)",
    )
    parser.add_argument(
        "--log-format", choices=logs.FORMATS, default=default.log_format, help="(default text)"
    )
    return Settings(**vars(parser.parse_args(arguments)))


async def _run(settings: Settings) -> None:
    await Webhook(settings, _source(settings)).run()


def _source(settings: Settings) -> Source:
    if settings.tls_dir is not None:
        return Mounted(directory=settings.tls_dir)
    # The client library takes about a second to import; with a mounted certificate nothing needs
    # it.
    from architect.kube.api import open_api
    from architect.webhook.cluster import ClusterStore

    api = open_api(
        field_manager="architect-webhook", version=_version(), kubeconfig=settings.kubeconfig
    )
    return SelfMade(store=ClusterStore(api, settings), dns_names=settings.dns_names)


def _version() -> str:
    return importlib.metadata.version("architect-k8s")


def _own_namespace() -> str | None:
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0-65535)")
    return port


def _switch(text: str) -> bool:
    try:
        return flags.switch(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 86400:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds (0-86400)")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
