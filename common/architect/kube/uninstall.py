"""How an uninstall waits for the nodes: two annotations on each node.

The chart's pre-delete hook asks, by writing :data:`REQUESTED` on every node that has a daemon. The
daemon then puts no pod to sleep any more, wakes the sleeping ones, takes away its ready label and
answers with the same value in :data:`DONE`. The value names one uninstall, so that an answer to an
earlier one is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names

REQUESTED: Final = f"{names.GROUP}/uninstall"
"""Node annotation, by the hook: the name of the uninstall that is under way."""

DONE: Final = f"{names.GROUP}/uninstalled"
"""Node annotation, by the daemon: the uninstall for which no pod sleeps on this node any more."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Which nodes have answered."""

    done: tuple[str, ...]
    waiting: tuple[str, ...]


def requested(node: dict[str, Any]) -> str:
    """Return the name of the uninstall asked for on *node*, or nothing."""
    return _annotation(node, REQUESTED)


def is_answered(node: dict[str, Any]) -> bool:
    """Whether the daemon of *node* has said that nothing sleeps there for this uninstall."""
    return bool(requested(node)) and _annotation(node, DONE) == requested(node)


def answer(node: dict[str, Any]) -> dict[str, str | None]:
    """Return the annotations with which the daemon answers once no pod sleeps on its node."""
    return {DONE: requested(node) or None}


def progress(nodes: Iterable[dict[str, Any]], *, among: frozenset[str], token: str) -> Progress:
    """Sort the nodes named in *among* by whether they answered *token*.

    A node that is no longer in the cluster has nobody to wake and is left out.
    """
    done, waiting = [], []
    for node in nodes:
        name = node["metadata"]["name"]
        if name in among:
            (done if _annotation(node, DONE) == token else waiting).append(name)
    return Progress(done=tuple(sorted(done)), waiting=tuple(sorted(waiting)))


def _annotation(node: dict[str, Any], key: str) -> str:
    return str((node["metadata"].get("annotations") or {}).get(key, ""))
