"""Versions of programs, as far as they decide what fits what: major and minor number."""

from __future__ import annotations

import re
from typing import Final

_RELEASE: Final = re.compile(r"(?<![0-9.])([0-9]+)\.([0-9]+)")


def of(version: str) -> tuple[int, int] | None:
    """Return major and minor number of *version*, such as ``4.2.1``; None if it has none."""
    found = _RELEASE.search(version)
    return (int(found[1]), int(found[2])) if found else None


def are_equal(one: str, other: str) -> bool:
    """Whether two versions are known and of the same release."""
    return of(one) is not None and of(one) == of(other)
