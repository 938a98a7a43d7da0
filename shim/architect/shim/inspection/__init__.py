"""What in a running pod keeps CRIU from dumping it: pure.

::

    facts        what is known of a container's processes; who reads it is keeper.survey
    containers   what of that stands out: the container as a whole, and each process
    descriptors  – what a process has open
    files        – what has no name any more, and what is no file
    findings     what is told of it, and what would have to change

Reasons are those of :mod:`architect.shim.criu_errors` where CRIU would say the same thing. Each is
one that CRIU does refuse: a test makes it and has it tried. What CRIU saves is no finding, however
odd it is. Not seen here: conversations that are under way (a sleep waits for their end).

Names that a process can choose are texts of limited length without control characters: they end in
conditions and events.
"""
