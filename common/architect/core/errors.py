"""Errors that cross a module boundary.

::

    ArchitectError
    ├── ConfigError          exit 2   the operator's or user's input is wrong
    ├── Rejected             exit 2   the request cannot be carried out; nothing was changed
    ├── Retryable            exit 4   try again after .delay_seconds
    │   └── Unavailable      exit 4   the other side does not answer
    ├── FormatError          exit 3   a file or message is not what its version says
    └── NodeError            exit 3   the kernel or a runtime said no; may have .errno and .path

The text says what failed, on which object, and what the system said; ``hint`` says what to check.
"""

from __future__ import annotations

from pathlib import Path


class ArchitectError(Exception):
    """Base of all errors that are meant to be read by a person."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class ConfigError(ArchitectError):
    """Input that cannot be read: the text names the key, the value and what is allowed."""

    exit_code = 2


class Rejected(ArchitectError):
    """A request that cannot be carried out now or at all; nothing was changed.

    ``reason`` is a stable CamelCase word for conditions and metrics.
    """

    exit_code = 2

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class Retryable(ArchitectError):
    """Something that may work later."""

    exit_code = 4

    def __init__(self, message: str, *, delay_seconds: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.delay_seconds = delay_seconds


class Unavailable(Retryable):
    """The other side does not answer."""


class FormatError(ArchitectError):
    """A file or message has an unknown version or does not parse."""

    exit_code = 3


class NodeError(ArchitectError):
    """The kernel, CRIU or the lower runtime refused.

    ``reason`` is a stable CamelCase word for conditions and metrics.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        reason: str = "NodeError",
        errno: int | None = None,
        path: Path | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.errno = errno
        self.path = path
