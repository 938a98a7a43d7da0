"""What a call of a runtime told its engine, such that two containers' answers can be compared."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from support.runtime import Container

_TIME = re.compile(r'(time"?[=:])"[^"]*"')
"""In text and in JSON, which crun also puts into JSON."""


@dataclass(frozen=True)
class Told:
    """All that an engine learns from one call."""

    status: int
    stdout: str
    stderr: str
    log: tuple[tuple[str, str], ...]
    """Level and message of each line in the file of ``--log``."""


def tell(container: Container, *words: str, **options: Any) -> Told:
    """Call the runtime; return what it told, without what only this container has."""
    container.log.unlink(missing_ok=True)
    done = container.call(*words, check=False, **options)
    return Told(
        done.returncode,
        nameless(container, done.stdout),
        nameless(container, done.stderr),
        log_of(container),
    )


def log_of(container: Container) -> tuple[tuple[str, str], ...]:
    """Return what the engine finds in the log, which is empty if there is none."""
    if not container.log.exists():
        return ()
    lines = map(json.loads, container.log.read_text().splitlines())
    return tuple((line["level"], nameless(container, line["msg"])) for line in lines)


def nameless(container: Container, text: str) -> str:
    """Return *text* without the container's id, pid and bundle, and without the time."""
    for found, name in (
        (str(container.bundle), "BUNDLE"),
        (container.id, "ID"),
        *([(str(container.pid), "PID")] if container.pid else []),
    ):
        text = text.replace(found, name)
    return _TIME.sub(r"\1TIME", text)
