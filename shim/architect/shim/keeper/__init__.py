"""The keeper: one process per node that puts pods to sleep, holds their packets and wakes them.

It runs on the host, outside every pod's cgroup, started on demand by the command line and restarted
by the warden. All it must not lose is on disk or, for packet queues, with the warden; it can be
killed at any time and picks up every pod.

``lifecycle`` says what a pod may do next, ``failures`` what follows if it cannot and ``recovery``
what to do after a restart (all pure); ``falling``, ``waking`` and ``resuming`` do it with a ``pod``
of the ``registry``, and ``dumping``, ``restoring`` and ``adopting`` with each ``container`` of it;
``criu``, ``processes``, ``initpage`` and ``images`` are the edges.

It lives as long as its node, so what it imports counts as the memory that every node pays.
"""

from architect.shim import frugal

frugal.import_dataclasses()
