"""What the network sides of all pods of the node share."""

from __future__ import annotations

import logging
from typing import Final

from architect.api import names
from architect.shim.keeper.loop import Loop
from architect.shim.keeper.warden import Warden
from architect.shim.packets.netns import Netns
from architect.shim.packets.origin import Origins
from architect.shim.packets.ruleset import Support, detect
from architect.shim.standin.tls import Certificate

log = logging.getLogger(__name__)

LATE_SECONDS: Final = 0.5
"""After such a pause the sender of a packet may have given up: kubelet's probes do after 1 s."""


class NodeShared:
    """The loop, the warden, and what is found out once for a node."""

    def __init__(self, loop: Loop, warden: Warden) -> None:
        self.loop = loop
        self.warden = warden
        self.origins = Origins()
        self.certificate = Certificate(names.STANDIN_CERTIFICATE)
        self._support: Support | None = None

    def support(self) -> Support:
        """Return what this kernel can do, found out once. Raises NodeError."""
        if self._support is None:
            # Not in a pod: an earlier keeper may have left packets there, which a trial would drop.
            with Netns.fresh() as netns:
                self._support = detect(netns)
            log.info("packets are queued by %s", self._support.mechanism.value)
        return self._support

    @property
    def is_late(self) -> bool:
        """Whether packets that are read now may have waited for longer than their senders do."""
        return self.loop.last_turn_seconds > LATE_SECONDS
