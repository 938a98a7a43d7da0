"""``create`` of a container of gVisor. The other commands are not to pay for what it imports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

from architect.api.policy import Policy
from architect.core.errors import ArchitectError, NodeError, Rejected
from architect.core.files import write_atomic
from architect.shim import arrivals, engine_log, installation, oci
from architect.shim.cli import Call
from architect.shim.gvisor import anchors, commands, records, restoring, runsc, spec
from architect.shim.gvisor.records import Record
from architect.shim.keeper import cgroups
from architect.shim.oci import Identity


def create(call: Call) -> int:
    """``create``: prepare config.json; give all but a sandbox's root an anchor."""
    file = Path(call.bundle) / "config.json"
    found = json.loads(file.read_bytes())
    sandbox = spec.sandbox_of(found)
    prepared = json.dumps(spec.prepared(found)).encode()
    write_atomic(file, prepared, mode=file.stat().st_mode & 0o777, durable=False)
    identity, policy = oci.identity_of(found.get("annotations") or {}), spec.policy_of(found)
    record = _record(call, found, identity, policy, sandbox=sandbox)
    if sandbox is None:
        _create_root(call, record, identity, policy)
    if restoring.image_of(sandbox) is not None and not _fits(call, identity, sandbox):
        return 1
    return _create_in(call, record, sandbox)


def _record(
    call: Call, found: spec.Spec, identity: Identity, policy: Policy | None, *, sandbox: str | None
) -> Record:
    return Record(
        sandbox=sandbox,
        pod=identity.pod,
        namespace=identity.namespace,
        pod_name=identity.pod_name,
        name=identity.container,
        policy=None if policy is None else policy.to_dict(),
        runsc=[str(installation.runsc().resolve()), *installation.runsc_flags()],
        root=call.global_options.get("root", commands.DEFAULT_ROOT),
        bundle=os.path.realpath(call.bundle),
        pid_file=None if sandbox else _absolute(call.options.get("pid-file")),
        oom_score=spec.oom_score(found),
        has_terminal=spec.has_terminal(found),
    )


def _create_root(call: Call, record: Record, identity: Identity, policy: Policy | None) -> NoReturn:
    """Become runsc, once it is known from what image the sandbox goes on, if from any."""
    try:
        image = None if policy is None else arrivals.wait_for_sandbox(call, identity, policy)
    except (ArchitectError, OSError):
        sys.exit(1)  # it was told
    records.write(call.container, record._replace(image=None if image is None else str(image)))
    runsc.become(call)


def _create_in(call: Call, record: Record, sandbox: str) -> int:
    waiter = runsc.command(call, ["wait", call.container])
    pid, ticks = anchors.spawn(waiter, has_terminal=record.has_terminal)
    try:
        status, said = runsc.run(runsc.command(call, _without_pid_file(call)))
        if status == 0:
            _place(pid, sandbox=sandbox, container=call.container)
            record = record._replace(anchor=pid, anchor_ticks=ticks)
            records.write(call.container, record)
            commands.tell_keeper(call, "register", record)
            if (name := call.options.get("pid-file")) is not None:
                write_atomic(Path(name), str(pid).encode(), mode=0o644, durable=False)
            return 0
    except BaseException:
        anchors.send(pid, ticks, signal.SIGKILL)
        raise
    anchors.send(pid, ticks, signal.SIGKILL)
    commands.say(said)
    return status


def _fits(call: Call, identity: Identity, sandbox: str) -> bool:
    """Whether a container may join a sandbox that goes on.

    Its image must be the saved one, and need not have been on the node when the sandbox was made.
    """
    try:
        arrivals.check(identity)
    except Rejected as error:
        restoring.failed(call, sandbox, reason=error.reason, message=error.message)
    except ArchitectError as error:
        engine_log.error(call, f"container {call.container}: is its image right? {error}")
    else:
        return True
    return False


def _place(anchor: int, *, sandbox: str, container: str) -> None:
    """Put the anchor where the engine looks for what the container uses, by its process id.

    Everything is used by the sandbox: its cgroup's figures go to the first container of the pod.
    """
    if (pid := commands.sandbox_pid(sandbox)) is None:
        return
    is_first = not records.of_sandbox(sandbox)
    try:
        directories = set(cgroups.of_process(pid).values())
    except NodeError:
        return  # it ends, which its engine is told
    for directory in directories:
        own = directory.with_name(directory.name.replace(sandbox, container))
        target = directory if is_first or not own.is_dir() else own
        with contextlib.suppress(OSError):  # statistics only
            (target / "cgroup.procs").write_text(str(anchor))


def _without_pid_file(call: Call) -> list[str]:
    """Return ``create`` without ``--pid-file``, into which runsc writes the sandbox's."""
    words = list(call.words[call.command_at :])
    operands = call.operands_at - call.command_at
    for at in range(1, operands):
        name, has_value, _ = words[at].lstrip("-").partition("=")
        if words[at].startswith("-") and name == "pid-file":
            del words[at : at + (1 if has_value else 2)]
            return words
    return words


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.realpath(path)
