from __future__ import annotations

from typing import Any

import pytest

from architect.core.errors import FormatError
from architect.daemon.observation import Source, read_observation

OLDER: dict[str, Any] = {"pod": "uid", "state": "awake", "now": 10.0, "packets": 12}
"""What a keeper tells that does not know of sources."""


def test_an_older_keeper_names_no_source() -> None:
    seen = read_observation(OLDER)
    assert (seen.packets, seen.local_packets, seen.last_source) == (12, 0, None)


def test_a_source_is_read() -> None:
    told = {"seconds_ago": 3.5, "from": "fd00::7", "port": 8080, "sources": 2}
    seen = read_observation({**OLDER, "local_packets": 4, "last_source": told})
    assert seen.local_packets == 4
    assert seen.last_source == Source(seconds_ago=3.5, address="fd00::7", port=8080, sources=2)
    assert read_observation({**OLDER, "last_source": None}).last_source is None


@pytest.mark.parametrize("source", [{}, {"seconds_ago": "soon"}, "10.0.0.7"])
def test_a_malformed_source_is_said(source: Any) -> None:
    with pytest.raises(FormatError, match="observation is malformed"):
        read_observation({**OLDER, "last_source": source})
