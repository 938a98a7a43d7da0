"""The daemon asks a keeper that may be older than itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import Rejected
from architect.daemon.keeper_link import KeeperLink


def test_an_older_keeper_tells_the_memory_that_it_knows_of(tmp_path: Path, keeper: Any) -> None:
    link = KeeperLink(timeout_seconds=20, transition_timeout_seconds=20, path=keeper.path)
    keeper.add("uid-web")
    keeper.add("uid-asleep", state="asleep")
    keeper.memory["uid-web"] = 5
    assert link.memory() == {"uid-web": 5}
    keeper.refusals["memory"] = {"code": "rejected", "reason": "Protocol", "message": "unknown"}
    assert link.memory() == {"uid-web": 1 << 20}
    keeper.refusals["memory"] = {"code": "rejected", "reason": "Ending", "message": "x"}
    with pytest.raises(Rejected):
        link.memory()
