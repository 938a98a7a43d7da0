"""Asks a node's daemon for a checkpoint, with the certificate of another node's.

In the control plane's network, from where daemons are reached.

Arguments: a file with pickled credentials, the node that has it, its daemon's address and port, the
checkpoint's id, and where to put it. Says ``given``, or the reason for which it was refused.
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

from architect.core.errors import Rejected
from architect.daemon.peer.client import Fetcher
from architect.daemon.peer.credentials import Credentials


@dataclass(frozen=True, kw_only=True)
class Thief:
    """Has a daemon's certificate."""

    directory: Path
    """For what it has and gets."""
    credentials: Credentials

    def argv(self, node: str, address: str, checkpoint_id: str) -> list[str]:
        """Return the command line that asks the daemon of *node* for a checkpoint."""
        pickled = self.directory / "credentials"
        pickled.touch(0o600)
        pickled.write_bytes(pickle.dumps(self.credentials))
        words = [sys.executable, "-P", __file__, pickled, node, address, checkpoint_id, self.target]
        return [str(word) for word in words]

    @property
    def target(self) -> Path:
        """Where what it got is."""
        return self.directory / "stolen"


def main() -> None:
    """See the module."""
    pickled, node, address, checkpoint_id, target = sys.argv[1:]
    credentials: Credentials = pickle.loads(Path(pickled).read_bytes())  # of our own test
    fetcher = Fetcher(credentials=lambda: credentials, address_of=lambda _: address)
    try:
        fetcher.fetch(node, checkpoint_id, Path(target))
    except Rejected as error:
        print(error.reason)
    else:
        print("given")


if __name__ == "__main__":
    main()
