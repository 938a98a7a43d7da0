"""What happens now and then: pre-flight checks, the node's label and condition, images, uninstall.

One thread. Nothing here is urgent, and some of it takes minutes (an engine's restart).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from architect.api import names
from architect.api.keeper import PodState
from architect.core import clocks
from architect.core.errors import ArchitectError, FormatError, NodeError, Rejected, Retryable
from architect.daemon import gvisor, images, install, installer, keeper_link, preflight
from architect.daemon.host import Host
from architect.daemon.install import Layout
from architect.daemon.installer import Installer
from architect.daemon.keeper_link import KeeperLink
from architect.daemon.metrics import Metrics
from architect.daemon.preflight import Report, Standing
from architect.daemon.reasons import Kind, Reason
from architect.daemon.registry import Registry
from architect.daemon.settings import DaemonSettings, Engine
from architect.daemon.store import PodStore
from architect.kube import patches, resources, uninstall
from architect.kube.api import Api
from architect.kube.conditions import Condition, Status
from architect.kube.events import EventType, Note, Recorder
from architect.kube.notes import Tell
from architect.kube.resources import DAEMON_SETS, NODES, ObjectRef

log = logging.getLogger(__name__)

UNINSTALL_POLL_SECONDS: Final = 10.0
UNINSTALL_RETRY_SECONDS: Final = 1.0
"""Between looks at whether all is awake and told."""
GVISOR_TRIAL_SECONDS: Final = 600.0
"""Between two trials of gVisor where it does not work; one that worked is not repeated."""
CRIU_CHECK_SECONDS: Final = 600.0
"""CRIU's own check forks a dozen processes; what it finds does not change while a kernel runs."""

REPLACE_AGAIN_SECONDS: Final = 60.0
"""Between two requests to a keeper's parent to become another version: each begins anew the time
that the keeper has to end."""

RECHECK_SECONDS: Final = 5.0
"""A node that is not ready is looked at again this soon: at first its keeper is still starting, and
pods wait for the label."""

MOVES_SECONDS: Final = 20.0
"""Between two looks at what moves have left behind."""
MOVES_RETRY_SECONDS: Final = 0.5
"""As long as the node's pods are not known: successors may wait for what an earlier daemon left."""

UNMANAGED_SECONDS: Final = 10.0
"""Who has just started a pod looks into its events soon."""
MAX_UNMANAGED_RECORDS: Final = 500


class Housekeeping:
    """The slow thread."""

    def __init__(
        self,
        settings: DaemonSettings,
        *,
        api: Api,
        host: Host,
        layout: Layout,
        keeper: KeeperLink,
        store: PodStore,
        registry: Registry,
        metrics: Metrics,
        recorder: Recorder,
        tell: Tell,
        touch_all: Callable[[], None],
        look_at_moves: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._api = api
        self._host = host
        self._layout = layout
        self._keeper = keeper
        self._store = store
        self._registry = registry
        self._metrics = metrics
        self._recorder = recorder
        self._tell = tell
        self._touch_all = touch_all
        self._look_at_moves = look_at_moves
        self._installer = Installer(settings, host=host, layout=layout)
        self._standing = Standing()
        self._criu = "not checked yet"
        self._criu_at = 0.0
        self._gvisor_trial: gvisor.Trial | None = None
        self._gvisor_at = -GVISOR_TRIAL_SECONDS
        self._gvisor_reason = ""
        self._gvisor_trying: threading.Thread | None = None
        self._replaced_at = -REPLACE_AGAIN_SECONDS
        self._token = ""
        self._is_removed = False
        self._has_synced_done = False
        self._due: dict[str, float] = {}

    @property
    def standing(self) -> Standing:
        """What the node is called."""
        return self._standing

    @property
    def is_uninstalling(self) -> bool:
        """Whether no daemon will come after this one."""
        return bool(self._token)

    def extra_reasons(self) -> list[Reason]:
        """Return what keeps every pod of the node awake."""
        if self._token:
            return [Reason(kind=Kind.UNINSTALLING, text="Architect is being uninstalled")]
        return []

    def run(self, stop: threading.Event) -> None:
        """Work until *stop*."""
        while not stop.is_set():
            for name, interval, task in (
                ("uninstall", UNINSTALL_POLL_SECONDS, self._look_for_uninstall),
                ("preflight", self._settings.preflight_interval_seconds, self.check),
                ("moves", MOVES_SECONDS, self.look_at_moves),
                ("unmanaged", UNMANAGED_SECONDS, self._report_unmanaged),
                ("sweep", self._settings.sweep_interval_seconds, self.sweep),
            ):
                now = time.monotonic()
                if self._due.get(name, 0.0) > now or stop.is_set():
                    continue
                self._due[name] = now + interval
                try:
                    task()
                except Retryable as error:
                    self._metrics.api_errors.labels(type(error).__name__).inc()
                    log.warning("%s: %s", name, error)
                    self._due[name] = now + min(interval, UNINSTALL_POLL_SECONDS)
                except (Rejected, NodeError, FormatError, OSError) as error:
                    log.error("%s: %s", name, error)
            stop.wait(max(0.1, min(self._due.values()) - time.monotonic()))

    # The node

    def check(self) -> None:
        """Install what is missing, look at everything, and say what the node is."""
        if not self._token:
            self._installer.ensure()
        report = preflight.assess(
            preflight.gather(
                self._host,
                keeper=self._check_keeper(),
                criu=self._check_criu(),
                install=self._installer.problem,
                uninstalling=self._token,
                state=names.STATE,
            )
        )
        before = self._standing
        self._standing = preflight.settle(before, report)
        self._metrics.node_ready.set(self._standing.is_ready)
        if not self._standing.is_ready and not self._token:
            self._due["preflight"] = time.monotonic() + RECHECK_SECONDS
        self._write_node(before)
        if self._is_gvisor_due():
            self._gvisor_at = time.monotonic()
            # Where it hangs it is given up after minutes, and all else here would wait.
            self._gvisor_trying = threading.Thread(
                target=self._try_gvisor, name="try-gvisor", daemon=True
            )
            self._gvisor_trying.start()

    def _check_keeper(self) -> str:
        if self._is_removed:
            return ""
        try:
            found = self._keeper.version()
        except ArchitectError as error:
            problem = str(error)
        else:
            return self._check_version(found)
        if self._installer.problem:
            return problem
        try:
            keeper_link.start(self._host, current=self._layout.current)
            self._keeper.version()
        except ArchitectError as error:
            return str(error)
        return ""

    def _check_version(self, found: str) -> str:
        """Return what is wrong with a keeper of version *found*, which is replaced if need be.

        Its parent may not have been able to become the installed version when it was asked to.
        """
        wanted = install.installed_version(self._layout)
        if self._installer.problem or not wanted or found == wanted:
            return ""
        if time.monotonic() - self._replaced_at >= REPLACE_AGAIN_SECONDS:
            self._replaced_at = time.monotonic()
            try:
                install.upgrade_keeper(self._host, self._layout)
            except NodeError as error:
                return str(error)
        return f"the keeper is of version {found}, and not of {wanted} yet"

    def start_keeper(self) -> None:
        """Start the keeper if its parent is gone with it. Any thread may call it.

        Packets to sleeping pods are dropped until it is back, so this does not wait for the next
        check of the node.
        """
        if self._is_removed or self._installer.problem:
            return
        try:
            keeper_link.start(self._host, current=self._layout.current)
        except NodeError as error:
            log.error("the keeper cannot be started: %s", error)

    def _check_criu(self) -> str:
        is_due = time.monotonic() - self._criu_at > CRIU_CHECK_SECONDS
        if not self._installer.problem and not self._token and (is_due or self._criu):
            self._criu = preflight.probe_criu(self._host, current=self._layout.current)
            self._criu_at = time.monotonic()
        return self._criu

    def _is_gvisor_due(self) -> bool:
        """Whether a container of gVisor is to be tried now."""
        if self._gvisor_trying is not None and self._gvisor_trying.is_alive():
            return False
        is_due = time.monotonic() - self._gvisor_at >= GVISOR_TRIAL_SECONDS
        has_worked = self._gvisor_trial is not None and not self._gvisor_trial.problem
        is_possible = self._settings.has_gvisor and self._installer.engine is not Engine.CRIO
        is_installed = not (self._installer.problem or self._token)
        return is_due and is_possible and is_installed and not has_worked

    def _try_gvisor(self) -> None:
        try:
            self._gvisor_trial = gvisor.attempt(self._settings, self._host, self._layout)
        except OSError as error:
            self._gvisor_trial = gvisor.Trial(problem=str(error))
        self._due["preflight"] = 0.0  # which says on the node how it went

    def _under_gvisor(self) -> Report:
        return gvisor.assess(
            self._gvisor_trial,
            is_wanted=self._settings.has_gvisor,
            engine=self._installer.engine,
            install=self._installer.problem,
            uninstalling=self._token,
        )

    def _write_node(self, before: Standing) -> None:
        report, under_gvisor = self._standing.report, self._under_gvisor()
        assert report is not None
        node = self._api.get(NODES, self._settings.node_name)
        ref = resources.node(self._settings.node_name)
        wanted = {names.NODE_READY_LABEL: report.is_ready}
        # An earlier daemon's word holds until it is known anew.
        is_known = under_gvisor.reason != gvisor.UNTRIED
        if is_known:
            wanted[names.NODE_GVISOR_LABEL] = under_gvisor.is_ready
        labels = preflight.node_labels(
            wanted,
            existing=node["metadata"].get("labels") or {},
            used=self._used_labels(),
        )
        patches.set_metadata(self._api, ref, labels=labels)
        existing = (node.get("status") or {}).get("conditions") or []
        patches.set_condition(self._api, ref, existing, _condition(names.NODE_CONDITION, report))
        is_told = any(c.get("type") == names.NODE_GVISOR_CONDITION for c in existing)
        if is_known and (self._settings.has_gvisor or is_told):
            condition = _condition(names.NODE_GVISOR_CONDITION, under_gvisor)
            patches.set_condition(self._api, ref, existing, condition)
        has_changed = is_known and under_gvisor.reason != self._gvisor_reason
        if self._settings.has_gvisor and has_changed:
            self._gvisor_reason = under_gvisor.reason
            self._tell_node(
                names.NODE_GVISOR_CONDITION,
                f"{under_gvisor.reason}: {under_gvisor.message}",
                is_warning=not under_gvisor.is_ready and not self._token,
            )
        if before.report is None or before.report.reason != report.reason:
            self._tell_node(
                names.NODE_CONDITION if report.is_ready else report.reason,
                report.message,
                is_warning=not report.is_ready and not self._token,
            )

    def _tell_node(self, reason: str, note: str, *, is_warning: bool) -> None:
        self._tell(
            resources.node(self._settings.node_name, uid=self._settings.node_name),
            Note(
                reason=reason,
                text=note,
                action="Check",
                event_type=EventType.WARNING if is_warning else EventType.NORMAL,
            ),
        )

    # Images

    def sweep_soon(self) -> None:
        """Have the images looked at within seconds: a pod may be gone. Any thread may call it.

        A memory image is a secret; it does not outlive its pod by a whole sweep interval.
        """
        self._due["sweep"] = 0.0

    def look_at_moves(self) -> None:
        """Finish, tell or remove what moves have left behind."""
        if not self._look_at_moves():
            self._due["moves"] = time.monotonic() + MOVES_RETRY_SECONDS

    def sweep(self) -> None:
        """Remove what belongs to pods that the API says are gone; look at the disk."""
        disk = images.disk(
            self._layout.pods,
            self._registry.keeper_pods(),
            floor_bytes=self._settings.free_floor_bytes,
            quota_bytes=self._settings.image_quota_bytes,
        )
        self._metrics.disk_free_bytes.set(disk.free_bytes)
        self._metrics.disk_image_bytes.set(disk.used_by_images_bytes)
        if self._store.is_synced and self._registry.is_known:
            self._forget_gone()
            self._wake_old()
        if not self._installer.problem:
            install.prune(self._layout)

    def _forget_gone(self) -> None:
        suspects = images.to_ask_about(
            images.stored(self._layout.pods),
            self._registry.keeper_pods(),
            known_uids=self._store.known_uids(),
        )
        for suspect in suspects:
            # Read from etcd, not from a watch or a cache: an image is the only copy of a memory.
            found = self._api.find(resources.pod(suspect.namespace, suspect.name, uid=suspect.uid))
            if not images.is_gone(found, node=self._settings.node_name):
                continue
            try:
                freed = self._keeper.forget(suspect.uid)
            except (Rejected, NodeError) as error:
                log.warning("images of %s/%s: %s", suspect.namespace, suspect.name, error)
                continue
            log.info(
                "pod %s/%s is gone: %d MiB of images removed",
                suspect.namespace,
                suspect.name,
                freed >> 20,
            )

    def _wake_old(self) -> None:
        ttl = self._settings.image_ttl_seconds
        listed = self._registry.keeper_pods()
        for pod in images.to_wake(
            listed, now_boot=clocks.boot_seconds(), now_unix=time.time(), ttl_seconds=ttl
        ):
            try:
                self._keeper.wake(pod.uid, reason=f"daemon: asleep longer than {ttl:.0f} s")
            except (Rejected, NodeError) as error:
                log.warning("%s/%s: %s", pod.namespace, pod.name, error)

    def _report_unmanaged(self) -> None:
        """Say on each pod that asked for management and runs without it, why."""
        records = sorted((self._layout.run / "unmanaged").glob("*.json"))
        for path in records[:MAX_UNMANAGED_RECORDS]:
            try:
                value: dict[str, Any] = json.loads(path.read_bytes())
                ref = resources.pod(value["namespace"], value["pod_name"], uid=value["pod"])
                note = f"container {value['container']}: {value['reason']}: {value['message']}"
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue
            if ref.uid in self._store.known_uids():
                # Said again at the next look, and stored once.
                self._recorder.record(
                    ref,
                    Note(
                        reason=names.EVENT_UNMANAGED,
                        text=note,
                        action="Start",
                        event_type=EventType.WARNING,
                        is_once=True,
                    ),
                )

    # Uninstall

    def _look_for_uninstall(self) -> None:
        daemon_set = self._api.get(
            DAEMON_SETS, self._settings.daemonset, namespace=self._settings.namespace
        )
        token = uninstall.requested(daemon_set)
        if token != self._token:
            log.info("uninstall %s", f"{token!r} is asked for" if token else "is called off")
            self._token, self._has_synced_done = token, False
            self._due["preflight"] = 0.0  # the label goes, or comes back, at once
            if not token and self._is_removed:
                self._is_removed = False
                self._installer = Installer(self._settings, host=self._host, layout=self._layout)
                self._gvisor_trial, self._gvisor_at = None, -GVISOR_TRIAL_SECONDS
            self._touch_all()
        if self._has_synced_done:
            return
        ref = resources.node(self._settings.node_name)
        if not token:
            node = self._api.get(NODES, self._settings.node_name)
            if names.UNINSTALLED in (node["metadata"].get("annotations") or {}):
                patches.set_metadata(self._api, ref, annotations={names.UNINSTALLED: None})
            self._has_synced_done = True
            return
        self._uninstall(ref, token)

    def _uninstall(self, ref: ObjectRef, token: str) -> None:
        """Wake all; once nothing sleeps, take the runtime off the host if nobody needs it.

        A pod that cannot be woken is no answer: the hook waits, and names this node in the end. So
        is one of which the API still says that it sleeps: after the answer nobody is left to give
        it its requests back.
        """
        no_labels: dict[str, str | None] = dict.fromkeys(names.NODE_LABELS)
        # Before the runtime goes: no pod that needs it shall come meanwhile.
        unused = {label: None for label in names.NODE_LABELS if label not in self._used_labels()}
        patches.set_metadata(self._api, ref, labels=unused)
        if not self._is_removed and not (self._wake_all() and self._is_told()):
            self._due["uninstall"] = time.monotonic() + UNINSTALL_RETRY_SECONDS
            return
        if not self._is_removed:
            left = installer.uninstall_all(self._settings, self._host, self._layout)
            self._is_removed = left == 0
            if left:
                self._tell_node(
                    names.EVENT_RUNTIME_KEPT,
                    f"{left} containers or pods of ours run here; the runtime stays on the host "
                    "for them. Remove it by hand once they have ended, as docs/operations.md says "
                    "(Uninstall)",
                    is_warning=True,
                )
        patches.set_metadata(
            self._api,
            ref,
            labels=no_labels if self._is_removed else {},
            annotations={names.UNINSTALLED: token},
        )
        self._has_synced_done = True

    def _used_labels(self) -> frozenset[str]:
        """Return the labels that pods of the node have in their nodeSelector, as far as is known.

        Also pods that are not managed: the runtime class gives it to all of its pods.
        """
        found = self._store.runtime_classes()
        return frozenset(
            label
            for label, runtime_class in names.NODE_LABELS.items()
            if runtime_class in found or not self._store.is_synced
        )

    def _is_told(self) -> bool:
        """Whether no pod of the node is said to sleep; requests come back before the label."""
        return self._store.is_synced and not any(
            names.STATUS_SCALED_DOWN in pod.labels.values()
            for pod in self._store.all()
            if not pod.is_terminating and not pod.is_terminal
        )

    def _wake_all(self) -> bool:
        """Wake every pod; returns whether nothing sleeps any more. Raises Unavailable."""
        for pod in self._keeper.pods():
            if pod.state is PodState.AWAKE:
                continue
            try:
                self._keeper.wake(pod.uid, reason="daemon: Architect is being uninstalled")
            except (Rejected, NodeError) as error:
                log.error("%s/%s does not wake: %s", pod.namespace, pod.name, error)
        return all(pod.state is PodState.AWAKE for pod in self._keeper.pods())


def _condition(kind: str, report: Report) -> Condition:
    return Condition(
        type=kind,
        status=Status.TRUE if report.is_ready else Status.FALSE,
        reason=report.reason,
        message=report.message,
    )
