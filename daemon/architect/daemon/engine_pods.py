"""Which pods of the node run under our handlers, asked of its engine over the CRI socket.

The runtime has records of the containers that it manages, and notes of those that asked for it and
are not. But every container of such a pod, its first process included, ends by a call of the same
program: without it a pod that is between two tries of its container could never be removed.

One method of ``runtime.v1.RuntimeService``, by :mod:`architect.daemon.cri`::

    ListPodSandboxRequest  { PodSandboxFilter filter = 1 }
    PodSandboxFilter       { PodSandboxStateValue state = 2 }
    PodSandboxStateValue   { PodSandboxState state = 1 }        SANDBOX_READY = 0
    ListPodSandboxResponse { repeated PodSandbox items = 1 }
    PodSandbox             { string runtime_handler = 7 }
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import grpc

from architect.core.errors import NodeError
from architect.daemon import cri
from architect.daemon.host import Host

log = logging.getLogger(__name__)

METHOD: Final = "/runtime.v1.RuntimeService/ListPodSandbox"
ANSWER_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 1024**2
"""With all labels and annotations of as many pods as a node has."""


def living(host: Host, handlers: Collection[str], *, sockets: Iterable[Path] = cri.SOCKETS) -> int:
    """Return how many pods run under one of *handlers*, as far as there is an engine to ask.

    Raises NodeError if there is one, and it does not tell.
    """
    path = cri.find(host, sockets)
    if path is None:
        log.warning("no engine's socket was found: only the runtime's own records count")
        return 0
    ready = cri.message(1, cri.message(2, b""))
    try:
        raw = cri.call(
            path,
            METHOD,
            ready,
            timeout_seconds=ANSWER_SECONDS,
            max_answer_bytes=MAX_ANSWER_BYTES,
        )
        return sum(_handler(pod) in handlers for number, pod in cri.fields(raw) if number == 1)
    except (grpc.RpcError, ValueError) as error:
        raise NodeError(
            f"the engine does not say which pods it runs: {cri.told(error)}",
            hint="without that the runtime is not taken from under them",
        ) from error


def _handler(pod: bytes) -> str:
    return next((value.decode() for number, value in cri.fields(pod) if number == 7), "")
