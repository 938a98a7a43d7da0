"""The keeper's control protocol: operations, answers and events.

The keeper listens on :data:`architect.api.names.KEEPER_SOCKET` (0600, root only, checked by
SO_PEERCRED too) and speaks the frames of :mod:`architect.core.wire`. A pod is named by its uid,
or by ``namespace/name``; a stand-alone container (``ctr``, Podman) is a pod of its own whose uid is
the container's id, and is also named by 12 or more first characters of it.

Operations (arguments → answer besides ``ok``):

=============  =============================================  =====================================
``version``    –                                              ``version``, ``pid``, ``started``
``register``   ``container`` (id; its record is on disk)      ``pod``
``list``       –                                              ``pods``: list of pod status
``status``     ``pod``                                        ``status``: pod status
``sleep``      ``pod``, ``reason``, ``patience_seconds``      ``status``, ``duration_seconds``
``wake``       ``pod``, ``reason``                            ``status``, ``duration_seconds``
``ensure``     ``container``, ``reason``                      ``state``: wakes the container's pod
                                                              if it is not awake, then answers
``kill``       ``container``, ``signal``                      as ensure: before a signal goes out;
                                                              ``captured``: it was ended instead
``awake``      ``container``                                  ``state``: changes nothing; the
                                                              launcher asks so before it starts
                                                              an interpreter
``exec``       ``container``, ``argv``                        ``probe``: true if asleep and *argv*
                                                              is an exec probe (answer it without
                                                              waking); else as ensure
``settle``     ``pod``, ``container``                         ``state``: wakes the pod before
                                                              *container* comes, which could reach
                                                              CRIU; its note is on disk
``capture``    ``pod``, ``reason``, ``patience_seconds``,     ``status``: puts the pod to sleep for
               ``ends_with`` (list of argv)                   its successor; a wake undoes it; the
                                                              commands (preStop hooks) succeed
                                                              without reaching it; ``has_slept``:
                                                              it was asleep anyway
``depart``     ``pod``, ``reason``                            ``status``: it never runs here again
``copy``       ``pod``, ``reason``, ``patience_seconds``      ``status``: has the pod asleep, its
                                                              connections in place, until ``go_on``
                                                              or the end of the connection; a wake
                                                              undoes it
``go_on``      ``pod``                                        ``status``: awake again, or asleep if
                                                              it was before ``copy``; rejected with
                                                              ``NotCaptured`` if it was woken since
``adopt``      ``container``                                  ``state``: the hollow container takes
                                                              what lies in its arrival, and wakes;
                                                              or sleeps on, if its predecessor slept
                                                              and the policy says so
``refuse``     ``container``, ``reason``, ``message``,        ``state``: what came for the hollow
               ``is_dirty``                                   container cannot be used; it starts
                                                              fresh if its policy says so, or ends
                                                              if part of the files is there
``removed``    ``container``                                  – (the engine deleted the container)
``forget``     ``pod``                                        ``freed_bytes``: the API says that the
                                                              pod is gone; its images are removed
``observe``    ``pods`` (list of uids, empty: all)            ``observations``: see below
``memory``     –                                              ``memory`` {uid: bytes}: what a dump
                                                              of each awake pod would write
``check``      ``pod``                                        ``status``, ``findings``: list of
                                                              {``container``, ``reason``,
                                                              ``message``, ``hint``,
                                                              ``is_blocking``, ``about``}; empty
                                                              unless the pod is awake
``note``       ``pod``, ``why`` (list of texts),              – (the daemon's verdict, so that
               ``idle_in_seconds``                            ``architect-runtime why`` can tell it)
``why``        ``pod``                                        ``why``: list of texts
``ready``      ``pod``, ``containers`` {name: bool}           – (kubelet's verdict, which the
                                                              stand-in repeats while asleep; of a
                                                              sleeping pod it is not taken)
``subscribe``  –                                              then a stream of events
=============  =============================================  =====================================

Pods of gVisor are listed, and take ``status``, ``why``, ``check``, ``note``, ``copy`` and ``go_on``
as others do; ``adopt`` and ``refuse``, with the id of their sandbox, tell that they go on, or that
their sandbox ends. Anything else is rejected with the reason ``Gvisor``.

Failures: ``error.code`` is ``rejected`` (nothing was changed: unknown pod, malformed, busy) or
``failed`` (tried, undone); ``error.reason`` is a stable CamelCase word for conditions and metrics.

Pod status::

    {"pod": uid, "namespace": …, "name": …, "state": "awake|falling|asleep|waking|failed",
     "since": unix seconds, "since_boot": seconds of CLOCK_BOOTTIME,
     "image_bytes": int, "held_packets": int, "reason": str,
     "last_sleep_seconds": float|null, "last_wake_seconds": float|null,
     "refused": {"reason", "message", "hint"}|null,
     "containers": {name: {"id": …, "init_pid": int|null, "state": …, "image_bytes": int}}}

Observation of one pod (raw facts; the daemon decides what they mean)::

    {"pod": uid, "state": …, "now": monotonic seconds of the keeper,
     "packets": int, "local_packets": int, "node_packets": int,
     "last_source": {"seconds_ago": float, "from": ip, "port": int, "sources": int}|null,
     "last_real_syn": {"seconds_ago": float, "from": "ip:port", "port": int}|null,
     "connections": [{"local": "ip:port", "remote": "ip:port", "idle_seconds": float}],
     "listening": [{"proto": "tcp|udp", "address": str, "port": int}],
     "exec_sessions": [{"pid": int, "command": str, "container": name}],
     "containers": {name: {"cpu_seconds": float, "memory_bytes": int, "started": unix seconds,
                           "age_seconds": float, "processes": int}}}

``packets`` came to listening ports; ``local_packets`` of them over the pod's own loopback.
``last_source`` sent the last of the others, to ``port`` of the pod, and was one of ``sources``
addresses within ten minutes; null where nobody did or the kernel cannot note it. An older keeper
leaves out ``local_packets`` and ``last_source``.

Counters only grow within one life of the pod's rules; a smaller value means they were made anew.
"""

from __future__ import annotations

import enum
from typing import Final

REASON_ARRIVED: Final = "restored"
"""Of a wake by which a pod goes on where it came to; ``restored`` is told after it."""


class PodState(enum.Enum):
    """Where a pod is in its life."""

    AWAKE = "awake"
    FALLING = "falling"
    """Packets are held, conversations drain, the dump runs."""
    ASLEEP = "asleep"
    WAKING = "waking"
    FAILED = "failed"
    """Asleep, and the last restore failed: the image is kept."""
    CAPTURED = "captured"
    """Asleep for good: another pod goes on with its memory."""


class Event(enum.Enum):
    """What the stream of ``subscribe`` tells, as ``{"event": …, "pod": uid, "at": unix, …}``."""

    SLEPT = "slept"
    """``duration_seconds``, ``image_bytes``, ``reason``, ``steps`` {name: seconds}."""
    WOKE = "woke"
    """``duration_seconds``, ``reason``, ``held_packets``, ``steps``."""
    CAPTURED = "captured"
    """``duration_seconds``, ``image_bytes``, ``reason``: the pod's image waits for a successor."""
    COPIED = "copied"
    """As of ``woke``: it slept while its image was copied, and for nothing else."""
    RESTORED = "restored"
    """``container``: it goes on with the memory that came for it (or sleeps with it); ``returned``:
    that was its own, of before its machine was rebooted."""
    HOOK = "hook"
    """``container``, ``status``, ``duration_seconds``, ``message`` (the end of its output) and
    ``is_late`` (killed) of a user's command after a restore; or ``reason`` and ``message``."""
    SLEEP_FAILED = "sleep-failed"
    """``reason``, ``message``, ``hint``: what was dumped is restored and packets are released."""
    WAKE_FAILED = "wake-failed"
    """``reason``, ``message``, ``hint``, ``policy``."""
    WAKE_BLOCKED = "wake-blocked"
    """``needed_bytes``, ``available_bytes``; or ``message``: what could reach CRIU (a debugger)."""
    REGISTERED = "registered"
    REMOVED = "removed"
    ACTIVITY = "activity"
    """A real connection from a node address (see ``last_real_syn``)."""
