"""How an uninstall waits for the nodes: an annotation on the DaemonSet, and one on each node.

The chart's pre-delete hook asks, by writing ``names.UNINSTALL`` on the daemon's DaemonSet (on the
object, not on its template: nothing is rolled out). Each daemon then puts no pod to sleep any more,
wakes the sleeping ones, takes away its node's ready label and answers with the same value in
``names.UNINSTALLED`` on its node. The value names one uninstall, so that an answer to an earlier
one is none; the request goes with the DaemonSet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from architect.api import names


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Which nodes have answered."""

    done: tuple[str, ...]
    waiting: tuple[str, ...]


def requested(daemon_set: dict[str, Any]) -> str:
    """Return the name of the uninstall that is asked for, or nothing."""
    return _annotation(daemon_set, names.UNINSTALL)


def is_answered(node: dict[str, Any], *, token: str) -> bool:
    """Whether the daemon of *node* has said that nothing sleeps there, for this uninstall."""
    return _annotation(node, names.UNINSTALLED) == token


def progress(nodes: Iterable[dict[str, Any]], *, among: frozenset[str], token: str) -> Progress:
    """Sort the nodes named in *among* by whether they answered *token*.

    A node that is no longer in the cluster has nobody to wake and is left out.
    """
    done: list[str] = []
    waiting: list[str] = []
    for node in nodes:
        if (name := node["metadata"]["name"]) in among:
            (done if is_answered(node, token=token) else waiting).append(name)
    return Progress(done=tuple(sorted(done)), waiting=tuple(sorted(waiting)))


def _annotation(value: dict[str, Any], key: str) -> str:
    return str((value["metadata"].get("annotations") or {}).get(key, ""))
