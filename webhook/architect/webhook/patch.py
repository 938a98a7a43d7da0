"""The difference of two JSON values as a JSON patch (RFC 6902). Pure."""

from __future__ import annotations

from typing import Any

Operation = dict[str, Any]


def difference(before: Any, after: Any) -> list[Operation]:
    """Return the operations that make *after* out of *before*; none if they are equal.

    Objects are compared member by member and lists of equal length item by item, so that the
    patch touches nothing else. Parts that both share are not looked into.
    """
    operations: list[Operation] = []
    _compare(before, after, "", operations)
    return operations


def pointer(*steps: str) -> str:
    """Return the JSON pointer (RFC 6901) of the member reached by *steps*."""
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def _compare(before: Any, after: Any, path: str, operations: list[Operation]) -> None:
    if before is after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before:
            if key not in after:
                operations.append({"op": "remove", "path": path + pointer(key)})
        for key, value in after.items():
            if key in before:
                _compare(before[key], value, path + pointer(key), operations)
            else:
                operations.append({"op": "add", "path": path + pointer(key), "value": value})
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            _compare(old, new, f"{path}/{index}", operations)
    elif type(before) is not type(after) or before != after:
        operations.append({"op": "replace", "path": path, "value": after})
