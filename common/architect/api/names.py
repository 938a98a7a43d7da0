"""Every label, annotation, path and socket that more than one part or a user sees.

This is the only module that spells them. ``docs/labels-and-annotations.md`` and
``docs/formats.md`` describe them; a test compares those pages with this module.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Final

GROUP: Final = "architect.dev"
"""API group of our objects and prefix of our annotations."""

VERSION: Final = "v1alpha1"

# What a user writes on a pod template.
IDLE: Final = "architect.dev/idle"
MIGRATE: Final = "architect.dev/migrate"
MOVE_ASLEEP: Final = "architect.dev/move-asleep"
CONTAINERS: Final = "architect.dev/containers"
WAKE_ON: Final = "architect.dev/wake-on"
WARMUP: Final = "architect.dev/warmup"
SHADOW_PORTS: Final = "architect.dev/shadow-ports"
ON_RESTORE_FAILURE: Final = "architect.dev/on-restore-failure"
START_FROM: Final = "architect.dev/start-from"
RUNTIME: Final = "architect.dev/runtime"
PRIORITY: Final = "architect.dev/priority"
AFTER_RESTORE: Final = "architect.dev/after-restore"
STORAGE: Final = "architect.dev/storage"

USER_ANNOTATIONS: Final = (
    IDLE,
    MIGRATE,
    MOVE_ASLEEP,
    CONTAINERS,
    WAKE_ON,
    WARMUP,
    SHADOW_PORTS,
    ON_RESTORE_FAILURE,
    START_FROM,
    RUNTIME,
    PRIORITY,
    AFTER_RESTORE,
    STORAGE,
)

VENDOR_PREFIX: Final = "architect.loopholelabs.io/"
"""Annotations of Loophole Labs' Architect, accepted so that its users' pods work unchanged."""

# What we write on a pod.
POLICY: Final = "architect.dev/policy"
"""The webhook's reading of the annotations, as JSON: see :mod:`architect.api.policy`."""
ORIGINAL_REQUESTS: Final = "architect.dev/original-requests"
"""Requests before the in-place resize: JSON, container name to ``{"cpu": …, "memory": …}``."""
FRESH: Final = "architect.dev/fresh"
"""Label: ``true`` makes the next restart of the pod a plain start."""

STATUS_LABEL_PREFIX: Final = "status.architect.dev/"
"""Label ``status.architect.dev/<container>`` is ``RUNNING`` or ``SCALED_DOWN``."""
STATUS_RUNNING: Final = "RUNNING"
STATUS_SCALED_DOWN: Final = "SCALED_DOWN"

CONDITION_ASLEEP: Final = "architect.dev/Asleep"
"""Pod condition: ``True`` while asleep; while ``False``, reason and message say why it is awake."""

PIN: Final = "architect.dev/pin"
"""Annotation of a PersistentCheckpoint: ``true``, and no limit removes it."""
OWNER_LABEL: Final = "architect.dev/owner"
"""Label of a Checkpoint that is for a successor: the uid of the pods' owner, to list few."""

WEBHOOK_LABEL: Final = "architect.dev/webhook"
WEBHOOK_IGNORE: Final = "ignore"
"""Of an object that our webhooks are not to look at. The chart has both, as ``matchExpressions``:
``templates/_helpers.tpl``, ``architect.objects``."""

NODE_READY_LABEL: Final = "architect.dev/node"
"""Node label, ``true`` where the daemon has installed the runtime and its pre-flight passed."""
NODE_CONDITION: Final = "ArchitectReady"
NODE_GVISOR_LABEL: Final = "architect.dev/gvisor"
"""Node label, ``true`` where pods of gVisor can run as well."""
NODE_GVISOR_CONDITION: Final = "ArchitectGvisorReady"

INTERRUPTION: Final = "architect.dev/interruption"
"""Node annotation and taint, by the daemon, from the notice that its machine ends until that is
withdrawn. The annotation's value is :mod:`architect.core.interruption`; the taint's is the kind."""
OUT_OF_SERVICE: Final = "architect.dev/out-of-service"
"""Node annotation, by the operator, which gave the node the taint that Kubernetes knows for this:
the boot id of the machine that is gone. It goes with the taint."""

SPOT_NEEDS: Final = "architect.dev/spot-needs"
"""Node annotation, by the daemon of a spot machine: what of its pods would be saved in its notice,
and how long all of them would take (:mod:`architect.daemon.spot.outlook`)."""

UNINSTALL: Final = "architect.dev/uninstall"
"""DaemonSet annotation, by the chart's hook: the name of the uninstall that is under way."""
UNINSTALLED: Final = "architect.dev/uninstalled"
"""Node annotation, by the daemon: the uninstall for which no pod sleeps on this node any more."""

RUNTIME_CLASS: Final = "runc-architect"
RUNTIME_CLASS_GVISOR: Final = "runsc-architect"
NODE_LABELS: Final = MappingProxyType(
    {NODE_READY_LABEL: RUNTIME_CLASS, NODE_GVISOR_LABEL: RUNTIME_CLASS_GVISOR}
)
"""Node label to the runtime class that has it in its nodeSelector."""

DAEMON_SIGNER: Final = "architect.dev/daemon"
"""Signer of CertificateSigningRequests: the operator, for the nodes' daemons and nobody else."""

# Reasons of events on pods; those of sleeps and wakes tell durations.
EVENT_SLEPT: Final = "Slept"
EVENT_WOKE: Final = "Woke"
EVENT_WAKE_BLOCKED: Final = "WakeBlocked"
EVENT_SLEEP_FAILED: Final = "SleepFailed"
EVENT_CANNOT_SLEEP: Final = "CannotSleep"
EVENT_RESTORE_FAILED: Final = "RestoreFailed"
EVENT_CAPTURED: Final = "Captured"
EVENT_CAPTURE_FAILED: Final = "CaptureFailed"
EVENT_RESTORED: Final = "Restored"
EVENT_HOOK_RAN: Final = "HookRan"
EVENT_HOOK_FAILED: Final = "HookFailed"
EVENT_RESIZE_PENDING: Final = "ResizePending"
EVENT_REQUESTS_KEPT: Final = "RequestsKept"
EVENT_DISMISSED: Final = "Dismissed"
EVENT_ADOPTED: Final = "Adopted"
EVENT_NOT_ADOPTED: Final = "NotAdopted"
EVENT_UNMANAGED: Final = "Unmanaged"
EVENT_POLICY_DRIFTED: Final = "PolicyDrifted"
EVENT_WOULD_BE_LOST: Final = "WouldBeLost"
"""Were the machine taken back, the pod would start anew."""

# Reasons of events on checkpoints.
EVENT_EXPIRED: Final = "Expired"

# Reasons of events on nodes.
EVENT_NODE_UNSERVED: Final = "NodeUnserved"
EVENT_RUNTIME_KEPT: Final = "RuntimeKept"
EVENT_MACHINE_GONE: Final = "MachineGone"
EVENT_MACHINE_BACK: Final = "MachineBack"
EVENT_NOTICE_APPEARED: Final = "NoticeAppeared"
EVENT_NOTICE_CHANGED: Final = "NoticeChanged"
EVENT_NOTICE_WITHDRAWN: Final = "NoticeWithdrawn"
EVENT_EVACUATING: Final = "Evacuating"

# Annotations that containerd's and CRI-O's CRI put into config.json.
CRI_CONTAINER_TYPE: Final = (
    "io.kubernetes.cri.container-type",
    "io.kubernetes.cri-o.ContainerType",
)
CRI_CONTAINER_NAME: Final = ("io.kubernetes.cri.container-name", "io.kubernetes.container.name")
CRI_SANDBOX_ID: Final = ("io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID")
CRI_POD_UID: Final = ("io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid")
CRI_POD_NAME: Final = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
CRI_POD_NAMESPACE: Final = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")

# The host.
INSTALL: Final = Path("/opt/architect")
"""Bundles lie side by side as ``/opt/architect/<version>``; ``current`` links to the one in use."""
CURRENT: Final = INSTALL / "current"

RUNSC_CONF: Final = INSTALL / "runsc.conf"
"""Flags for gVisor's runsc on this node, one a line."""

RUN: Final = Path("/run/architect")
"""State that ends with the machine's run: sockets and the records of living containers."""
GVISOR_RECORDS: Final = RUN / "gvisor"
KEEPER_SOCKET: Final = RUN / "keeper.sock"
CONTAINER_RECORDS: Final = RUN / "containers"
MACHINE_RUN: Final = RUN / "machine-run"
"""Names this run of the machine: after a reboot there is another one."""
DAEMON_SOCKET: Final = RUN / "daemon.sock"
"""Where the runtime asks the daemon about pods that come and go: :mod:`architect.api.daemon`."""

STATE: Final = Path("/var/lib/architect")
"""State that survives a reboot: memory images. On disk, never on tmpfs; 0700."""
PODS: Final = STATE / "pods"
"""``pods/<uid>/<container>/image``: what CRIU wrote."""
CHECKPOINTS: Final = STATE / "checkpoints"
"""``checkpoints/<id>``: pods saved here for successors; ``<id>.partial`` is half of one."""
REQUESTS: Final = STATE / "requests"
"""``requests/<uid>``: copies of running pods, by the PersistentCheckpoint that asked for them."""
UPLOADS: Final = STATE / "uploads"
"""How far each saved pod's way into the object store has come."""
ARRIVALS: Final = STATE / "arrivals"
"""``arrivals/<uid>``: what came for a pod of this node, in the same form."""
STANDIN_CERTIFICATE: Final = STATE / "standin.pem"
"""Key and self-signed certificate with which HTTPS probes of sleeping pods are answered."""

INIT_IN_CONTAINER: Final = "/dev/.architect/init"
"""Where a managed container sees our init: on its /dev tmpfs, so the image layer has no trace."""
