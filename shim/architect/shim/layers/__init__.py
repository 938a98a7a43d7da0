"""What a container wrote, packed into one archive and applied to another container.

Two kinds: the *layer*, the upper directory of the overlay that is the container's root, with its
deletions; and the *volume*, a plain tree such as an emptyDir or ``/dev/shm``. ``places`` finds
them, ``pack`` writes an archive, ``apply`` brings one into a root or volume, ``reader`` reads it
strictly, ``archive`` is the format. ``python -m architect.shim.layers`` does the same by command
line.

Sources and targets are a stranger's files, and archives come from another node: nothing is reached
by a path. Every step is one name below an open directory, through ``beneath``, which follows no
symbolic link and crosses no mount. So a layer never touches the volumes mounted in a container,
whatever image, archive or a running neighbour say.
"""
