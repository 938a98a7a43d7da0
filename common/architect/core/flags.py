"""Values of flags in the forms that several parts take."""

from __future__ import annotations

from architect.core import durations


def switch(text: str) -> bool:
    """Return what ``true`` or ``false`` says. Raises ValueError for anything else."""
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is not true or false")
    return text == "true"


def seconds(text: str) -> float:
    """Return the seconds that a plain number or a duration (``30s``) says. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        return durations.parse(text)
