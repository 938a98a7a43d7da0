"""A checkpoint from one node to another, by us and by nothing but two sockets.

Programs of their own, since each is run in its node's network::

    python -m bench.peerside give DIRECTORY ADDRESS MEBIBYTES
    python -m bench.peerside get DIRECTORY ADDRESS RUNS

The first one makes a checkpoint of random bytes and gives it, to us and plainly, until its standard
input ends; what the second one needs to know lies in DIRECTORY then, and a line says so. The second
one prints lines of JSON: for each run, ours and plainly by turns, each first in every other run,
the seconds of both, without the removal of what has come. Each uses the daemon's own classes, with
certificates that were made here.
"""

from __future__ import annotations

import datetime
import json
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Final

from architect.checkpoint.manifest import Manifest
from architect.daemon.checkpoint import contents
from architect.daemon.heap import Heap
from architect.daemon.peer import credentials
from architect.daemon.peer.client import Fetcher
from architect.daemon.peer.credentials import Credentials
from architect.daemon.peer.server import PeerServer
from architect.operator import authority
from architect.operator.authority import Action
from architect.pki import certificates
from bench import bucketside
from bench.plaincopy import PlainCopy

READY: Final = "ready"
ID: Final = "bench"
GIVES: Final = "node-a"
GETS: Final = "node-b"


def main(words: list[str]) -> None:
    """Carry out the command line above."""
    role, directory, address, number = words
    if role == "give":
        give(Path(directory), address, int(number))
    else:
        get(Path(directory), address, int(number))


def give(work: Path, address: str, mebibytes: int) -> None:
    """Give a checkpoint of so many MiB until the standard input ends."""
    manifest = bucketside.make(work / "given" / ID, mebibytes, id=ID)
    contents.write(work / "given" / ID, manifest)
    now = datetime.datetime.now(UTC)
    authorities = authority.carry_out(Action.CREATE, None, now=now)

    def issue(node: str) -> Credentials:
        key = certificates.make_key()
        chain = authority.issue(authorities, key.public_key(), node=node, now=now)
        return credentials.from_chain(key, chain, node=node, now=now)

    mine = issue(GIVES)
    server = PeerServer(
        credentials=lambda: mine,
        locate=lambda name: work / "given" / name,
        may_read=lambda node, _: node == GETS,
    )
    server.start(f"{address}:0", data_address=f"{address}:0")
    plain = PlainCopy(work)
    known = {
        "credentials": issue(GETS),
        "port": server.port,
        "plain_port": plain.offer(mebibytes << 20)["port"],
        "manifest": manifest,
    }
    told = work / "told"
    told.touch(0o600)
    told.write_bytes(pickle.dumps(known))
    print(READY, flush=True)
    sys.stdin.read()
    plain.close()
    server.stop()


def get(work: Path, address: str, runs: int) -> None:
    """Get what the other side gives, so often."""
    known = pickle.loads((work / "told").read_bytes())
    manifest: Manifest = known["manifest"]
    heap = Heap()
    heap.prepare()
    fetcher = Fetcher(
        credentials=lambda: known["credentials"], address_of=lambda _: f"{address}:{known['port']}"
    )
    plain, target = PlainCopy(work), work / "got" / ID

    def ours() -> None:
        with heap.busy():
            fetcher.fetch(GIVES, ID, target, is_durable=False)

    def ours_removed() -> float:
        seconds = _timed(ours)
        contents.verify(target, manifest)
        shutil.rmtree(target)
        return seconds

    def plainly() -> float:
        return float(plain.fetch(address, known["plain_port"], manifest.total_bytes)["seconds"])

    for number in range(runs + 1):
        if number % 2:
            seconds = {"ours": ours_removed(), "plain": plainly()}
        else:
            seconds = {"plain": plainly(), "ours": ours_removed()}
        if number:  # the first one is not counted
            print(json.dumps(seconds), flush=True)


def _timed(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    main(sys.argv[1:])
