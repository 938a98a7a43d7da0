"""Asking again while nobody answers: the API server, or a keeper that was killed, is back soon."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from architect.core.errors import ArchitectError, Retryable

log = logging.getLogger(__name__)

T = TypeVar("T")


def patiently(
    ask: Callable[[], T],
    *,
    seconds: float,
    step_seconds: float,
    again: tuple[type[ArchitectError], ...] = (Retryable,),
) -> T:
    """Return what *ask* returns, called anew every *step_seconds* as long as it raises *again*.

    What is asked must do no harm when it is asked twice: whether it was heard is not known. Raises
    what *ask* raises besides, and after *seconds* that, too.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except again as error:
            if time.monotonic() > deadline:
                raise
            log.warning("asked again in %.1f s: %s", step_seconds, error)
            time.sleep(step_seconds)
