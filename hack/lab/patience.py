"""How long to wait on machines that are slower than a developer's: ``ARCHITECT_PATIENCE=10``."""

from __future__ import annotations

from typing import Final

from lab.settings import Settings

FACTOR: Final = Settings.from_environment().patience
"""By what every deadline of the lab and of the tests is multiplied."""


def patient(seconds: float) -> float:
    """Return the deadline of *seconds*, on this machine."""
    return seconds * FACTOR
