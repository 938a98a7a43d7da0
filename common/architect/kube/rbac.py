"""What a part asks of the API, as data: the chart's roles are compared with it by a test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from architect.kube.resources import Resource


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Verbs on one kind of object."""

    resource: Resource
    verbs: tuple[str, ...]
    subresource: str = ""
    is_local: bool = False
    """Only in our own namespace: a Role instead of a ClusterRole."""
    names: tuple[str, ...] = ()
    """Only these objects. Not for create and list, which name none."""

    def to_role_rule(self) -> dict[str, Any]:
        """Return the rule as a Role or ClusterRole has it."""
        plural = self.resource.plural
        value: dict[str, Any] = {
            "apiGroups": [self.resource.group],
            "resources": [f"{plural}/{self.subresource}" if self.subresource else plural],
            "verbs": sorted(self.verbs),
        }
        if self.names:
            value["resourceNames"] = sorted(self.names)
        return value


def flatten(
    role_rules: Iterable[dict[str, Any]],
) -> frozenset[tuple[str, str, str, str]]:
    """Return every (group, resource, name or "", verb) that a role's rules grant."""
    return frozenset(
        (group, resource, name, verb)
        for rule in role_rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
    )
