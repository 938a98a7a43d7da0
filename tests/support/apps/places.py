"""Writes into every place that it is given, before and after a sleep, by what it keeps open.

    python3 places.py GO DIRECTORY…

In each DIRECTORY: a file that it appends to and has locked, another one that it maps, and one that
it deletes while it is open. It says ``ready``; once the file GO is there, it goes on with what it
holds, and prints what it reads back as JSON: directory → what is there.

With READ (environment, paths separated by colons) it also says what is in those files, before and
after.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import sys
import time

GO, *DIRECTORIES = sys.argv[1:]
READ = [path for path in os.environ.get("READ", "").split(":") if path]
SIZE = 4096


class Place:
    """One directory and what is held of it."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.journal = os.open(f"{directory}/journal", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o640)
        fcntl.flock(self.journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.deleted = os.open(f"{directory}/deleted", os.O_RDWR | os.O_CREAT)
        os.unlink(f"{directory}/deleted")
        mapped = os.open(f"{directory}/mapped", os.O_RDWR | os.O_CREAT)
        os.truncate(mapped, SIZE)
        self.mapping = mmap.mmap(mapped, SIZE)
        os.close(mapped)
        os.symlink("journal", f"{directory}/link")

    def write(self, word: str) -> None:
        os.write(self.journal, f"{word}\n".encode())
        os.write(self.deleted, f"{word}\n".encode())
        at = self.mapping.find(b"\0")
        self.mapping[at : at + len(word)] = word.encode()

    def read(self) -> dict[str, object]:
        found = os.stat(f"{self.directory}/journal")
        with open(f"{self.directory}/link") as journal, open(f"{self.directory}/mapped", "rb") as m:
            return {
                "journal": journal.read(),
                "mapped": m.read().rstrip(b"\0").decode(),
                "deleted": os.pread(self.deleted, SIZE, 0).decode(),
                "mode": oct(found.st_mode),
                "owner": [found.st_uid, found.st_gid],
                "locked": not self.takes_lock(),
            }

    def takes_lock(self) -> bool:
        """Whether somebody else could have the lock."""
        other = os.open(f"{self.directory}/journal", os.O_RDONLY)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(other)
        return True


def contents() -> dict[str, str]:
    found = {}
    for path in READ:
        with contextlib.suppress(OSError), open(path) as file:
            found[path] = file.read()
    return found


places = [Place(directory) for directory in DIRECTORIES]
for place in places:
    place.write("before")
before = contents()
print("ready", flush=True)
while not os.path.exists(GO):
    time.sleep(0.2)
for place in places:
    place.write("after")
told = {"places": {place.directory: place.read() for place in places}, "read": [before, contents()]}
print(json.dumps(told), flush=True)
while True:
    time.sleep(1)
