"""The page that PID 1 of a managed container shares with the keeper.

Our init keeps a memfd at descriptor 3 and maps it; the keeper duplicates the descriptor and maps it
too. No signal means control, so every signal stays the application's. The layout is
``struct page`` in ``shim/native/init.c``: little-endian 32-bit words, then a 64-bit signal mask.
The container's own root can write the page as well, and put something else in its place; that harms
nobody but its container: nothing read here is trusted beyond it, and nothing is mapped but a page
that can neither shrink nor block (:mod:`.initfiles`).
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import mmap
import os
import signal
import struct
from dataclasses import dataclass
from typing import Final

from architect.core.errors import NodeError
from architect.shim.keeper import initfiles

MAGIC: Final = 0x48435241
"""``ARCH`` in little-endian byte order."""
PAGE_VERSION: Final = 1
DESCRIPTOR: Final = 3

_NAME: Final = "/memfd:architect-init"
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW

_NOT_THERE: Final = (errno.EBADF, errno.ESRCH)
"""No such descriptor, or none any more; the process has ended."""

_HEAD = struct.Struct("<IIIIIII")
_STATE_OFFSET: Final = 8
_TARGET_OFFSET: Final = 12
_STATUS_OFFSET: Final = 20
_SEEN_OFFSET: Final = 28


class NotOurInit(NodeError):
    """Descriptor 3 is not our page, or not yet: before ``start`` PID 1 is the lower runtime's."""


class InitState(enum.IntEnum):
    """What init does when its target ends."""

    AWAKE = 0
    """End with the target's status."""
    ASLEEP = 1
    """Record it and stay."""
    END = 2
    """End now, with the recorded status."""
    START = 3
    """Begin the application after all, and be awake."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The page's content at one moment."""

    state: InitState
    target: int
    """Pid of the inner init in the container's pid namespace."""
    is_reaped: bool
    status: int


class InitPage:
    """The mapped page of one container's init."""

    def __init__(self, init_pid: int) -> None:
        self._init_pid = init_pid
        try:
            self._map = _mapped(init_pid)
        except OSError as error:
            kind = NotOurInit if error.errno in _NOT_THERE else NodeError
            raise kind(
                f"cannot open the control page of init {init_pid}: {error.strerror}",
                reason="InitUnreachable",
                errno=error.errno,
                hint="the container is not started, its init is not ours, or it has ended",
            ) from error
        magic, version, *_ = _HEAD.unpack_from(self._map)
        if version == 0:  # init writes it last
            self._map.close()
            raise NotOurInit(f"init {init_pid} is filling its page", reason="InitUnreachable")
        if magic != MAGIC or version != PAGE_VERSION:
            self._map.close()
            raise NodeError(
                f"init {init_pid} has page magic {magic:#x} version {version}, "
                f"not {MAGIC:#x} version {PAGE_VERSION}",
                reason="InitVersion",
                hint="the container was started by another version of Architect",
            )

    def read(self) -> Reading:
        """Return what the page says now."""
        _, _, state, target, reaped, status, _ = _HEAD.unpack_from(self._map)
        try:
            known = InitState(state)
        except ValueError:
            raise NodeError(
                f"init {self._init_pid} is in unknown state {state}", reason="InitVersion"
            ) from None
        return Reading(state=known, target=target, is_reaped=bool(reaped), status=status)

    def set_target(self, pid: int) -> None:
        """Name the restored inner init of a container that started hollow."""
        struct.pack_into("<I", self._map, _TARGET_OFFSET, pid)

    def fall_asleep(self) -> None:
        """Make init outlive its target, and keep signals for it, once :attr:`is_settled`."""
        struct.pack_into("<I", self._map, _STATE_OFFSET, InitState.ASLEEP)
        self._poke()

    @property
    def is_settled(self) -> bool:
        """Whether init has seen that it is asleep: from then on no signal reaches the tree."""
        (seen,) = struct.unpack_from("<I", self._map, _SEEN_OFFSET)
        return bool(seen)

    def wake(self) -> None:
        """Make init end with its target again, also if that has ended in the meantime."""
        struct.pack_into("<I", self._map, _STATE_OFFSET, InitState.AWAKE)
        self._poke()

    def start(self) -> None:
        """Make an init that is asleep without a tree begin the application after all."""
        struct.pack_into("<I", self._map, _STATE_OFFSET, InitState.START)
        self._poke()

    def end(self, status: int) -> None:
        """Make init end now with exit status *status*."""
        struct.pack_into("<I", self._map, _STATUS_OFFSET, status)
        struct.pack_into("<I", self._map, _STATE_OFFSET, InitState.END)
        self._poke()

    def _poke(self) -> None:
        # Init looks at the page whenever it gets SIGCHLD. One that ended a moment ago looks at
        # nothing any more: whoever waits for what it does finds that it is gone.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init_pid, signal.SIGCHLD)

    def close(self) -> None:
        """Unmap the page."""
        self._map.close()


def _mapped(init_pid: int) -> mmap.mmap:
    """Map the page of an init. Raises NotOurInit, OSError."""
    fd = initfiles.take(init_pid, DESCRIPTOR)
    try:
        name = initfiles.name_of(fd)
        if not (name.startswith(_NAME) and initfiles.is_memory(fd)):
            raise NotOurInit(
                f"descriptor {DESCRIPTOR} of init {init_pid} is {name!r:.200}, not our page",
                reason="InitUnreachable",
                hint="the container is not started, or runs without our init",
            )
        # Sealed, because a read behind the end of a file that was cut short ends its reader.
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        if not is_sealed or os.fstat(fd).st_size != mmap.PAGESIZE:
            raise NotOurInit(f"init {init_pid} is making its page", reason="InitUnreachable")
        return mmap.mmap(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)
