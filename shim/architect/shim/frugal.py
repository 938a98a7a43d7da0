"""What keeps long-lived processes of ours small."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Inspect(ModuleType):
    """The one function of ``inspect`` that dataclasses call; the others are the real one's."""

    @staticmethod
    def get_annotations(cls: type) -> dict[str, Any]:
        """Return the annotations of the class itself, as they are written."""
        return dict(vars(cls).get("__annotations__", {}))

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("inspect"), name)


def import_dataclasses() -> None:
    """Import ``dataclasses`` without ``inspect``: 1.2 MB with the parser and disassembler below it.

    It is loaded when it is needed after all: for the signature in a class's docstring where a
    class has none, say. Does nothing where either is loaded already.
    """
    if "dataclasses" in sys.modules or "inspect" in sys.modules:
        return
    sys.modules["inspect"] = _Inspect("inspect")
    try:
        importlib.import_module("dataclasses")
    finally:
        del sys.modules["inspect"]
