"""A directory for what a parser reads from files: one for each target, in memory where possible.

It is written anew for each input. Making and removing thousands of directories on a disk takes
longer than everything else together.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_MEMORY: Final = "/dev/shm"


@functools.cache
def directory(name: str) -> Path:
    """Return the directory *name*, which is removed when this process ends."""
    within = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix=f"architect-fuzz-{name}-", dir=within))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made
