"""What can be asked of a machine of its own alone: ``make test-vm`` runs it in one."""

from __future__ import annotations

from kernel.faults.conftest import stage

__all__ = ["stage"]
