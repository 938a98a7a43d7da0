"""What a copy that is made ahead of a notice would save of it: ``python -m bench.ahead``.

Real applications run below the real keeper, without a cluster. Each is copied as a persistent
checkpoint is, goes on, and is copied once more after a while; so a rebalance recommendation that is
followed by a notice. What the second copy has in common with the first one is told for several ways
to cut it, and what the first one has cost. ``docs/performance.md`` has the table.

Containers are made by the tests' own code, so ``tests`` belongs into ``PYTHONPATH``; root.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from architect.checkpoint import envelope, keys
from architect.core import wire
from architect.daemon.checkpoint import contents
from architect.daemon.vault import shards, stream
from architect.daemon.vault.shards import ShardName
from architect.daemon.vault.stream import Stream
from bench import accounting, aheadapps, liveread, sameness
from bench.accounting import ProcTable
from bench.aheadapps import App, Asking
from bench.sameness import Part, Place
from lab import dockerfiles
from lab.cache import Cache
from lab.settings import Settings
from support import checkpointdirs, runtime
from support.mover import Mover
from support.neighbour import Neighbour

MIB: Final = 1 << 20
COPY_SECONDS: Final = 120.0
PATIENCE_SECONDS: Final = 2.0
SETTLE_SECONDS: Final = 5.0
"""From when an application is asked until its first copy."""
CUTS: Final = {
    "shards": "8 MiB",
    "mib": "1 MiB",
    "files8": "8 MiB of a file",
    "files1": "1 MiB of a file",
    "address8": "8 MiB of addresses",
    "address1": "1 MiB of addresses",
    "content8": "8 MiB by content",
    "content1": "1 MiB by content",
    "pages": "pages",
    "live": "pages, read while it ran",
}
"""Ways to cut a copy, as the table calls them. The first one is what uploads do."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """One copy of an application."""

    directory: Path
    still_seconds: float
    """How long it stood still."""
    processor_seconds: float
    """Of the keeper's family and the application, which is dumped and restored by its own tasks."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One application's figures."""

    name: str
    text: str
    mib: float
    """Of the first copy."""
    seconds: float
    """Between the copies."""
    still_seconds: tuple[float, float]
    longest_answer_seconds: float
    """Of all questions, so of one that met a copy; 0: nobody asked."""
    dump_processor_seconds: float
    seal_processor_seconds: float
    sealed_mib: float
    """What the first copy is in the store: sent in vain if no notice follows."""
    same: Mapping[str, float]
    """By cut: the share of the second copy that the first one has."""


class Running:
    """An application that runs, and is asked."""

    def __init__(self, app: App, mover: Mover, stack: contextlib.ExitStack) -> None:
        self.app = app
        self.uid = f"uid-{app.name}"
        self._mover = mover
        self._stack = stack
        self._asking: Asking | None = None
        self._pid = 0

    def start(self) -> None:
        """Have it hold what it shall, and be asked."""
        app = self.app
        pod = self._mover.pod(self.uid, list(app.argv), env=app.env).start()
        self._pid = pod.pid
        pod.until(app.ready)
        if app.ask is None:
            return
        peer = self._stack.enter_context(Neighbour(pod.pid))
        connection = self._stack.enter_context(peer.connect())
        connection.settimeout(COPY_SECONDS)
        if app.fill:
            app.fill(connection)
        self._asking = Asking(connection, app.ask(connection))
        self._asking.start()

    def copy(self, target: Path) -> Copy:
        """Copy it into *target*, as the daemon does but for what lies on its disk."""
        host = self._mover.host
        image = host.state / "architect/pods" / self.uid / "app/image"
        path = host.run_directory / "keeper.sock"
        before, began = self._processor_seconds(), time.monotonic()
        with wire.Client(path, timeout_seconds=COPY_SECONDS) as client:
            client.call("copy", pod=self.uid, reason="ahead", patience_seconds=PATIENCE_SECONDS)
            shutil.copytree(image, target / "app/image", copy_function=os.link)
            client.call("go_on", pod=self.uid)
        return Copy(
            directory=target,
            still_seconds=time.monotonic() - began,
            processor_seconds=self._processor_seconds() - before,
        )

    def read(self) -> dict[Place, bytes]:
        """Return its memory, read while it goes on."""
        found = accounting.descendants(ProcTable(Path("/proc")).processes(), self._pid)
        return liveread.pages(process.pid for process in found if process.pid != self._pid)

    def end(self) -> float:
        """Stop asking; return the longest that an answer took. Raises OSError."""
        if self._asking is None:
            return 0.0
        self._asking.end()
        return self._asking.longest_seconds

    def _processor_seconds(self) -> float:
        table = ProcTable(Path("/proc"))
        (warden,), found = self._mover.host.wardens(), table.processes()
        tops = (warden, self._pid)
        return sum(table.cpu_seconds(accounting.descendants(found, top)) for top in tops)


def main(words: list[str] | None = None) -> int:
    """Measure and print. Exit status 1 if an application could not be measured."""
    options = parser().parse_args(words)
    chosen = [a for a in aheadapps.APPS if not options.only or a.name in options.only]
    os.environ.setdefault("ARCHITECT_CRIU", str(_criu()))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ahead-", dir=options.directory) as made:
        rows, failed = measure(chosen, Path(made), seconds=options.seconds)
    print(f"load average {load:.1f} to {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    print(table(rows))
    if options.output:
        options.output.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    for text in failed:
        print(f"FAILED  {text}", file=sys.stderr)
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m bench.ahead``."""
    made = argparse.ArgumentParser(prog="bench.ahead", description="What a copy ahead would save.")
    made.add_argument("--only", action="append", choices=[app.name for app in aheadapps.APPS])
    made.add_argument("--seconds", type=float, default=60.0, help="between two copies of one")
    made.add_argument("--output", type=Path, metavar="FILE", help="the figures as JSON")
    made.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="for images: a disk, no tmpfs"
    )
    return made


def _criu() -> Path:
    programs = dockerfiles.native_programs(Cache(Settings.from_environment().cache))
    return programs / "architect-criu"


def measure(apps: Sequence[App], directory: Path, *, seconds: float) -> tuple[list[Row], list[str]]:
    """Measure *apps*, which run side by side and are copied one after the other."""
    rows, failed = [], []
    with _node(directory) as mover, contextlib.ExitStack() as stack:
        running = []
        for app in apps:
            each = Running(app, mover, stack)
            try:
                each.start()
                running.append(each)
            except (AssertionError, OSError) as error:
                failed.append(f"{app.name}: {error}")
        time.sleep(SETTLE_SECONDS)
        first: dict[str, tuple[float, Copy]] = {}
        live: dict[str, dict[Place, bytes]] = {}
        for each in running:
            live[each.uid] = each.read()
            first[each.uid] = time.monotonic(), each.copy(directory / "first" / each.app.name)
        second: dict[str, Copy] = {}
        for each in running:
            time.sleep(max(0.0, first[each.uid][0] + seconds - time.monotonic()))
            second[each.uid] = each.copy(directory / "second" / each.app.name)
        longest = {each.uid: each.end() for each in running}
    for each in running:
        print(f"{each.app.name}: compared", file=sys.stderr, flush=True)
        rows.append(
            _row(
                each.app,
                first[each.uid][1],
                second[each.uid],
                live[each.uid],
                seconds=seconds,
                longest_seconds=longest[each.uid],
            )
        )
    return rows, failed


@contextlib.contextmanager
def _node(directory: Path) -> Iterator[Mover]:
    """Have a keeper, and a mount namespace in which the runtime is called."""
    host = runtime.Host(
        _made(directory / "host"), bundle=runtime.build_bundle(_made(directory / "bundle"))
    )
    with contextlib.ExitStack() as stack:
        stack.callback(host.close)
        stack.callback(host.end_keeper)
        host.run_directory.mkdir(mode=0o700, exist_ok=True)
        daemon = stack.enter_context(contextlib.closing(runtime.DaemonDouble(host.run_directory)))
        yield stack.enter_context(contextlib.closing(Mover(host, daemon)))


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _row(
    app: App,
    first: Copy,
    second: Copy,
    live: Mapping[Place, bytes],
    *,
    seconds: float,
    longest_seconds: float,
) -> Row:
    sealed, seal_seconds = _sealed(first.directory)
    old, new = _cuts(first.directory), _cuts(second.directory)
    old["live"], new["live"] = sameness.by_page(live), new["pages"]
    same = {name: sameness.share(old[name], new[name]) for name in CUTS}
    return Row(
        name=app.name,
        text=app.text,
        mib=len(old["pages"]) * sameness.PAGE_BYTES / MIB,
        seconds=seconds,
        still_seconds=(first.still_seconds, second.still_seconds),
        longest_answer_seconds=longest_seconds,
        dump_processor_seconds=first.processor_seconds,
        seal_processor_seconds=seal_seconds,
        sealed_mib=sealed / MIB,
        same=same,
    )


def _row_of(directory: Path) -> Stream:
    """Return the pieces of a copy as an upload cuts them."""
    about = checkpointdirs.about()
    containers = {"app": dataclasses.replace(about.containers["app"], layer=None)}
    return Stream(contents.build(directory, dataclasses.replace(about, containers=containers)))


def _cuts(directory: Path) -> dict[str, dict[Any, Part]]:
    """Return a copy in all the ways in which it could be cut."""
    row, pages = _row_of(directory), sameness.pages(directory / "app/image")
    shard, mib = envelope.SHARD_BYTES // MIB, MIB // sameness.PAGE_BYTES
    of_row = _blocks(directory, row, [("", 0, row.length)])
    of_files = _blocks(directory, row, _files(row))
    return {
        "shards": sameness.grouped(of_row, number=shard),
        "mib": of_row,
        "files8": sameness.grouped(of_files, number=shard),
        "files1": of_files,
        "address8": sameness.by_address(pages, window_pages=shard * mib),
        "address1": sameness.by_address(pages, window_pages=mib),
        "content8": sameness.by_content(pages, mean_pages=shard * mib),
        "content1": sameness.by_content(pages, mean_pages=mib),
        "pages": sameness.by_page(pages),
    }


def _files(row: Stream) -> list[tuple[str, int, int]]:
    """Return each file's name, where it begins in the row, and its length."""
    found, at = [], 0
    while at < row.length:
        piece = row.segment(at).piece
        found.append((piece.name, at, piece.size))
        at += piece.size
    return found


def _blocks(
    directory: Path, row: Stream, ranges: Sequence[tuple[str, int, int]]
) -> dict[tuple[str, int], Part]:
    """Cut *ranges* of the row into mebibytes, each from its own beginning."""
    found = {}
    for name, begins, size in ranges:
        for number, at in enumerate(range(0, size, MIB)):
            length = min(MIB, size - at)
            text = stream.read(directory, row, start=begins + at, length=length)
            found[name, number] = Part(digest=hashlib.sha256(text).digest(), length=length)
    return found


def _sealed(directory: Path) -> tuple[int, float]:
    """Return what a copy is in the store, and the processor time for that."""
    row, key, size = _row_of(directory), secrets.token_bytes(keys.DATA_KEY_BYTES), 0
    began = time.thread_time()
    for number in range(envelope.shards_of(row.length)):
        start = number * envelope.SHARD_BYTES
        length = envelope.shard_length(row.length, number)
        plain = stream.read(directory, row, start=start, length=length)
        about = ShardName(id="ahead", attempt="0" * 16, number=number)
        size += shards.seal_shard(plain, key=key, about=about).to_entry().size
    return size, time.thread_time() - began


def table(rows: Sequence[Row]) -> str:
    """Return the figures as ``docs/performance.md`` has them."""
    head = ("application", "MiB", *CUTS.values(), "stood still", "processor", "sent")
    lines = [head, ("---",) * len(head)]
    for row in rows:
        still = f"{min(row.still_seconds):.1f} s"
        processor = row.dump_processor_seconds + row.seal_processor_seconds
        lines.append(
            (
                *(row.text, f"{row.mib:.0f}"),
                *(f"{100 * row.same[cut]:.0f} %" for cut in CUTS),
                *(still, f"{processor:.1f} s", f"{row.sealed_mib:.0f} MiB"),
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
