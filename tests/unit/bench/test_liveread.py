"""Memory of a process that runs is read where it lies."""

from __future__ import annotations

import hashlib
import subprocess
import sys

from bench import liveread
from bench.sameness import DIGEST_BYTES, PAGE_BYTES

HOLDING = """
import ctypes, mmap
private = mmap.mmap(-1, 8192 * 3, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = mmap.mmap(-1, 4096)
shared[:] = b"s" * 4096
private[:4096], private[8192:12288] = b"a" * 4096, b"b" * 4096
print(*(ctypes.addressof(ctypes.c_char.from_buffer(m)) for m in (private, shared)), flush=True)
input()
"""


def digest(character: bytes) -> bytes:
    return hashlib.blake2b(character * PAGE_BYTES, digest_size=DIGEST_BYTES).digest()


def test_private_pages_are_read_and_those_that_nobody_wrote_are_not() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        private, shared = (int(word) // PAGE_BYTES for word in process.stdout.readline().split())
        found = liveread.pages([process.pid])
        process.communicate("end\n")
    space = f"pagemap-{process.pid}"
    assert found[space, private] == digest(b"a")
    assert found[space, private + 2] == digest(b"b")
    assert (space, private + 1) not in found
    assert (space, shared) not in found
    assert len(found) > 100  # the interpreter's own
