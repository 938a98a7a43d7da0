"""Work that goes on without a pause while something happens to who does it."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

from demo.errors import ProofFailed

END_SECONDS: Final = 150.0
"""Until the last piece of work is done: a client gives up on one after a minute."""
LEAST_DONE: Final = 5
"""Pieces of work by each worker, or the load was none."""

Worker = Callable[[], AbstractContextManager[Callable[[], None]]]
"""Opens what it needs; its value does one piece of work, and raises if that fails."""


@contextlib.contextmanager
def steady(name: str, workers: Sequence[Worker], *, pause_seconds: float = 0.02) -> Iterator[None]:
    """Have each of *workers* at work during the ``with`` block, in a thread of its own.

    Raises ProofFailed at the end if one of them failed, or did next to nothing.
    """
    stop = threading.Event()
    failed: list[str] = []
    done = [0] * len(workers)

    def run(at: int, worker: Worker) -> None:
        try:
            with worker() as step:
                while not stop.wait(pause_seconds) or done[at] < LEAST_DONE:
                    step()
                    done[at] += 1
        except BaseException as error:
            when = time.strftime("%H:%M:%S")
            failed.append(f"worker {at} at {when} after {done[at]} times: {error!r}")
            if not isinstance(error, Exception):
                raise

    threads = [threading.Thread(target=run, args=one, daemon=True) for one in enumerate(workers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        deadline = time.monotonic() + END_SECONDS
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))
    failed += [f"worker {at} hangs" for at, thread in enumerate(threads) if thread.is_alive()]
    if failed:
        raise ProofFailed(f"{name}: a client failed: {'; '.join(failed)}")


@contextlib.contextmanager
def program(
    name: str, words: Sequence[str], *, environment: Mapping[str, str], end: Callable[[], object]
) -> Iterator[list[str]]:
    """Run a client program during the ``with`` block; *end* asks it to finish.

    The list that is returned has its lines afterwards. Raises ProofFailed if it failed.
    """
    process = subprocess.Popen(
        list(words),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    try:
        yield lines
    except BaseException:
        process.kill()
        process.communicate()
        raise
    end()
    try:
        said, complaints = process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise ProofFailed(f"{name}: its client does not end") from error
    if process.returncode != 0:
        raise ProofFailed(f"{name}: its client failed: {said[-2000:]}\n{complaints[-2000:]}")
    lines += said.splitlines()
