"""All checkpoints of a node to an object store at once, beside the same bytes put plainly.

What issues of a notice after everything is captured, by itself and without a cluster::

    python -m bench.evacuation [--mebibytes 4096] [--runs 3] [--streams 0] [--endpoint URL …]

Twenty checkpoints of 16 MiB to 1.75 GiB, which are 4 GiB in all unless it is told otherwise, on
the disk and hashed. Ours: from the order until the last envelope is committed. *Plainly* is
what awscrt makes of the same files: all at once, in parts of 8 MiB, no compression, encryption or
hash of content. By turns; the goal is 1.4 times the plain copy (``spot.ratio``). Without an
endpoint versitygw is started here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from architect.checkpoint.manifest import Manifest
from architect.daemon.heap import Heap
from architect.daemon.spot import width
from architect.daemon.spot.inputs import Rates
from architect.daemon.vault.streams import Streams
from architect.objectstore.settings import StoreSettings
from bench.bucketside import PAGES, Ours, Plain, make
from bench.figures import number
from lab import artefacts, object_store
from lab.cache import Cache
from lab.settings import Settings

SIZES: Final = (*[16] * 6, *[64] * 6, *[256] * 6, 288, 1792)
"""MiB: of 4096 in all."""
MEMORY_BYTES: Final = 4 << 30
GOAL: Final = 1.4
START_SECONDS: Final = 30.0
KNOWN_BYTES_PER_SECOND: Final = 1.25e9
"""Of the link, as if it had been seen to carry 10 Gb/s: here it is the loopback."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One that lies on the disk."""

    directory: Path
    manifest: Manifest


def main() -> None:
    """Print each run, and the ratio."""
    options = _options()
    rates = replace(Rates(), upload_bytes_per_second=KNOWN_BYTES_PER_SECOND)
    cores = os.cpu_count() or 1
    streams = options.streams or width.objects(rates, cores=cores, memory_bytes=MEMORY_BYTES)
    with contextlib.ExitStack() as stack:
        work = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="bench-evacuation-", dir=options.directory)
            )
        )
        settings = StoreSettings(
            bucket=options.bucket,
            endpoint=options.endpoint or stack.enter_context(_server(work, options.bucket)),
            region=options.region,
            prefix="bench",
        )
        checkpoints = _make_all(work, options.mebibytes)
        total = sum(one.manifest.total_bytes for one in checkpoints)
        print(f"{len(checkpoints)} checkpoints, {total >> 20} MiB, {cores} cores, "
              f"{streams} streams, load average {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
        heap = Heap()
        heap.prepare()
        before = _peak_bytes()
        ours = Ours(settings, requests=streams + 1)
        plain = Plain(settings)
        ratios = []
        for run in range(options.runs + 1):
            with heap.busy():
                seconds = _send(ours, checkpoints, work, run, streams=streams)
            grown = _peak_bytes() - before
            began = time.monotonic()
            plain.up(*(one.directory / PAGES for one in checkpoints))
            plainly = time.monotonic() - began
            if not options.endpoint:
                shutil.rmtree(work / "root" / options.bucket / "bench")
            if run == 0:  # both have made their connections, and memory is there
                print(f"most memory beyond what was there: {grown / 1e6:.0f} MB")
                continue
            ratios.append(seconds / plainly)
            print(f"ours {number(seconds)} s ({number(total / seconds / 1e6)} MB/s), plainly "
                  f"{number(plainly)} s ({number(total / plainly / 1e6)} MB/s), ratio "
                  f"{number(ratios[-1])}", flush=True)  # fmt: skip
        ours.store.close()
    median = sorted(ratios)[len(ratios) // 2]
    print(f"median ratio {number(median)}, at most {GOAL}: {'met' if median <= GOAL else 'missed'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=sum(SIZES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--streams", type=int, default=0, help="0: as at a notice")
    parser.add_argument("--endpoint", default="", help="default: versitygw is started here")
    parser.add_argument("--region", default=object_store.REGION)
    parser.add_argument("--bucket", default=object_store.BUCKET)
    parser.add_argument("--directory", default=None, help="on a disk; default: the temporary one")
    return parser.parse_args()


def _make_all(work: Path, mebibytes: int) -> list[Checkpoint]:
    found = []
    for place, size in enumerate(SIZES):
        directory = work / f"checkpoint-{place:02}"
        mine = max(1, size * mebibytes // sum(SIZES))
        manifest = make(directory, mine, id=f"bench-{place:02}")
        found.append(Checkpoint(directory=directory, manifest=manifest))
    return found


def _send(
    ours: Ours, checkpoints: list[Checkpoint], work: Path, run: int, *, streams: int
) -> float:
    """Send all of them, smallest first; return how long that took."""
    sending = Streams(streams)
    uploader = ours.uploader(run, streams=sending)
    began = time.monotonic()
    sending.prefer([one.manifest.id for one in checkpoints])
    with futures.ThreadPoolExecutor(len(checkpoints)) as pool:
        uploads = [
            pool.submit(
                uploader.upload,
                one.directory,
                one.manifest,
                notes=work / f"notes-{run}-{one.manifest.id}.json",
            )
            for one in checkpoints
        ]
        for upload in uploads:
            upload.result()
    return time.monotonic() - began


@contextlib.contextmanager
def _server(work: Path, bucket: str) -> Iterator[str]:
    """Run versitygw on *work*; yield its URL."""
    (work / "root" / bucket).mkdir(parents=True)
    (work / "sidecar").mkdir()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": object_store.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": object_store.SECRET_KEY,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = artefacts.versitygw(Cache(Settings.from_environment().cache))
    with (work / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                *("--quiet", "--keep-alive", "--port", f"127.0.0.1:{port}"),
                *("--region", object_store.REGION),
                *("--access", object_store.ACCESS_KEY, "--secret", object_store.SECRET_KEY),
                *("posix", "--sidecar", work / "sidecar", work / "root"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _wait_for(port: int) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
