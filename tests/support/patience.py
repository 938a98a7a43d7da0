"""How long tests wait on machines that are slower than a developer's: as long as the lab does."""

from __future__ import annotations

from lab.patience import FACTOR, patient

__all__ = ["FACTOR", "patient"]
