"""A gVisor pod goes on from an image: its sandbox waits for all of its containers.

runsc restores a sandbox once its root and as many containers as the image has were given to it,
each by ``restore`` instead of ``start``; the call for the last one does the work. A sandbox that
could not be restored is of no use: it is ended, and kubelet makes the pod another one, which starts
fresh or tries again, as the pod's policy says.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

from architect.core.errors import ArchitectError
from architect.shim import engine_log, keeper_client
from architect.shim.cli import Call
from architect.shim.gvisor import pods, records
from architect.shim.gvisor.records import Record

TOLD_SECONDS: Final = 30.0
"""For the keeper, which has to write a few names."""
RESTORE_FAILED: Final = "RestoreFailed"


def image_of(sandbox: str) -> str | None:
    """Return the image from which a sandbox is to go on; None: it has, or is an ordinary one."""
    root = records.find(sandbox)
    return None if root is None else root.image


def has_files(call: Call, record: Record, root_id: str) -> bool:
    """Bring the pod's emptyDirs back, before anything looks at them; whether they are there."""
    from architect.shim import luggage  # no other `start` is to pay for it
    from architect.shim.layers import places

    try:
        luggage.apply_volumes(places.spec_in(record.bundle), record.pod)
    except (ArchitectError, OSError) as error:
        failed(call, root_id, reason="FilesNotApplied", message=str(error))
        return False
    return True


def went_on(call: Call, root_id: str) -> None:
    """Note that the sandbox goes on if that was the last of its containers, and have it told."""
    pod = pods.of_container(root_id)
    if pod is None or pod.record.image is None or not pod.is_whole:
        return
    # First of all: memory is used once. Without the image a restore fails, and the sandbox ends.
    image = Path(pod.record.image)
    with contextlib.suppress(FileNotFoundError):  # the pod is being deleted, and gave it back
        image.rename(image.with_name("used"))
    records.write(root_id, pod.record._replace(image=None))
    try:
        keeper_client.ask("adopt", timeout_seconds=TOLD_SECONDS, container=root_id)
    except ArchitectError as error:
        engine_log.warning(call, f"that the pod of {call.container} goes on is not told: {error}")


def failed(call: Call, root_id: str, *, message: str, reason: str = RESTORE_FAILED) -> None:
    """Have it told that a sandbox cannot go on, the pod's policy followed, and end it."""
    engine_log.error(call, f"the pod of {call.container} cannot go on: {reason}: {message}")
    try:
        keeper_client.ask(
            "refuse",
            timeout_seconds=TOLD_SECONDS,
            container=root_id,
            reason=reason,
            message=message,
        )
    except ArchitectError as error:
        # Nothing is set aside then: the pod's next sandbox tries it again.
        engine_log.warning(call, f"what came for {call.container} is kept: {error}")
    end(root_id)


def end(root_id: str) -> None:
    """Kill a sandbox: its engine sees it end, with all of its containers."""
    root = records.find(root_id)
    pid = None if root is None else pods.sandbox_pid(root_id, root)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
