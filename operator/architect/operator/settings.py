"""Everything the operator can be told; nothing reads the environment or the command line later."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from architect.core import flags, quantity
from architect.core.errors import ConfigError
from architect.objectstore import options
from architect.operator.kms import settings as kms
from architect.operator.kms.settings import KmsOptions
from architect.operator.retention import Limits

T = TypeVar("T")

DAEMON_SELECTOR: Final = "app.kubernetes.io/name=architect,app.kubernetes.io/component=daemon"
"""As the chart's DaemonSet labels its pods."""


@dataclass(frozen=True, kw_only=True)
class OperatorSettings(KmsOptions):
    """One run of the operator, or of its command ``uninstall``."""

    namespace: str = "architect"
    """Where the lease and the daemons are (downward API ``metadata.namespace``)."""

    identity: str = ""
    """Our name in the lease and in events (downward API ``metadata.name``)."""

    kubeconfig: Path | None = None
    """None: the pod's ServiceAccount."""

    lease: str = "architect-operator"
    """Name of the Lease that says which replica works."""

    lease_seconds: float = 15.0
    """How long a lease holds without renewal. As kube-controller-manager's: an API server that
    restarts must not cost the leadership, and a lost node may cost this long."""

    daemonset: str = "architect-daemon"
    """The DaemonSet on which an uninstall is announced."""

    daemon_selector: str = DAEMON_SELECTOR
    """Labels of the daemons' pods."""

    daemon_account: str = "architect-daemon"
    """The daemons' ServiceAccount, in our namespace: to it alone certificates are issued."""

    ca_secret: str = "architect-daemon-ca"
    """Name of the Secret with the authority that issues them."""

    key_secret: str = "architect-checkpoint-key"
    """Name of the Secret with the keys that open what lies in the object store."""

    key_config_map: str = "architect-checkpoint-key"
    """Name of the ConfigMap with the public half of the current one, for the daemons."""

    has_gvisor: bool = False
    """Whether the cluster has the runtime class of gVisor."""

    spot_out_of_service: bool = True
    """Whether nodes whose machine is gone after a notice are given the taint by which Kubernetes
    lets go of their pods and volumes."""

    store_max_count: int = 0
    """Most PersistentCheckpoints that are kept in the store; 0: no limit."""

    store_max_bytes: int = 0
    """Most bytes of them, before compression; 0: no limit."""

    store_namespace_max_count: int = 0
    store_namespace_max_bytes: int = 0
    """The same for each namespace."""

    sweep_interval_seconds: float = 60.0
    """Time between two looks at everything. Events are acted on at once; a sweep finds what was
    missed while nobody watched."""

    address: str = "[::]:8081"
    """Where ``/metrics``, ``/healthz`` and ``/readyz`` are served."""

    log_level: str = "INFO"

    uninstall_timeout_seconds: float = 300.0
    """How long the nodes may take to wake their pods: a few hundred pods, two at a time."""

    uninstall_on_timeout: str = "fail"
    """``fail`` calls the uninstall off and says which nodes are late; ``proceed`` goes on."""

    @property
    def limits(self) -> Limits:
        """How much the object store may hold."""
        return Limits(
            count=self.store_max_count,
            size=self.store_max_bytes,
            namespace_count=self.store_namespace_max_count,
            namespace_size=self.store_namespace_max_bytes,
        )


ON_TIMEOUT: Final = ("fail", "proceed")

_FLAGS: Final[Mapping[str, str]] = {
    "namespace": "namespace of the release",
    "identity": "name of this replica",
    "kubeconfig": "kubeconfig file (default: the pod's ServiceAccount)",
    "lease": "name of the Lease",
    "lease_seconds": "how long the lease holds without renewal",
    "daemonset": "name of the daemon's DaemonSet",
    "daemon_selector": "label selector of the daemons' pods",
    "daemon_account": "name of the daemons' ServiceAccount",
    "ca_secret": "name of the Secret with the daemons' certificate authority",
    "key_secret": "name of the Secret with the keys of checkpoints in the object store",
    "key_config_map": "name of the ConfigMap with the public key for daemons",
    "has_gvisor": "whether there is the runtime class of gVisor",
    "spot_out_of_service": "whether nodes that are gone after a notice are marked out of service",
    **options.HELP,
    **kms.HELP,
    "store_max_count": "PersistentCheckpoints that are kept (0: no limit)",
    "store_max_bytes": "bytes of PersistentCheckpoints that are kept, such as 500Gi (0: no limit)",
    "store_namespace_max_count": "those that are kept in each namespace (0: no limit)",
    "store_namespace_max_bytes": "bytes of those of each namespace that are kept (0: no limit)",
    "sweep_interval_seconds": "time between two looks at everything",
    "address": "address:port of metrics and health",
    "log_level": "DEBUG, INFO, WARNING or ERROR",
    "uninstall_timeout_seconds": "how long the nodes may take to wake their pods",
    "uninstall_on_timeout": "fail or proceed",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; one that is not given stays out of the namespace."""
    for name, text in _FLAGS.items():
        default = getattr(OperatorSettings, name)
        suffix = "" if default in ("", None) else f" (default: {default})"
        parser.add_argument(
            "--" + name.replace("_", "-"),
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=text + suffix,
        )


def from_arguments(arguments: Mapping[str, Any]) -> OperatorSettings:
    """Return the settings that the flags give.

    Raises ConfigError with the flag, the value and what is allowed.
    """
    given: dict[str, Any] = {}
    for name in _FLAGS:
        if (text := arguments.get(name)) is None:
            continue
        if name.endswith("_seconds"):
            given[name] = _read(flags.seconds, name, text)
        elif name == "kubeconfig":
            given[name] = Path(text)
        elif name.endswith(("_max_count", "_max_bytes")):
            given[name] = _limit(name, text)
        elif name in ("has_gvisor", "spot_out_of_service", "store_path_style", "kms_unseal"):
            given[name] = _read(flags.switch, name, text)
        else:
            given[name] = text
    settings = OperatorSettings(**given)
    _check(settings)
    return settings


def host_port(address: str) -> tuple[str, int]:
    """Split ``address:port``. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"--address: {address!r} is not address:port, such as [::]:8081")
    return host.strip("[]"), int(port)


def _read(reader: Callable[[str], T], name: str, text: str) -> T:
    try:
        return reader(text)
    except ValueError as error:
        raise ConfigError(f"--{name.replace('_', '-')}: {error}") from error


def _limit(name: str, text: str) -> int:
    found = _read(quantity.to_int, name, text)
    if found < 0:
        raise ConfigError(f"--{name.replace('_', '-')}: {text!r} is less than 0")
    return found


def _check(settings: OperatorSettings) -> None:
    try:
        _ = settings.store, settings.kms
    except ConfigError as error:
        name, _, said = error.message.partition(":")
        raise ConfigError(f"--{name.replace('_', '-')}:{said}") from error
    host_port(settings.address)
    for is_fine, text in (
        (settings.lease_seconds >= 3, "--lease-seconds must be at least 3"),
        (settings.sweep_interval_seconds >= 1, "--sweep-interval-seconds must be at least 1"),
        (settings.uninstall_timeout_seconds >= 1, "--uninstall-timeout-seconds must be at least 1"),
        (
            settings.uninstall_on_timeout in ON_TIMEOUT,
            f"--uninstall-on-timeout: {settings.uninstall_on_timeout!r} is not one of "
            f"{', '.join(ON_TIMEOUT)}",
        ),
    ):
        if not is_fine:
            raise ConfigError(text)
