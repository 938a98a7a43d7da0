"""What can go wrong with the harness itself, or is found by it."""

from __future__ import annotations


class FaultError(Exception):
    """Something did not happen as it must: what, and what was seen instead."""
