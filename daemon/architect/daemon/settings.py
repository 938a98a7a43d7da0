"""Everything the daemon can be told; nothing reads the environment or the command line later.

Every option has a flag and an environment variable of the same name (``--cpu-threshold`` is
``ARCHITECT_CPU_THRESHOLD``), so that the chart may use either; the flag wins.
"""

from __future__ import annotations

import argparse
import enum
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from architect.api.policy import Storage
from architect.cloud import addresses
from architect.core import flags, quantity
from architect.core.errors import ConfigError
from architect.daemon.spot import width
from architect.objectstore import options
from architect.objectstore.options import StoreOptions

ENVIRONMENT_PREFIX: Final = "ARCHITECT_"

DOWNWARD: Final = {
    "node_name": "NODE_NAME",
    "namespace": "POD_NAMESPACE",
    "memory_limit_bytes": "MEMORY_LIMIT_BYTES",
}
"""Settings that the DaemonSet's downward API gives under its customary names."""


class Engine(enum.Enum):
    """Which container engine's configuration the installer edits."""

    AUTO = "auto"
    CONTAINERD = "containerd"
    CRIO = "crio"
    NONE = "none"
    """The administrator configures the runtime handler."""


class SpotProvider(enum.Enum):
    """Whose metadata service tells of this machine's end."""

    AUTO = "auto"
    """Of the cloud that answers; none is fine."""
    AWS = "aws"
    GCP = "gcp"
    AZURE = "azure"
    NONE = "none"
    """None is asked. What is on the Node object counts all the same."""


class LookAhead(enum.Enum):
    """Whether the node reports all the time what of it would be saved in a notice."""

    AUTO = "auto"
    """If the metadata service says that the cloud may take the machine back."""
    ALWAYS = "always"
    NEVER = "never"
    """Whoever asks is told all the same."""


@dataclass(frozen=True, kw_only=True)
class DaemonSettings(StoreOptions):
    """One run of the daemon."""

    node_name: str = ""
    """The Kubernetes node this runs on (downward API ``spec.nodeName``)."""

    namespace: str = "architect"
    """The namespace of the DaemonSet (downward API ``metadata.namespace``)."""

    memory_limit_bytes: int = 0
    """What this process may take (downward API ``limits.memory``); 0: as much as there is."""

    daemonset: str = "architect-daemon"
    """The DaemonSet whose annotation ``architect.dev/uninstall`` starts the removal."""

    kubeconfig: str = ""
    """Path of a kubeconfig; empty: the pod's ServiceAccount."""

    bundle: Path = Path("/bundle")
    """Host bundle in the image: ``<bundle>/<version>/MANIFEST.json`` and the files it lists."""

    host_root: Path = Path("/proc/1/root")
    """The host's root directory as this process sees it (``hostPID`` makes pid 1 the host's)."""

    engine: Engine = Engine.AUTO
    containerd_config: Path = Path("/etc/containerd/config.toml")
    """Path on the host; a k3s or RKE2 node keeps it elsewhere."""

    crio_config_directory: Path = Path("/etc/crio/crio.conf.d")
    """Path on the host."""

    engine_restart_command: str = ""
    """Run on the host, split like a shell line, after the engine's configuration changed.

    Empty: ``systemctl restart`` where systemd is pid 1, else SIGTERM to the engine, which its
    supervisor starts again. Containers survive, because their shims do.
    """

    lower_runtime: str = ""
    """Path on the host of the runc below ours; empty: found in the engine's settings or PATH."""

    has_gvisor: bool = False
    """Whether pods of gVisor may run on the node: its runtime and handler are installed, too."""

    gvisor_flags: str = ""
    """Flags of its runtime, split like a shell line; empty: found out by running a container."""

    metrics_address: str = "0.0.0.0:9464"
    """Where ``/metrics``, ``/healthz`` and ``/readyz`` are served."""

    peer_address: str = "[::]:9465"
    """Where other nodes' daemons ask for checkpoints, over mutual TLS."""

    peer_data_address: str = "[::]:9466"
    """Where they get the bytes, each part encrypted with a key that was given for it there."""

    daemon_selector: str = "app.kubernetes.io/name=architect,app.kubernetes.io/component=daemon"
    """Labels of the daemons' pods, as the chart gives them: how the one of a node is found."""

    max_concurrent_sleeps: int = 2
    """Dumps at the same time on the node: each one writes a pod's memory to the same disk."""

    sleep_patience_seconds: float = 10.0
    """How long the keeper lets conversations drain before it gives a sleep up."""

    cpu_threshold: float = 0.02
    """A container that uses more of a core than this is at work. See ``activity.py``."""

    sample_min_seconds: float = 1.0
    sample_max_seconds: float = 15.0
    """Bounds of the time between two looks at a pod; in between it is a tenth of its idle time."""

    condition_interval_seconds: float = 30.0
    """Least time between two updates of one pod's condition that only change its reason."""

    image_quota_bytes: int = 0
    """Most that images may use on the disk; 0: as much as the floor below leaves."""

    free_floor_bytes: int = 2 * 1024**3
    """No pod is put to sleep if that would leave less free space on the images' disk."""

    image_ttl_seconds: float = 0.0
    """A pod that slept longer than this is woken, so that its image goes; 0: never."""

    max_concurrent_captures: int = 4
    """Pods that are saved for their successors at the same time."""

    capture_patience_seconds: float = 1.0
    """How long conversations of a pod that leaves may take to end before they are cut."""

    arrival_patience_seconds: float = 60.0
    """How long a pod that comes waits for its predecessor to be saved, before it starts fresh."""

    checkpoint_ttl_seconds: float = 3600.0
    """How long a saved pod that nobody has come for, and the word of one that went on, is kept."""

    checkpoint_quota_bytes: int = 0
    """Most that saved pods may use on the disk while they wait for successors; 0: no limit."""

    store_delay_seconds: float = 5.0
    """How long a saved pod waits for a successor before it is uploaded."""

    store_default: Storage = Storage.OBJECT_STORE
    """Where a saved pod lies whose policy does not say it, if there is an object store."""

    store_upload_streams: int = 3
    """Objects of 8 MiB that are sealed and sent at once, of all pods: 26 MiB of memory each."""

    spot_provider: SpotProvider = SpotProvider.AUTO

    spot_endpoint: str = ""
    """``http://host[:port]`` of the metadata service; empty: where each cloud has it."""

    spot_notice_seconds: float = 30.0
    """From the notice to the end, where the cloud does not say when: Google's; and of machines of
    which no metadata service tells."""

    spot_look_ahead: LookAhead = LookAhead.AUTO

    spot_upload_streams: int = 0
    """Objects of 8 MiB at once while the machine's end is announced, never fewer than otherwise.

    0: what :mod:`architect.daemon.spot.width` says.
    """

    key_config_map: str = "architect-checkpoint-key"
    """The ConfigMap with the operator's public key, for which the data's keys are encrypted."""

    sweep_interval_seconds: float = 300.0
    preflight_interval_seconds: float = 60.0
    restart_delay_seconds: float = 120.0
    """How long a restarted engine may take to answer again before the node is called not ready."""

    keeper_timeout_seconds: float = 5.0
    """For one answer of the keeper, except sleep and wake."""

    transition_timeout_seconds: float = 300.0
    """For one sleep or wake: a dump of 64 GiB at 300 MB/s takes 215 s."""

    log_level: str = "INFO"


_HELP: Final = {
    "node_name": "name of this node",
    "namespace": "namespace of the DaemonSet",
    "memory_limit_bytes": "memory that the daemon may take (0: no limit)",
    "daemonset": "name of the DaemonSet",
    "kubeconfig": "kubeconfig file (empty: the pod's ServiceAccount)",
    "bundle": "host bundle in the image",
    "host_root": "the host's root directory",
    "engine": "auto, containerd, crio or none",
    "containerd_config": "containerd's configuration file on the host",
    "crio_config_directory": "CRI-O's drop-in directory on the host",
    "engine_restart_command": "command that restarts the engine on the host",
    "lower_runtime": "path of the host's runc or crun",
    "has_gvisor": "install gVisor's runtime and its handler, too",
    "gvisor_flags": "flags of gVisor's runtime (empty: found out)",
    "metrics_address": "address:port of metrics and health",
    "peer_address": "address:port for other nodes' daemons",
    "peer_data_address": "address:port where they get the bytes",
    "daemon_selector": "label selector of the daemons' pods",
    "max_concurrent_sleeps": "pods put to sleep at the same time",
    "sleep_patience_seconds": "how long conversations may drain",
    "max_concurrent_captures": "pods saved for their successors at the same time",
    "capture_patience_seconds": "how long conversations of a pod that leaves may take to end",
    "arrival_patience_seconds": "how long a new pod waits for its predecessor to be saved",
    "checkpoint_ttl_seconds": "how long a saved pod waits for whoever goes on with it",
    "checkpoint_quota_bytes": "most that saved pods may use on disk (0: no limit)",
    **options.HELP,
    "store_delay_seconds": "how long a saved pod waits for a successor before it is uploaded",
    "store_default": "node or object-store: where saved pods lie whose annotations do not say it",
    "store_upload_streams": "objects of 8 MiB that are sealed and sent at once",
    "spot_provider": "whose metadata service is asked: auto, aws, gcp, azure or none",
    "spot_endpoint": "URL of the metadata service (empty: where the cloud has it)",
    "spot_notice_seconds": "from notice to end where it is not said (Google's preemptions)",
    "spot_look_ahead": "report what a notice would save: auto (on spot machines), always or never",
    "spot_upload_streams": "objects at once while the machine's end is announced (0: found out)",
    "key_config_map": "name of the ConfigMap with the operator's public key",
    "cpu_threshold": "cores a container may use and still be idle",
    "sample_min_seconds": "shortest time between two looks at a pod",
    "sample_max_seconds": "longest time between two looks at a pod",
    "condition_interval_seconds": "least time between two updates of a pod's condition",
    "image_quota_bytes": "most that images may use on disk (0: no limit but the floor)",
    "free_floor_bytes": "free space that is never used for images",
    "image_ttl_seconds": "wake a pod that slept this long (0: never)",
    "sweep_interval_seconds": "time between two sweeps of images",
    "preflight_interval_seconds": "time between two pre-flight checks",
    "restart_delay_seconds": "time a restarted engine may take",
    "keeper_timeout_seconds": "time-out of one keeper call",
    "transition_timeout_seconds": "time-out of one sleep or wake",
    "log_level": "DEBUG, INFO, WARNING or ERROR",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; a flag that is not given stays out of the namespace."""
    defaults = {item.name: item.default for item in fields(DaemonSettings)}
    for name, text in _HELP.items():
        default = defaults[name]
        shown = default.value if isinstance(default, enum.Enum) else default
        parser.add_argument(
            "--" + name.replace("_", "-"),
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{text} (default: {shown!s})".replace("%", "%%"),
        )


def from_arguments(
    arguments: Mapping[str, Any], *, environment: Mapping[str, str]
) -> DaemonSettings:
    """Return the settings that flags and environment give.

    Raises ConfigError with the name, the value and what is allowed.
    """
    given: dict[str, Any] = {}
    for item in fields(DaemonSettings):
        variable = ENVIRONMENT_PREFIX + item.name.upper()
        fallback = environment.get(DOWNWARD.get(item.name, variable))
        text = arguments.get(item.name, environment.get(variable, fallback))
        if text is not None:
            given[item.name] = _read(item.name, str(text), like=item.default)
    settings = DaemonSettings(**given)
    _check(settings)
    return settings


def _read(name: str, text: str, *, like: Any) -> Any:
    reader: Callable[[str], Any]
    if isinstance(like, bool):
        reader, allowed = flags.switch, "true or false"
    elif isinstance(like, enum.Enum):
        reader, allowed = type(like), ", ".join(str(member.value) for member in type(like))
    elif isinstance(like, Path):
        reader, allowed = Path, "a path"
    elif name.endswith("_bytes"):
        reader, allowed = quantity.to_int, "a quantity such as 2Gi"
    elif name.endswith("_seconds"):
        reader, allowed = flags.seconds, "seconds or a duration such as 30s"
    elif isinstance(like, int):
        reader, allowed = int, "a whole number"
    elif isinstance(like, float):
        reader, allowed = float, "a number"
    else:
        return text
    try:
        return reader(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {text!r} is not {allowed}") from error


def _check(settings: DaemonSettings) -> None:
    _ = settings.store
    host_port(settings.peer_address, name="peer_address")
    host_port(settings.peer_data_address, name="peer_data_address")
    for condition, text in (
        (settings.max_concurrent_sleeps >= 1, "max_concurrent_sleeps must be at least 1"),
        (settings.max_concurrent_captures >= 1, "max_concurrent_captures must be at least 1"),
        (
            0 <= settings.arrival_patience_seconds <= 100,
            "arrival_patience_seconds must be 0 to 100: the engine has two minutes for a start",
        ),
        (settings.checkpoint_ttl_seconds >= 60, "checkpoint_ttl_seconds must be at least 60"),
        (0 < settings.cpu_threshold < 1024, "cpu_threshold must be above 0"),
        (settings.sample_min_seconds >= 0.1, "sample_min_seconds must be at least 0.1"),
        (
            settings.sample_max_seconds >= settings.sample_min_seconds,
            "sample_max_seconds must not be below sample_min_seconds",
        ),
        (settings.host_root.is_absolute(), "host_root must be an absolute path"),
        (
            not settings.spot_endpoint
            or (
                settings.spot_endpoint.startswith("http://")
                and addresses.is_endpoint(settings.spot_endpoint)
            ),
            f"spot_endpoint: {settings.spot_endpoint!r:.300} is not http://host or "
            "http://host:port, with no path or user",
        ),
        (
            not settings.spot_endpoint or settings.spot_provider is not SpotProvider.NONE,
            "spot_endpoint is set, and spot_provider is none: nobody would ask there",
        ),
        (
            1 <= settings.store_upload_streams <= width.MOST,
            f"store_upload_streams must be 1 to {width.MOST}",
        ),
        (
            0 <= settings.spot_upload_streams <= width.MOST,
            f"spot_upload_streams must be 0 to {width.MOST}",
        ),
        (
            1 <= settings.spot_notice_seconds <= 3600,
            "spot_notice_seconds must be 1 to 3600",
        ),
        (
            all(word.startswith("--") for word in _words(settings.gvisor_flags)),
            f"gvisor_flags: {settings.gvisor_flags!r} are not flags such as --platform=kvm",
        ),
        (
            settings.log_level.upper() in ("DEBUG", "INFO", "WARNING", "ERROR"),
            f"log_level: {settings.log_level!r} is not DEBUG, INFO, WARNING or ERROR",
        ),
    ):
        if not condition:
            raise ConfigError(text)


def _words(flags: str) -> list[str]:
    try:
        return shlex.split(flags)
    except ValueError as error:  # such as a quote without its end
        raise ConfigError(f"gvisor_flags: {flags!r} cannot be read: {error}") from error


def host_port(address: str, *, name: str = "metrics_address") -> tuple[str, int]:
    """Split ``address:port`` of the setting *name*. Raises ConfigError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{name}: {address!r} is not address:port")
    return host.strip("[]"), int(port)


def parse(argv: Sequence[str], *, environment: Mapping[str, str]) -> DaemonSettings:
    """Return the settings for a plain list of flags (tests, other commands)."""
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser)
    return from_arguments(vars(parser.parse_args(list(argv))), environment=environment)
