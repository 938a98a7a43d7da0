from __future__ import annotations

import os
import struct
from pathlib import Path

from architect.shim.keeper import watches
from architect.shim.packets import protobuf

INFO = """\
pos:\t0
flags:\t02004000
mnt_id:\t15
ino:\t1031
inotify wd:2 ino:2a1 sdev:10003b mask:100 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:00
inotify wd:1 ino:7 sdev:3b mask:2 ignored_mask:0
fanotify flags:0 event-flags:0
fanotify ino:a0 sdev:3b mflags:0 mask:3b ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:00
fanotify mnt_id:12 mflags:0 mask:3b ignored_mask:0
"""


def test_watches_are_read_and_nothing_else() -> None:
    assert list(watches.parse(INFO)) == [
        watches.Inode(os.makedev(1, 0x3B), 0x2A1),
        watches.Inode(os.makedev(0, 0x3B), 7),
        watches.Inode(os.makedev(0, 0x3B), 0xA0),
    ]


def test_the_cache_is_what_criu_reads(tmp_path: Path) -> None:
    inode = watches.Inode(os.makedev(1, 0x3B), 1 << 40)
    watches.write(tmp_path, {inode: "/etc/app"})
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert struct.unpack_from("=III", data) == (0x55105940, 0x57004059, len(data) - 12)
    fields = {key >> 3: value for key, value in protobuf.fields(data[12:], path)}
    assert fields == {1: 1 << 20 | 0x3B, 2: 1 << 40, 3: b"/etc/app"}


def test_no_watches_leave_no_file(tmp_path: Path) -> None:
    watches.write(tmp_path, watches.NOTHING)
    assert list(tmp_path.iterdir()) == []
