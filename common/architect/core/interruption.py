"""What a node's annotation says of the notice by which its machine ends.

::

    {"ends": "2026-12-01T10:00:00Z", "kind": "interruption", "source": "aws",
     "uncordon": true, "version": 1}

``ends`` is absent where nobody said when. The daemon of the node writes it, and takes it away once
the notice is withdrawn; the operator tells by it that a node that is silent is gone.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from architect.core.errors import FormatError

VERSION: Final = 1


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """A machine that ends."""

    kind: str
    """``interruption``: it does not come back; ``maintenance``: it comes back, without its memory
    (:class:`architect.daemon.notices.notice.Kind`)."""
    source: str
    """Who said so: ``aws``, ``gcp``, ``azure``, ``node``."""
    ends: datetime.datetime | None
    """When, by this machine's clock, in whole seconds; None: nobody said when."""
    uncordon: bool
    """Whether the node becomes schedulable again if the notice is withdrawn: it was before."""

    def to_text(self) -> str:
        """Return the annotation's value."""
        value: dict[str, Any] = {
            "version": VERSION,
            "kind": self.kind,
            "source": self.source,
            "uncordon": self.uncordon,
        }
        if self.ends is not None:
            ends = self.ends.astimezone(datetime.UTC).replace(microsecond=0, tzinfo=None)
            value["ends"] = f"{ends.isoformat()}Z"
        return json.dumps(value, sort_keys=True)


def of_node(node: Mapping[str, Any]) -> Interruption | None:
    """Return what *node*, as the API has it, says; None: nothing. Raises FormatError."""
    metadata = node.get("metadata") or {}
    text = (metadata.get("annotations") or {}).get(names.INTERRUPTION)
    return None if text is None else from_text(text)


def from_text(text: str) -> Interruption:
    """Return what an annotation says. Raises FormatError."""
    try:
        value = json.loads(text)
        if value["version"] != VERSION:
            raise FormatError(f"annotation {names.INTERRUPTION} has version {value['version']!r}")
        ends = value.get("ends")
        return Interruption(
            kind=str(value["kind"]),
            source=str(value["source"]),
            ends=None if ends is None else _moment(ends),
            uncordon=value.get("uncordon") is True,
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise FormatError(f"annotation {names.INTERRUPTION} is {text!r:.200}: {error!r}") from error


def _moment(text: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return found
