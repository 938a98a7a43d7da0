"""What comes to a container from the pod before it: asked for at ``create``, restored at ``start``.

The daemon answers once everything lies whole on this node's disk, or says that nothing comes. It is
asked for pods of Kubernetes only, and where nobody answers the container starts fresh.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from architect.api import daemon, names, saved
from architect.api.policy import Migrate, OnRestoreFailure, Policy
from architect.core.errors import ArchitectError, Rejected, Unavailable
from architect.shim import daemon_client, engine_log, installation, keeper_client, records
from architect.shim.cli import Call
from architect.shim.oci import Identity, Wanted

T = TypeVar("T")

ADOPT_SECONDS: Final = 660.0
"""The keeper gives up on a restore after 600 s; its answer must arrive."""


FRESH: Final = ".fresh"
"""Ending of the note that a pod began without an answer of the daemon."""

MESSAGE_CHARS: Final = 400
"""Of an error's text, for the keeper."""


def wait(call: Call, found: Wanted) -> tuple[str, Path] | None:
    """Return SHA-256 and path of the init that the saved processes refer to; None: start fresh.

    Raises Rejected or Unavailable where the pod's policy is not to start without them: the engine
    makes no container then, and kubelet has it try again.
    """
    return _returned(call, found.identity) or _asked(call, found.identity, found.policy, _init_of)


def _returned(call: Call, identity: Identity) -> tuple[str, Path] | None:
    """Return the same of processes that slept in this pod until the machine was rebooted."""
    # Path's raises for a name that no file can have.
    if not identity.namespace or not os.path.isdir(names.PODS / identity.pod):
        return None
    from architect.shim import returning  # most containers have nothing to return to

    try:
        return _init_of(identity) if returning.take_up(identity) else None
    except (ArchitectError, OSError) as error:
        engine_log.warning(
            call, f"container {call.container} starts fresh, though its pod slept: {error}"
        )
        return None


def wait_for_sandbox(call: Call, identity: Identity, policy: Policy) -> Path | None:
    """Return the directory of the image from which a gVisor pod goes on; None: start fresh.

    Asked for its sandbox, before any of its containers. Raises as :func:`wait`.
    """
    return _asked(call, identity, policy, _sandbox_image_of)


def check(identity: Identity) -> None:
    """Return if a container may join a sandbox that goes on. Raises Rejected: why not; Unavailable.

    What its image is was not known on this node when its sandbox was made.
    """
    answer = _ask(identity, is_awaited=True)
    if answer.get("restore") is not True:
        raise Rejected(str(answer.get("message")), reason=str(answer.get("reason")))


class _Left(Rejected):
    """The pod was saved for its successor and never runs again."""


def _init_of(identity: Identity) -> tuple[str, Path]:
    from architect.shim.keeper import images  # the others are not to pay for it

    meta = images.Meta.read(images.arrival(identity.pod, identity.container))
    return meta.init_sha, installation.init_of(meta.init_sha)


def _sandbox_image_of(identity: Identity) -> Path:
    from architect.shim.keeper import images

    return images.arrival_of_pod(identity.pod) / saved.SANDBOX_IMAGE


def _ask(identity: Identity, *, is_awaited: bool) -> dict[str, Any]:
    """Return the daemon's answer; *is_awaited*: a daemon that does not answer is waited for.

    So is one that is being replaced, though not for a signal: that would cost its grace period.
    """
    return daemon_client.ask(
        daemon.ARRIVING,
        timeout_seconds=daemon.ARRIVING_SECONDS,
        is_awaited=lambda: is_awaited or daemon_client.is_being_replaced(),
        pod=identity.pod,
        namespace=identity.namespace,
        pod_name=identity.pod_name,
        container=identity.container,
    )


def _asked(
    call: Call, identity: Identity, policy: Policy, use: Callable[[Identity], T]
) -> T | None:
    """Return what *use* makes of what the daemon has brought; None: nothing came."""
    has_source = policy.migrate is not Migrate.NEVER or policy.start_from is not None
    if not has_source or not identity.namespace:
        return None
    try:
        is_awaited = policy.on_restore_failure is not OnRestoreFailure.FRESH
        answer = _ask(identity, is_awaited=is_awaited)
        if answer.get("left") is True:
            raise _Left(str(answer.get("message")), reason=str(answer.get("reason")))
        if answer.get("hold") is True:
            raise Rejected(str(answer.get("message")), reason=str(answer.get("reason")))
        return use(identity) if answer.get("restore") is True else None
    except _Left as error:  # whatever the policy is: its memory is elsewhere by now
        engine_log.error(call, f"container {call.container} is not started again: {error}")
        raise
    except (ArchitectError, OSError) as error:
        wish = policy.on_restore_failure
        if wish is not OnRestoreFailure.FRESH:
            engine_log.error(
                call,
                f"container {call.container} is not started without what its pod had before "
                f"({names.ON_RESTORE_FAILURE} is {wish.value}): {error}",
            )
            raise
        engine_log.warning(
            call, f"container {call.container} starts fresh, whatever was before: {error}"
        )
        _note_fresh(call, identity.pod)
        return None


def _note_fresh(call: Call, pod: str) -> None:
    """Have the daemon know that the pod has begun: nothing from before may come to it any more."""
    from architect.core import files
    from architect.shim.keeper import images

    try:
        note = images.arrival_of_pod(pod).with_name(f"{pod}{FRESH}")
        files.make_private(note.parent)
        note.touch(mode=0o600)
    except (ArchitectError, OSError) as error:
        engine_log.warning(call, f"cannot note that {call.container} started fresh: {error}")


def start(call: Call) -> int:
    """``start`` of a container that was created hollow: restore it. Return the exit status."""
    from architect.shim import luggage  # `create` needs none of it

    record = records.read(call.container)
    trouble: Exception | None = None
    reason, is_dirty = "FilesNotApplied", False
    try:
        luggage.check(record)
        is_dirty = True
        luggage.unpack(record)
    except (ArchitectError, OSError, KeyError, TypeError, AttributeError) as error:
        trouble = error
        if not is_dirty:
            reason = getattr(error, "reason", "") or "DataUnreadable"
    runtime = str(installation.lower_runtime())
    pid = os.posix_spawn(runtime, [runtime, *call.words], os.environ)
    _, wait_status = os.waitpid(pid, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    if status != 0:
        return 128 - status if status < 0 else status
    try:
        if trouble is None:
            keeper_client.ask("adopt", timeout_seconds=ADOPT_SECONDS, container=call.container)
        else:
            engine_log.warning(call, f"container {call.container} starts fresh: {trouble}")
            keeper_client.ask(
                "refuse",
                timeout_seconds=ADOPT_SECONDS,
                container=call.container,
                reason=reason,
                message=str(trouble)[:MESSAGE_CHARS],
                is_dirty=is_dirty,
            )
    except Unavailable as error:
        engine_log.error(call, f"container {call.container} waits for its memory: {error}")
        return 1
    except ArchitectError as error:
        # The keeper has done what the pod's policy says, and told it.
        engine_log.warning(call, f"container {call.container} is not restored: {error}")
    return 0
