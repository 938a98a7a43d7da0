"""What our accounts may ask of the API server and never did, from its audit log.

``make rights`` runs the cluster tests and asks. ``python -m bench.rights [FILE…]``: of a cluster
that was made with ``ARCHITECT_LAB_AUDIT=1`` and has run them; without a file, of the one that is
up. What was refused is told as well: a right that is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.daemon import rbac as daemon_rbac
from architect.kube.rbac import Rule
from architect.kube.resources import SIGNERS
from architect.operator import rbac as operator_rbac
from architect.webhook import rbac as webhook_rbac
from lab import control_plane
from lab.settings import Settings

ACCOUNT: Final = "system:serviceaccount:architect:architect-"
"""Before the part's name, where the release is the lab's."""

PARTS: Final = {
    "webhook": webhook_rbac.RULES,
    "operator": operator_rbac.RULES,
    "daemon": daemon_rbac.RULES,
    "uninstall": operator_rbac.UNINSTALL_RULES,
}

FORBIDDEN: Final = 403


@dataclass(frozen=True, kw_only=True, order=True)
class Right:
    """To ask one thing of one kind of object."""

    part: str
    resource: str
    """With its group, where it has one, and its subresource."""
    verb: str

    def __str__(self) -> str:
        return f"{self.part}: {self.verb} {self.resource}"


def granted() -> set[Right]:
    """Return what the parts declare that they use. Of signers the API server asks by itself."""
    return {
        Right(part=part, resource=_named(rule), verb=verb)
        for part, rules in PARTS.items()
        for rule in rules
        if rule.resource is not SIGNERS
        for verb in rule.verbs
    }


def _named(rule: Rule) -> str:
    return _joined(rule.resource.group, rule.resource.plural, rule.subresource)


def _joined(group: str, resource: str, subresource: str) -> str:
    name = f"{resource}.{group}" if group else resource
    return f"{name}/{subresource}" if subresource else name


def asked(lines: Iterable[str]) -> Iterator[tuple[Right, int]]:
    """Yield what our accounts asked for, and how it was answered."""
    for line in lines:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the last one, half written
        who = str((entry.get("user") or {}).get("username") or "")
        where = entry.get("objectRef") or {}
        if not who.startswith(ACCOUNT) or not where:
            continue
        resource = _joined(
            where.get("apiGroup", ""), where.get("resource", ""), where.get("subresource", "")
        )
        right = Right(part=who.removeprefix(ACCOUNT), resource=resource, verb=entry["verb"])
        yield right, int((entry.get("responseStatus") or {}).get("code") or 0)


def logs_of_the_lab(settings: Settings) -> list[Path]:
    """Return the audit logs of the development cluster, those that were put aside included."""
    directory = settings.machines / control_plane.MACHINE / "log"
    whole = Path(control_plane.AUDIT_LOG)
    return sorted(directory.glob(f"{whole.stem}*{whole.suffix}"))


def main(words: list[str] | None = None) -> int:
    """Print what the logs tell; 1 if a right was never used, 2 if there is none to read."""
    parser = argparse.ArgumentParser(prog="bench.rights", description=__doc__)
    parser.add_argument("files", type=Path, nargs="*")
    options = parser.parse_args(words)
    files = options.files or logs_of_the_lab(Settings.from_environment())
    if not files:
        print("no audit log: make the cluster with ARCHITECT_LAB_AUDIT=1 (or: make rights)")
        return 2
    used: set[Right] = set()
    refused: set[Right] = set()
    for file in files:
        with file.open() as lines:
            for right, code in asked(lines):
                (refused if code == FORBIDDEN else used).add(right)
    unused = granted() - used
    for what, found in (("never used", unused), ("asked for and refused", refused)):
        print(f"{what}: {len(found)}")
        for right in sorted(found):
            print(f"  {right}")
    return 1 if unused else 0


if __name__ == "__main__":
    raise SystemExit(main())
