"""What the node's object says while the end of its machine is announced (pure).

No pod comes any more: the node is cordoned, and has a taint of ours, which also says why. What
others put there stays, and so does a cordon that was there before.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from architect.api import names
from architect.core import interruption
from architect.core.errors import FormatError
from architect.core.interruption import Interruption
from architect.kube.api import JsonObject

EFFECT: Final = "NoSchedule"


def marked(node: JsonObject, said: Interruption) -> dict[str, Any] | None:
    """Return the merge patch by which *node* says what is *said*; None: it does.

    ``uncordon`` of *said* counts for nothing: what was before the first notice is kept.
    """
    spec = node.get("spec") or {}
    before = _said_by(node)
    is_cordoned = spec.get("unschedulable") is True
    uncordon = not is_cordoned if before is None else before.uncordon
    text = dataclasses.replace(said, uncordon=uncordon).to_text()
    taint = {"key": names.INTERRUPTION, "value": said.kind, "effect": EFFECT}
    others, own = _taints(node)
    patch_spec: dict[str, Any] = {}
    if not is_cordoned:
        patch_spec["unschedulable"] = True
    if own != [taint]:
        patch_spec["taints"] = [*others, taint]
    patch: dict[str, Any] = {"spec": patch_spec} if patch_spec else {}
    if _annotation(node) != text:
        patch["metadata"] = {"annotations": {names.INTERRUPTION: text}}
    return patch or None


def unmarked(node: JsonObject) -> dict[str, Any] | None:
    """Return the merge patch by which *node* says nothing of it any more; None: it does not."""
    before = _said_by(node)
    others, own = _taints(node)
    spec: dict[str, Any] = {}
    if own:
        spec["taints"] = others
    if before is not None and before.uncordon and (node.get("spec") or {}).get("unschedulable"):
        spec["unschedulable"] = None
    patch: dict[str, Any] = {"spec": spec} if spec else {}
    if _annotation(node) is not None:
        patch["metadata"] = {"annotations": {names.INTERRUPTION: None}}
    return patch or None


def is_marked(node: JsonObject) -> bool:
    """Whether *node* says that its machine ends."""
    return _annotation(node) is not None


def _said_by(node: JsonObject) -> Interruption | None:
    try:
        return interruption.of_node(node)
    except FormatError:
        return None  # whoever wrote that, we have not cordoned it


def _annotation(node: JsonObject) -> str | None:
    found = (node["metadata"].get("annotations") or {}).get(names.INTERRUPTION)
    return None if found is None else str(found)


def _taints(node: JsonObject) -> tuple[list[JsonObject], list[JsonObject]]:
    """Return the taints of others, and ours."""
    taints = (node.get("spec") or {}).get("taints") or []
    own = [taint for taint in taints if taint.get("key") == names.INTERRUPTION]
    return [taint for taint in taints if taint not in own], own
