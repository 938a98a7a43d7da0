"""A peer server in a process of its own, which can be killed: ``python -m support.peerserver``.

Arguments: a file with pickled credentials, the directory of checkpoints, the node that may read.
Its port is the first line of its output; it ends with its standard input.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.server import PeerServer

TESTS = Path(__file__).parents[1]


def start(credentials: Credentials, checkpoints: Path, *, reader: str) -> Process:
    """Start one and return once it listens."""
    return Process(credentials, checkpoints, reader)


class Process:
    """One that was started."""

    def __init__(self, credentials: Credentials, checkpoints: Path, reader: str) -> None:
        pickled = checkpoints.parent / "credentials"
        pickled.touch(0o600)
        pickled.write_bytes(pickle.dumps(credentials))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.peerserver", pickled, checkpoints, reader],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End it without a chance to say anything."""
        self._process.kill()
        self.wait()

    def wait(self) -> None:
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            assert end is not None
            end.close()


def main() -> None:
    """Serve until the standard input ends."""
    credentials: Credentials = pickle.loads(Path(sys.argv[1]).read_bytes())
    checkpoints, reader = Path(sys.argv[2]), sys.argv[3]
    server = PeerServer(
        credentials=lambda: credentials,
        locate=lambda name: checkpoints / name,
        may_read=lambda node, _: node == reader,
    )
    server.start("127.0.0.1:0", data_address="127.0.0.1:0")
    print(server.port, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
