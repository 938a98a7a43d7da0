"""A pod that comes waits for what it starts from: looked at until that is decided."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Final

from architect.core.errors import Retryable
from architect.daemon.claims import Fresh, Wait
from architect.kube.api import JsonObject
from architect.kube.errors import Conflict

log = logging.getLogger(__name__)

CONFLICT_SECONDS: Final = 0.1
"""Within it those of whom one was faster look again, and not all at the same moment."""
LOOKS_PER_WAIT: Final = 20
"""Who has waited long looks less often: nothing is lost by a twentieth of that."""
API_SECONDS: Final = 0.5


def until_decided(
    look: Callable[[float], JsonObject | Fresh | Wait],
    *,
    who: str,
    look_seconds: float,
    patience_seconds: float,
) -> JsonObject | Fresh:
    """Return what *look* gives, called with the seconds waited so far, once that is no Wait.

    At first it is called every *look_seconds*. An API server that is away, and others that are
    faster, are waited for as long as *patience_seconds*; then what *look* raises is raised.
    """
    started, told = time.monotonic(), ""
    while True:
        waited = time.monotonic() - started
        try:
            found = look(waited)
        except Conflict:
            if waited > patience_seconds:
                raise
            time.sleep(random.uniform(0, CONFLICT_SECONDS))
            continue
        except Retryable as error:
            if waited > patience_seconds:
                raise
            log.warning("%s waits for the API: %s", who, error)
            time.sleep(API_SECONDS)
            continue
        if not isinstance(found, Wait):
            return found
        if found.for_what != told:
            told = found.for_what
            log.info("%s waits for %s", who, told)
        time.sleep(min(max(look_seconds, waited / LOOKS_PER_WAIT), found.seconds))
