"""``create`` and ``run``: put our init in front of the application, or say why not.

Read, decide (:mod:`.oci`), apply. Whatever is decided, the lower runtime creates the container.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

from architect.core.errors import ArchitectError
from architect.core.files import write_atomic
from architect.shim import (
    arrivals,
    engine_log,
    installation,
    keeper_client,
    lookpath,
    oci,
    records,
)
from architect.shim.cli import Call
from architect.shim.installation import pass_on

SETTLE_SECONDS: Final = 660.0
"""As long as CRIU may work before a container comes that could reach it; the keeper's own limit for
it is less. An engine that does not wait as long makes no container."""
REGISTER_SECONDS: Final = 1.0
"""The keeper finds the record by itself when it is too busy to answer."""

_IO_URING_DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
"""Since Linux 6.6; ``2`` denies io_uring to everybody."""


def create(call: Call) -> NoReturn:
    """Make the container managed if it asks for it and can be; never returns."""
    if "config" in call.options:
        pass_on(call.words)  # crun's: another file, which may be somebody's own
    file = Path(call.bundle) / "config.json"
    try:
        spec = json.loads(file.read_bytes())
    except (OSError, ValueError):
        pass_on(call.words)  # the lower runtime says it in its own words
    if not isinstance(spec, dict):
        pass_on(call.words)
    if not records.is_identity(call.container):
        if call.container and oci.wanted(spec, container_id=call.container):
            engine_log.warning(
                call, f"container {call.container!r:.80} is not managed: it cannot be with that id"
            )
        pass_on(call.words)
    found = oci.wanted(spec, container_id=call.container)
    if found is None:
        if (tracer := oci.tracer(spec)) is not None:
            _admit_tracer(call, tracer)
        pass_on(call.words)
    if (Path(call.root) / call.container).exists():
        pass_on(call.words)  # the id lives, or was not deleted: refused, and nothing may change
    if isinstance(found, oci.Wanted):
        # Also of one that looks rewritten already: a user can write that into a pod.
        refused = oci.refusal(
            spec,
            is_host_network=_is_host_network(spec),
            is_executable_found=oci.is_ours(spec)
            or _is_executable_found(spec, bundle=Path(call.bundle)),
        )
        if refused is not None:
            found = oci.Refused(identity=found.identity, reason=refused[0], message=refused[1])
        elif _is_taken(call):
            found = oci.Refused(
                identity=found.identity,
                reason="IdInUse",
                message=f"container {call.container} exists below another --root",
            )
    if isinstance(found, oci.Refused):
        _note_unmanaged(call, found)
        pass_on(call.words)
    try:
        come = arrivals.wait(call, found)
    except (ArchitectError, OSError):
        sys.exit(1)  # it was told
    sha, init = come or installation.init()
    if not oci.is_ours(spec):
        _replace(
            file,
            oci.managed(
                spec,
                init=str(init),
                machine=os.uname().machine,
                denies_io_uring=_denies_io_uring(),
                is_hollow=come is not None,
            ),
        )
    records.write(_record(call, spec, found, init_sha=sha, is_hollow=come is not None))
    _register(call)
    pass_on(call.words)


def _admit_tracer(call: Call, tracer: oci.Refused) -> None:
    """Have the pod awake, and stay so, before a container comes that could reach CRIU in it."""
    # First the note, so that no sleep begins after the answer.
    _note_unmanaged(call, tracer)
    try:
        keeper_client.ask(
            "settle",
            timeout_seconds=SETTLE_SECONDS,
            pod=tracer.identity.pod,
            container=call.container,
        )
    except ArchitectError as error:
        # No CRIU works there: none was started, or it has ended and failed.
        engine_log.warning(call, f"pod of {call.container} was not woken: {error}")


def _register(call: Call) -> None:
    try:
        keeper_client.ask("register", timeout_seconds=REGISTER_SECONDS, container=call.container)
    except ArchitectError as error:
        engine_log.warning(call, f"container {call.container} starts unregistered: {error}")


def _record(
    call: Call, spec: oci.Spec, found: oci.Wanted, *, init_sha: str, is_hollow: bool
) -> records.Record:
    identity = found.identity
    pid_file = call.options.get("pid-file")
    return records.Record(
        id=call.container,
        pod=identity.pod,
        namespace=identity.namespace,
        pod_name=identity.pod_name,
        container=identity.container,
        sandbox_id=identity.sandbox_id,
        bundle=os.path.realpath(call.bundle),
        pid_file=None if pid_file is None else os.path.realpath(pid_file),
        runc_root=os.path.abspath(call.root),
        systemd_cgroup=call.has_systemd_cgroup,
        runtime=str(installation.lower_runtime()),
        netns=oci.network_namespace(spec),
        policy=found.policy.to_dict(),
        init_sha=init_sha,
        created=time.time(),
        hollow=is_hollow,
    )


def _note_unmanaged(call: Call, refused: oci.Refused) -> None:
    identity = refused.identity
    try:
        records.write_unmanaged(
            records.Unmanaged(
                id=call.container,
                pod=identity.pod,
                namespace=identity.namespace,
                pod_name=identity.pod_name,
                container=identity.container,
                reason=refused.reason,
                message=refused.message,
                created=time.time(),
            )
        )
    except OSError as error:
        engine_log.warning(call, f"cannot note why {call.container} is unmanaged: {error}")


def _replace(file: Path, spec: oci.Spec) -> None:
    mode = file.stat().st_mode & 0o777
    write_atomic(file, json.dumps(spec).encode(), mode=mode, durable=False)


def _is_host_network(spec: oci.Spec) -> bool:
    path = oci.network_namespace(spec)
    if path is None:
        return False  # a new one, or none at all, which the decision sees
    try:
        return os.path.samefile(path, "/proc/self/ns/net")
    except OSError:
        return False  # the lower runtime says what is wrong with it


def _is_executable_found(spec: oci.Spec, *, bundle: Path) -> bool:
    process = spec.get("process") or {}
    if not process.get("args"):
        return False
    root = Path(str((spec.get("root") or {}).get("path") or "rootfs"))
    tree = lookpath.Tree(bundle / root, spec.get("mounts") or ())
    return lookpath.is_found(tree, process)


def _is_taken(call: Call) -> bool:
    try:
        record = records.read(call.container)
    except (FileNotFoundError, ArchitectError):
        return False
    return (
        record.runc_root != os.path.abspath(call.root)
        and (Path(record.runc_root) / record.id).exists()
    )


def _denies_io_uring() -> bool:
    try:
        return _IO_URING_DISABLED.read_text().strip() == "2"
    except OSError:
        return False
