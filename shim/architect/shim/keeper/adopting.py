"""An image runs in another container than the one that it was made of.

Either it came from another pod, and is checked before this container takes it as its own; or the
machine may be rebooted, and what its next container will need is written down while this one lives.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from architect.core.errors import ArchitectError, NodeError
from architect.shim.keeper import claims, images, privileges, projected
from architect.shim.layers import places
from architect.shim.packets import rebinding

if TYPE_CHECKING:
    from architect.shim.keeper.container import Container

log = logging.getLogger(__name__)


def adopt(container: Container, *, addresses: frozenset[str]) -> None:
    """Give *container* what came for it from another pod: see :meth:`.Container.adopt`."""
    arrival = images.arrival(container.record.pod, container.record.container)
    old = frozenset(images.Meta.read(arrival).addresses)
    spec = places.spec_in(container.record.bundle)
    allowed = privileges.allowance(spec, machine=os.uname().machine)
    privileges.check(claims.read(arrival / "image"), allowed)
    rebinding.rebind(arrival / "image", rebinding.pairs(old, addresses), old=old)
    projected.follow(arrival / "image", init_pid=container.init().pid, pod_uid=container.record.pod)
    images.adopt(container.directory, arrival=arrival)
    try:
        note_return(container, addresses=addresses)
    except (ArchitectError, OSError) as error:
        log.info("container %s: it would not outlive a reboot: %s", container.name, error)


def note_return(container: Container, *, addresses: frozenset[str]) -> None:
    """Write down what its image needs to run in a new one: see :meth:`.Container.note_return`."""
    spec = places.spec_in(container.record.bundle)
    volatile, upper = places.in_memory(spec, container.record.pod), ""
    if not (spec.get("root") or {}).get("readonly"):
        try:
            upper = str(places.upper_directory(container.init().pid))
        except NodeError as error:
            name = container.name
            log.info("container %s: its files would not outlive a reboot: %s", name, error)
            volatile.append("/")
    images.note_return(container.directory, addresses=addresses, upper=upper, volatile=volatile)
