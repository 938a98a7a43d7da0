"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# Two shared, noisy cores: no test may depend on speed.
hypothesis.settings.register_profile(
    "architect",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("architect")

TESTS = Path(__file__).parent
TIERS = ("unit", "packaging", "kernel", "cluster")
"""Folders by how long their tests take and how much they need."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need more than a checkout, and run the quick tiers first."""
    for item in items:
        if tier(item) in ("kernel", "cluster"):
            item.add_marker(tier(item))
    items.sort(key=lambda item: TIERS.index(tier(item)))


def tier(item: pytest.Item) -> str:
    """Return the folder of a test below ``tests``."""
    return item.path.relative_to(TESTS).parts[0]
