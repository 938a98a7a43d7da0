"""``runsc-architect``: runc's command line, as engines speak it, in front of gVisor's runsc.

runsc has the same commands, and differs where a pod has several containers. All of them are in one
process, the *sandbox*; the first container of a pod (``pause``) is its root:

- Engines give a container's stdio at ``create`` and read what ``start`` prints to its end; runsc
  takes the stdio of all but the root at ``start`` and keeps it.
- Engines wait for the process in the pid file; runsc writes the sandbox's into each.
- Engines know some errors by runc's words.

So every container but the root has an *anchor* (``shim/native/anchor.c``): it holds the stdio until
the start, it is what the engine waits for, and it ends with the container's status.

Anything else than ``create``, ``start``, ``kill`` and ``delete`` is runsc's own: the launcher
passes it on without coming here.
"""
