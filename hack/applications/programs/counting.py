"""What the Python servers here answer: one count a process, and whether its state is whole."""

from __future__ import annotations

import itertools
import json
import os
import secrets
from collections.abc import Callable

IDENTITY = secrets.token_hex(8)
"""Another one in each process that imports this anew."""

_count = itertools.count(1)


def answer(path: str, state: Callable[[], object] = lambda: "") -> bytes:
    """Return the answer to a request: ``/count`` counts it, ``/state`` looks at all there is."""
    said: dict[str, object] = {"identity": f"{os.getpid()}-{IDENTITY}"}
    if path == "/count":
        said["count"] = next(_count)
    if path == "/state":
        said["state"] = state()
    return json.dumps(said).encode()
