"""``docs/migration.md`` names every reason that the code can give, and the chart's values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from architect.daemon import owners

CHECKOUT = Path(__file__).parents[2]
DAEMON = CHECKOUT / "daemon/architect/daemon"
PAGE = (CHECKOUT / "docs/migration.md").read_text(encoding="utf-8")
REASONS = {
    "owners.py": r'_no\(\s*"(\w+)"|reason="(\w+)"',
    "succession.py": r'_refused\(\s*"(\w+)"',
    "claims.py": r'reason="(\w+)"|_about\(\s*[\w\[\]]+,\s*"(\w+)"',
    "offers.py": r'Misfit\(\s*"(\w+)"',
    "moves/arrivals.py": r'reason="(\w+)"',
    "moves/bringing.py": r'reason="(\w+)"',
    "moves/retrieving.py": r'reason="(\w+)"',
    "moves/objects.py": r'reason="(\w+)"',
    "moves/room.py": r': Final = "(\w+)"',
    "moves/upkeep.py": r'(?:over|not_captured)\("(\w+)"',
}


def reasons(module: str) -> set[str]:
    text = (DAEMON / module).read_text(encoding="utf-8")
    return {next(filter(None, found)) for found in re.findall(f"(?:{REASONS[module]})()", text)}


@pytest.mark.parametrize("module", REASONS)
def test_every_reason_stands_on_the_page(module: str) -> None:
    found = reasons(module)
    assert len(found) >= 2
    assert [reason for reason in sorted(found) if f"`{reason}`" not in PAGE] == []


def test_a_pod_that_moves_has_its_reason() -> None:
    assert f"`{owners.EXPECTED}`" in PAGE


def test_the_charts_values_and_their_defaults_stand_in_the_table() -> None:
    values = yaml.safe_load((CHECKOUT / "charts/architect/values.yaml").read_text())
    migration = values["daemon"]["migration"]
    rows = dict(re.findall(r"^\| `daemon\.migration\.(\w+)` \| (\S+) \|", PAGE, re.MULTILINE))
    assert rows == {key: str(value) for key, value in migration.items()}
