"""What ends the demonstration with a failure."""

from __future__ import annotations


class DemoError(Exception):
    """Something could not be shown: what, of which application, and what was seen instead."""


class ProofFailed(DemoError):
    """An application woke, or came to another node, with other state than it had before."""


class ProtocolError(DemoError):
    """A server said something that its protocol does not have, or refused."""
