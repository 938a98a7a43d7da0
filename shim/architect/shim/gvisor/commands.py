"""``create``, ``start``, ``kill`` and ``delete`` of a container of gVisor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from architect.core.errors import ArchitectError
from architect.core.files import write_atomic
from architect.shim import arrivals, engine_log, installation, keeper_client, oci
from architect.shim.cli import Call
from architect.shim.gvisor import anchors, pods, records, restoring, runsc, spec, texts
from architect.shim.gvisor.records import Record
from architect.shim.keeper import cgroups

DEFAULT_ROOT: Final = "/var/run/runsc"
"""runsc's own default for ``--root`` as root."""

TOLD_SECONDS: Final = 2.0
"""For the keeper, which lists its pods anew when it is asked."""

_ENDING: Final = {
    **dict.fromkeys(("9", "KILL", "SIGKILL"), signal.SIGKILL),
    **dict.fromkeys(("15", "TERM", "SIGTERM"), signal.SIGTERM),
}
"""Signals that end a container which was not started; runsc ignores others."""


def create(call: Call) -> int:
    """``create``: prepare config.json; give all but a sandbox's root an anchor."""
    file = Path(call.bundle) / "config.json"
    found = json.loads(file.read_bytes())
    sandbox = spec.sandbox_of(found)
    prepared = json.dumps(spec.prepared(found)).encode()
    write_atomic(file, prepared, mode=file.stat().st_mode & 0o777, durable=False)
    record = _record(call, found, sandbox)
    if sandbox is None:
        try:
            image = _image(call, found)
        except (ArchitectError, OSError):
            sys.exit(1)  # it was told
        records.write(call.container, record._replace(image=image))
        runsc.become(call)
    if restoring.image_of(sandbox) is not None and not restoring.fits(call, record):
        return 1
    return _create_in(call, record, sandbox)


def _record(call: Call, found: dict[str, Any], sandbox: str | None) -> Record:
    identity, policy = oci.identity_of(found.get("annotations") or {}), spec.policy_of(found)
    return Record(
        sandbox=sandbox,
        pod=identity.pod,
        namespace=identity.namespace,
        pod_name=identity.pod_name,
        name=identity.container,
        policy=None if policy is None else policy.to_dict(),
        runsc=[str(installation.runsc().resolve()), *installation.runsc_flags()],
        root=call.global_options.get("root", DEFAULT_ROOT),
        bundle=os.path.realpath(call.bundle),
        pid_file=None if sandbox else _absolute(call.options.get("pid-file")),
        oom_score=spec.oom_score(found),
        has_terminal=spec.has_terminal(found),
    )


def _image(call: Call, found: dict[str, Any]) -> str | None:
    """Return from what image the sandbox goes on. Raises where it may not start without one."""
    policy = spec.policy_of(found)
    if policy is None:
        return None
    identity = oci.identity_of(found.get("annotations") or {})
    image = arrivals.wait_for_sandbox(call, identity, policy)
    return None if image is None else str(image)


def _create_in(call: Call, record: Record, sandbox: str) -> int:
    waiter = runsc.command(call, ["wait", call.container])
    pid, ticks = anchors.spawn(waiter, has_terminal=record.has_terminal)
    try:
        status, said = runsc.run(runsc.command(call, _without_pid_file(call)))
        if status == 0:
            _place(pid, sandbox=sandbox, container=call.container)
            record = record._replace(anchor=pid, anchor_ticks=ticks)
            records.write(call.container, record)
            _tell_keeper(call, "register", record)
            if (name := call.options.get("pid-file")) is not None:
                write_atomic(Path(name), str(pid).encode(), mode=0o644, durable=False)
            return 0
    except BaseException:
        anchors.send(pid, ticks, signal.SIGKILL)
        raise
    anchors.send(pid, ticks, signal.SIGKILL)
    _say(said)
    return status


def start(call: Call) -> int:
    """``start``: from its image where there is one, with the stdio that the anchor holds."""
    record = records.find(call.container)
    if record is None or not record.anchor:
        return _start_root(call, None if record is None else record.image)
    return _start_member(call, record)


def _start_root(call: Call, image: str | None) -> int:
    # Its output may not be the engine's, which reads that to its end: the sandbox would hold it.
    status, said = runsc.run(runsc.command(call, _start_words(call, image)))
    if status != 0 and image is not None:
        restoring.failed(call, call.container, message=runsc.complaint(said))
    _say(said)
    return status


def _start_member(call: Call, record: Record) -> int:
    root_id = str(record.sandbox)
    image = restoring.image_of(root_id)
    if image is not None and not restoring.has_files(call, record, root_id):
        status, said = 1, ""
    else:
        words = runsc.command(call, _start_words(call, image))
        stdio = () if record.has_terminal else anchors.stdio(record.anchor)
        status, said = runsc.run(words, stdio=stdio)
        if status != 0 and image is not None:
            restoring.failed(call, root_id, message=runsc.complaint(said or runsc.logged(call)))
    if status == 0:
        records.write(call.container, record._replace(is_started=True))
        anchors.started(record.anchor, record.anchor_ticks)
        _set_oom_score(call, record)
        if image is not None:
            restoring.went_on(call, root_id)
    else:
        _say(said)
        # Its hold on the stdio would keep the engine waiting.
        anchors.send(record.anchor, record.anchor_ticks, signal.SIGKILL)
    return status


def _start_words(call: Call, image: str | None) -> list[str]:
    if image is None:
        return list(call.words[call.command_at :])
    return ["restore", "--image-path", image, "--detach", call.container]


def kill(call: Call) -> int:
    """``kill``: what has ended is told in runc's words."""
    record = _known(call.container)
    ending = _ENDING.get(call.signal.upper())
    if record is not None and ending is not None:
        root = call.container if record.sandbox is None else record.sandbox
        if (not record.anchor or record.is_started) and restoring.image_of(root) is not None:
            # No process could hear of it yet, and what was given to a sandbox is never given back.
            restoring.end(root)
            return 0
    status, said = runsc.run(runsc.command(call, call.words[call.command_at :]))
    if record is not None and record.anchor and not record.is_started and ending is not None:
        anchors.send(record.anchor, record.anchor_ticks, ending)  # nothing else would end it
    if status == 0:
        return 0
    _say(texts.of_kill(said))
    return status


def delete(call: Call) -> int:
    """``delete``: nothing of the container stays, and with a sandbox's root nothing of the others.

    After the end of its shim the engine asks for the root alone.
    """
    others = records.of_sandbox(call.container)
    record = _known(call.container)
    status, said = runsc.run(runsc.command(call, call.words[call.command_at :]))
    if status != 0:
        _say(said)
        return status
    for container in others:
        # It fails at what the end of the bundle has taken along; what it can remove it has by then.
        runsc.run(runsc.command(call, ["delete", "--force", container]))
        _forget(call, container)
    _forget(call, call.container)
    if record is not None:
        _tell_keeper(call, "removed", record)
    return 0


def _forget(call: Call, container: str) -> None:
    record = _known(container)
    if record is not None and record.anchor:
        anchors.send(record.anchor, record.anchor_ticks, signal.SIGKILL)
    with contextlib.suppress(ArchitectError):
        records.remove(container)
    # A `runsc wait` that ended late has made the lock of a deleted container again.
    root = Path(call.global_options.get("root", DEFAULT_ROOT))
    for pattern in (f"{container}_sandbox:*.lock", f"*_sandbox:{container}.lock"):
        for lock in root.glob(pattern):
            lock.unlink(missing_ok=True)


def _tell_keeper(call: Call, op: str, record: Record) -> None:
    """Have those who follow the node's managed pods look at this one."""
    if record.policy is None:
        return
    try:
        keeper_client.ask(
            op, timeout_seconds=TOLD_SECONDS, container=call.container, pod=record.pod
        )
    except ArchitectError as error:
        engine_log.warning(call, f"{op} of {call.container} was not heard: {error}")


def _known(container: str) -> Record | None:
    try:
        return records.find(container)
    except ArchitectError:
        return None  # another version's: what ends a container does without


def _place(anchor: int, *, sandbox: str, container: str) -> None:
    """Put the anchor where the engine looks for what the container uses, by its process id.

    Everything is used by the sandbox: its cgroup's figures go to the first container of the pod.
    """
    if (pid := _sandbox_pid(sandbox)) is None:
        return
    is_first = not records.of_sandbox(sandbox)
    for directory in set(cgroups.of_process(pid).values()):
        own = directory.with_name(directory.name.replace(sandbox, container))
        target = directory if is_first or not own.is_dir() else own
        with contextlib.suppress(OSError):  # statistics only
            (target / "cgroup.procs").write_text(str(anchor))


def _set_oom_score(call: Call, record: Record) -> None:
    """Give the sandbox the lowest score of its containers, as runsc would."""
    if record.sandbox is None or (pid := _sandbox_pid(record.sandbox)) is None:
        return
    wanted = [r.oom_score for r in records.of_sandbox(record.sandbox).values()]
    scores = [score for score in wanted if score is not None]
    if not scores:
        return
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(scores)))
    except OSError as error:
        engine_log.warning(call, f"oom_score_adj of {record.sandbox}: {error.strerror}")


def _sandbox_pid(sandbox: str) -> int | None:
    record = records.find(sandbox)
    return None if record is None else pods.sandbox_pid(sandbox, record)


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


def _say(text: str) -> None:
    os.write(2, text.encode())
