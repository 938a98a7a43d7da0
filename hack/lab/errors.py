"""What can go wrong here, as one exception with a hint for the reader."""

from __future__ import annotations


class LabError(Exception):
    """Something the lab needs did not work: what failed, on which object, what the system said."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} (hint: {self.hint})" if self.hint else message


class CommandFailed(LabError):
    """A command ended with a status other than 0, or did not end in time."""

    def __init__(self, message: str, *, output: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.output = output
        self.status = status


class DeadlineExceeded(LabError):
    """A condition did not become true within its bound."""
