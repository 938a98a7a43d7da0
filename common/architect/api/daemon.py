"""The daemon's socket: what the runtime asks about pods that come and go.

The daemon listens on :data:`architect.api.names.DAEMON_SOCKET` (0600, root only) and speaks the
frames of :mod:`architect.core.wire`. Nobody needs it to sleep or to wake: without a daemon a pod
that leaves gets its signal, and a pod that comes starts fresh.

Operations (arguments → answer besides ``ok``):

=============  ==================================  ================================================
``leaving``    ``pod``, ``namespace``,             ``captured``: whether the pod is saved for its
               ``pod_name``, ``container``         successor, so that no signal may reach it;
                                                   ``reason``, ``message``: why (not)
``arriving``   ``pod``, ``namespace``,             ``restore``: whether its predecessor's state lies
               ``pod_name``, ``container``         in :data:`~architect.api.names.ARRIVALS`, whole;
                                                   ``hold``: whether it must not start, since its
                                                   policy wants that state, which cannot be had
                                                   now; ``left``: whether it must not start
                                                   whatever its policy is, for the pod was saved
                                                   for its successor and its machine ends;
                                                   ``reason``, ``message``: why (not)
=============  ==================================  ================================================

Where a sandbox of gVisor asks, before its containers, ``arriving`` has an empty ``container``; each
of them asks after it, and ``restore`` says whether it may join what goes on.

Both may take as long as the work takes; the daemon bounds it by the pod's grace period and by its
own settings. What is asked twice is answered twice, and done once.
"""

from __future__ import annotations

from typing import Final

LEAVING: Final = "leaving"
ARRIVING: Final = "arriving"

LEFT: Final = "daemon.left"
"""Name of a file beside the socket: it was modified when a daemon ended in order. The next one,
which comes within a minute if that is an upgrade, removes it."""

LEAVING_SECONDS: Final = 600.0
"""As long as a client waits for ``leaving``: kubelet ends the container long before."""
ARRIVING_SECONDS: Final = 110.0
"""As long as a client waits for ``arriving``: kubelet gives the engine two minutes for a start
(``runtimeRequestTimeout``)."""
