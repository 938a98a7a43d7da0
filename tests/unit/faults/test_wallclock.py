"""The clock of a machine that others use is left alone."""

from __future__ import annotations

import pytest

from faults import wallclock
from faults.errors import FaultError


def test_it_is_not_set_where_it_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(wallclock.ALLOWED, raising=False)
    monkeypatch.setattr(wallclock, "_step", lambda _: pytest.fail("it was set"))
    with pytest.raises(FaultError, match=wallclock.ALLOWED), wallclock.off_by(1.0):
        pass


def test_it_is_set_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wallclock.ALLOWED, "1")
    steps: list[float] = []
    monkeypatch.setattr(wallclock, "_step", steps.append)
    with pytest.raises(ValueError, match="x"), wallclock.off_by(5.0):
        raise ValueError("x")
    assert steps == [5.0, -5.0]
