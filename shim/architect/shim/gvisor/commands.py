"""``start``, ``kill`` and ``delete`` of a container of gVisor; ``create`` is :mod:`.create`'s."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

from architect.core.errors import ArchitectError
from architect.shim import engine_log, keeper_client
from architect.shim.cli import Call
from architect.shim.gvisor import anchors, pods, records, restoring, runsc, texts
from architect.shim.gvisor.records import Record

DEFAULT_ROOT: Final = "/var/run/runsc"
"""runsc's own default for ``--root`` as root."""

TOLD_SECONDS: Final = 2.0
"""For the keeper, which lists its pods anew when it is asked."""

_ENDING: Final = {
    **dict.fromkeys(("9", "KILL", "SIGKILL"), signal.SIGKILL),
    **dict.fromkeys(("15", "TERM", "SIGTERM"), signal.SIGTERM),
}
"""Signals that end a container which was not started; runsc ignores others."""


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
    say(said)
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
        if image is not None:
            restoring.went_on(call, root_id)
        _set_oom_score(call, record)
    else:
        say(said)
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
    say(texts.of_kill(said))
    return status


def delete(call: Call) -> int:
    """``delete``: nothing of the container stays, and with a sandbox's root nothing of the others.

    After the end of its shim the engine asks for the root alone.
    """
    others = records.of_sandbox(call.container)
    record = _known(call.container)
    status, said = runsc.run(runsc.command(call, call.words[call.command_at :]))
    if status != 0:
        say(said)
        return status
    for container in others:
        # It fails at what the end of the bundle has taken along; what it can remove it has by then.
        runsc.run(runsc.command(call, ["delete", "--force", container]))
        _forget(call, container)
    _forget(call, call.container)
    if record is not None:
        tell_keeper(call, "removed", record)
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


def tell_keeper(call: Call, op: str, record: Record) -> None:
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


def _set_oom_score(call: Call, record: Record) -> None:
    """Give the sandbox the lowest score of its containers, as runsc would."""
    if record.sandbox is None or (pid := sandbox_pid(record.sandbox)) is None:
        return
    wanted = [r.oom_score for r in records.of_sandbox(record.sandbox).values()]
    scores = [score for score in wanted if score is not None]
    if not scores:
        return
    try:
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(min(scores)))
    except OSError as error:
        engine_log.warning(call, f"oom_score_adj of {record.sandbox}: {error.strerror}")


def sandbox_pid(sandbox: str) -> int | None:
    """Return the process id of a sandbox that runs."""
    record = records.find(sandbox)
    return None if record is None else pods.sandbox_pid(sandbox, record)


def say(text: str) -> None:
    """Tell the engine."""
    os.write(2, text.encode())
