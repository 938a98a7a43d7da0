"""What a new keeper must know of a queue that the old one left: plain JSON values.

Ports and connections are not among it: they are read from the images, which are complete before
anything could be written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from architect.core.errors import FormatError

_VERSION: Final = 2


@dataclass(frozen=True, kw_only=True)
class HoldState:
    """How far a gate had read its queue; the packets themselves wait in the kernel."""

    #: (monotonic time, reason) of the first packet that woke, if any.
    wake: tuple[float, str] | None = None
    #: Identifier of the newest packet that was judged; 0 before the first.
    last_identifier: int = 0
    #: Identifier of the oldest packet that waited; 0 if none did.
    oldest: int = 0

    @property
    def first_possible(self) -> int:
        """No packet that waits has an identifier before this, whatever came since."""
        return self.oldest or self.last_identifier + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "version": _VERSION,
            "wake": list(self.wake) if self.wake else None,
            "last_identifier": self.last_identifier,
            "oldest": self.oldest,
        }

    @classmethod
    def from_dict(cls, value: Any) -> HoldState:
        """Read what `to_dict` gave. FormatError on anything else."""
        try:
            if value["version"] != _VERSION:
                raise FormatError(f"packet hold state has version {value['version']!r}")
            wake = value["wake"]
            return cls(
                wake=(float(wake[0]), str(wake[1])) if wake else None,
                last_identifier=int(value["last_identifier"]),
                oldest=int(value["oldest"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise FormatError(f"packet hold state cannot be read: {error!r}") from error
