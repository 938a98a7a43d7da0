"""What the machine is to do: a tar file that it sees as a second disk."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from lab.dockerfiles import CHECKOUT

FOLDERS: Final = (
    *("common", "shim", "hack", "tests"),
    # What the images were made of says which ones they are.
    *("operator", "webhook", "daemon", "charts"),
)
"""Of the checkout: what tests import, build and install."""
PROGRAMS: Final = "programs"
"""Where the native programs are, relative to the job."""


def pack(target: Path, *, programs: Path, argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Write the job: *argv* in the checkout with *env*, and the native *programs* beside it."""
    asked = json.dumps({"argv": list(argv), "env": dict(env)}).encode()
    with tarfile.open(target, "w", dereference=True) as archive:
        entry = tarfile.TarInfo("job.json")
        entry.size = len(asked)
        archive.addfile(entry, io.BytesIO(asked))
        archive.add(Path(__file__).with_name("guest.py"), "guest.py")
        archive.add(CHECKOUT / "pyproject.toml", "checkout/pyproject.toml")
        archive.add(programs, PROGRAMS)
    # Links in the checkout stay links.
    with tarfile.open(target, "a") as archive:
        for name in FOLDERS:
            archive.add(CHECKOUT / name, f"checkout/{name}", filter=_source)


def _source(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what Python and tools have written, and who wrote the rest."""
    name = member.name.rpartition("/")[2]
    if name == "__pycache__" or name.endswith("_cache") or name == ".hypothesis":
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
