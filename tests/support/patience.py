"""How long tests wait on machines that are slower than a developer's: ``ARCHITECT_PATIENCE=30``."""

from __future__ import annotations

import os
from typing import Final

FACTOR: Final = float(os.environ.get("ARCHITECT_PATIENCE") or 1)
"""By what every deadline of the tests is multiplied."""


def patient(seconds: float) -> float:
    """Return the deadline of *seconds*, on this machine."""
    return seconds * FACTOR
