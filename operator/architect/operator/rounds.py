"""Looks at everything, again and again: each by itself, and none ends in silence."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is looked at."""

    what: str
    """For the log, such as ``certificates``."""
    look: Callable[[], object]
    """Blocks; what it returns is not looked at."""
    threads: Executor | None = None
    """In which it works; None: those that all share."""
    seconds: float | None = None
    """From one look's end to the next one; None: as all."""


async def repeat(
    one: Round, stop: asyncio.Event, *, seconds: float, failed: Callable[[], None]
) -> None:
    """Work until *stop*; *seconds*: from the end of a look that has no time of its own to the next.

    A look is to raise nothing. If it does (a defect, ours or a library's) that is logged, *failed*
    is called, and it comes again: nobody waits for this, so its end would be noticed by nobody.
    """
    loop = asyncio.get_running_loop()
    pause = seconds if one.seconds is None else one.seconds
    while not stop.is_set():
        try:
            await loop.run_in_executor(one.threads, one.look)
        except Exception:
            log.exception("the look at %s failed; it comes again in %g s", one.what, pause)
            failed()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
