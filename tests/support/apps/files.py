"""Files of every kind, written into a container's layer and volumes, and described.

    python3 files.py write|tell DIRECTORY…

``write`` makes them in ROOT, and one in each DIRECTORY; ``tell`` prints what is there as JSON: path
→ what it is, whose, since when.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

ROOT = "/root"
REMOVED = "/usr/share/common-licenses"
AT_NS = 1_111_111_111_500_000_000
MIDDLE, PIECE = 512 << 20, 8 << 10
SPARSE_BYTES = 1 << 30


def write(directories: list[str]) -> None:
    os.chdir(ROOT)
    for path in ("layer", *(f"{directory}/file" for directory in directories)):
        with open(path, "w") as file:
            file.write(path)
    os.symlink("layer", "link")
    os.link("layer", "hard")
    subprocess.run(["rm", "-r", REMOVED], check=True)
    os.mkfifo("fifo")
    os.mknod("null", 0o620 | stat.S_IFCHR, os.makedev(1, 3))
    with open("sparse", "wb") as file:
        file.truncate(SPARSE_BYTES)
        file.seek(MIDDLE)
        file.write(b"x" * PIECE)
    os.setxattr("layer", "user.note", b"kept")
    os.mkdir("directory")
    for path in ("layer", "directory", "null", *(f"{d}/file" for d in directories)):
        os.chown(path, 1001, 1002)
    os.chown("link", 1003, 1004, follow_symlinks=False)
    os.chmod("layer", 0o4751)  # chown takes such bits away
    os.chmod("directory", 0o2751)
    os.chmod("null", 0o620)
    for path in ("link", "layer", "directory", "fifo", "null", "sparse"):
        os.utime(path, ns=(AT_NS, AT_NS), follow_symlinks=False)
    for directory in directories:
        os.utime(f"{directory}/file", ns=(AT_NS, AT_NS))


def told(path: str) -> dict[str, object]:
    found = os.lstat(path)
    said: dict[str, object] = {
        "mode": stat.filemode(found.st_mode),
        "owner": [found.st_uid, found.st_gid],
        "modified": found.st_mtime_ns,
        "links": 1 if stat.S_ISDIR(found.st_mode) else found.st_nlink,
        "size": 0 if stat.S_ISDIR(found.st_mode) else found.st_size,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False).decode()
            for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    if stat.S_ISCHR(found.st_mode):
        said["device"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
    elif stat.S_ISLNK(found.st_mode):
        said["target"] = os.readlink(path)
    elif stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            file.seek(MIDDLE if found.st_size > MIDDLE else 0)
            said["text"] = file.read(2 * PIECE).rstrip(b"\0").decode()
        said["is_sparse"] = found.st_blocks * 512 < min(found.st_size, 1 << 20)
    return said


def tell(directories: list[str]) -> None:
    names = ("layer", "link", "hard", "directory", "fifo", "null", "sparse")
    paths = [f"{ROOT}/{name}" for name in names] + [f"{d}/file" for d in directories]
    said: dict[str, object] = {path: told(path) for path in paths}
    said[REMOVED] = os.path.lexists(REMOVED)
    print(json.dumps(said))


{"write": write, "tell": tell}[sys.argv[1]](sys.argv[2:])
