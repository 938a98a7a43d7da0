"""JSON documents with one value replaced: what a strict reader must refuse or read as it is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return where each value below *node* is: the keys and indexes that lead to it."""
    pairs = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    found = [path] if path else []
    for key, inner in pairs:
        found += paths(inner, (*path, key))
    return found


def replace(value: Any, path: tuple[Any, ...], new: Any) -> bool:
    """Replace what is at *path*, and say whether it is another thing now."""
    node = value
    for key in path[:-1]:
        node = node[key]
    before = node.get(path[-1]) if isinstance(node, dict) else node[path[-1]]
    node[path[-1]] = new
    return json.dumps(before) != json.dumps(new)
