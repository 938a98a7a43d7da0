"""A process whose root is an overlay, in a mount namespace of its own, as a container's init."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.patience import patient

_HOLDER = """
import ctypes, os, sys

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *words):
    words = [os.fsencode(w) if isinstance(w, str) else w for w in words]
    if getattr(libc, name)(*words):
        raise OSError(ctypes.get_errno(), name, str(words))

MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH, CLONE_NEWNS = 4096, 16384, 1 << 18, 2, 0x20000
flags, root, options, *binds = sys.argv[1:]
call("unshare", CLONE_NEWNS)
call("mount", "none", "/", None, MS_REC | MS_PRIVATE, None)
call("mount", "overlay", root, "overlay", int(flags), options)
for source, inside in zip(binds[::2], binds[1::2]):
    place = root + inside
    # As runc does it: what a mount needs is made in the container's own layer.
    os.makedirs(place if os.path.isdir(source) else os.path.dirname(place), exist_ok=True)
    if not os.path.isdir(source):
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    call("mount", source, place, None, MS_BIND, None)
os.chdir(root)
call("pivot_root", ".", ".")
call("umount2", ".", MNT_DETACH)
print("ready", flush=True)
sys.stdin.read()
"""
READ_ONLY = 1
"""MS_RDONLY."""


class Root:
    """The overlay of *lowers*, the highest first, with an upper directory below *directory*."""

    def __init__(
        self,
        directory: Path,
        lowers: Sequence[Path],
        *,
        binds: Mapping[str, Path] | None = None,
        options: str = "",
        flags: int = 0,
    ) -> None:
        self.upper = directory / "upper"
        for name in ("upper", "work", "root"):
            (directory / name).mkdir(parents=True)
        mounted = f"lowerdir={':'.join(map(str, lowers))},upperdir={self.upper}"
        mounted += f",workdir={directory / 'work'}{options}"
        words = [str(flags), str(directory / "root"), mounted]
        for inside, source in (binds or {}).items():
            words += [str(source), inside]
        self._holder = subprocess.Popen(
            [sys.executable, "-ISc", _HOLDER, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    @property
    def pid(self) -> int:
        """The process that sees the overlay as its root."""
        return self._holder.pid

    @property
    def view(self) -> Path:
        """The root as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def mounts(self) -> bytes:
        """Return all that is mounted in it."""
        return Path(f"/proc/{self.pid}/mountinfo").read_bytes()

    def close(self) -> None:
        """End the process, and with it its mounts."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(patient(90.0))
        self._holder.stdout.close()
