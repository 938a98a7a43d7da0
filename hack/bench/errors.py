"""What ends a measure."""

from __future__ import annotations


class BenchError(Exception):
    """Something could not be measured: what, on which object, and what was seen instead."""
