"""``docs/security.md``: its tables are those of the code, and its tests exist."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from architect.api import names
from architect.core import httpserver
from architect.daemon import rbac as daemon_rbac
from architect.kube.rbac import Rule
from architect.operator import rbac as operator_rbac
from architect.webhook import crowd, review
from architect.webhook import rbac as webhook_rbac

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")

PARTS = {
    "webhook": webhook_rbac.RULES,
    "operator": operator_rbac.RULES,
    "daemon": daemon_rbac.RULES,
    "uninstall": operator_rbac.UNINSTALL_RULES,
}


def rows(part: str, rules: Iterable[Rule]) -> list[str]:
    """Return the rules as the page begins their rows: what they are for stands behind."""
    found = []
    for rule in rules:
        resource = f"{rule.resource.plural}/{rule.subresource}".rstrip("/")
        named = ", ".join(f"`{name}`" for name in sorted(rule.names)) or "–"
        where = "release" if rule.is_local else "all"
        found.append(
            f"| {part} | {where} | {resource} | {', '.join(sorted(rule.verbs))} | {named} |"
        )
    return found


@pytest.mark.parametrize("part", PARTS)
def test_each_right_stands_there_with_its_reason(part: str) -> None:
    wanted = rows(part, PARTS[part])
    lines = [
        line for line in PAGE.splitlines() if re.match(rf"\| {part} \| (all|release) \|", line)
    ]
    assert [line.rsplit(" |", 2)[0] + " |" for line in lines] == wanted
    assert all(line.rsplit("|", 2)[1].strip() for line in lines)


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:unit|kernel|cluster|packaging)/[\w/]+\.py)`", PAGE))
    assert len(named) > 30
    assert {path for path in named if not (TESTS / path).is_file()} == set()


def test_every_attack_has_a_test() -> None:
    (table,) = re.findall(r"^\| attack \|.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    for line in table.splitlines()[2:]:
        attack, what, tested = (cell.strip() for cell in line.strip("|").split("|"))
        if not attack.startswith("**"):
            assert what and "`" in tested, attack


def test_every_heading_that_is_linked_exists() -> None:
    headings = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", PAGE)) <= anchors


def test_what_a_daemon_may_write_is_named() -> None:
    """As ``test_chart_rights.py`` has it of the policies."""
    (node,) = re.findall(r"^\| of its own Node \|.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    (pod,) = re.findall(r"^\| of a pod that is bound.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"`([^`]*)`", node)) == {
        *(names.NODE_READY_LABEL, names.NODE_GVISOR_LABEL, names.INTERRUPTION, names.SPOT_NEEDS),
        *(names.UNINSTALLED, names.NODE_CONDITION, names.NODE_GVISOR_CONDITION, "unschedulable"),
    }
    assert set(re.findall(r"`([^`]*)`", pod)) == {
        f"{names.STATUS_LABEL_PREFIX}…",
        *(names.ORIGINAL_REQUESTS, names.CONDITION_ASLEEP, "resize"),
    }


def test_bounds_of_ports_are_those_of_the_code() -> None:
    assert f"{httpserver.MAX_CONNECTIONS} connections, of which the oldest makes place" in PAGE
    assert f"{crowd.MAX_CONNECTIONS} connections, of which the oldest that never" in PAGE
    assert f"{crowd.REQUEST_SECONDS:g} s for a request to arrive" in PAGE
    assert f"{review.MAX_BODY_BYTES >> 20} MiB a body" in PAGE
    held = f"{crowd.MAX_HELD_BYTES >> 20} MiB for all that are larger"
    assert f"{held} than {crowd.SMALL_BYTES >> 10} KiB" in PAGE
