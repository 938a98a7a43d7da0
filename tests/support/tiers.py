"""How much of a test runs: a sample each time, the whole with ``ARCHITECT_LONG=1``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

IS_LONG = os.environ.get("ARCHITECT_LONG") == "1"


def sized(sample: T, whole: T) -> T:
    """Return how much is wanted now."""
    return whole if IS_LONG else sample
