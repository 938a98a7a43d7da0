"""What holds for all tests."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from support.tiers import IS_LONG

# Two shared, noisy cores: no test may depend on speed. The same examples each time, so that a
# change is judged by what it changes; `make test-long` looks for new ones.
hypothesis.settings.register_profile(
    "architect",
    deadline=None,
    derandomize=not IS_LONG,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("architect")

TESTS = Path(__file__).parent
TIERS = ("unit", "packaging", "fuzz", "kernel", "machine", "cluster")
"""Folders by how long their tests take and how much they need."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that need more than a checkout, and run the quick tiers first.

    Those marked ``long`` are left to ``make test-long``, and counted as deselected.
    """
    later = [item for item in items if item.get_closest_marker("long") and not IS_LONG]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]
    for item in items:
        if tier(item) in ("kernel", "cluster"):
            item.add_marker(tier(item))
    items.sort(key=lambda item: TIERS.index(tier(item)))


def tier(item: pytest.Item) -> str:
    """Return the folder of a test below ``tests``."""
    return item.path.relative_to(TESTS).parts[0]
