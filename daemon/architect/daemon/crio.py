"""CRI-O's configuration: one drop-in file with the runtime handler. That of gVisor is containerd's.

CRI-O merges drop-ins by key, in the order of their names, and passes annotations to the runtime as
they are; ``allowed_annotations`` concerns those that CRI-O itself acts on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from architect.api import names
from architect.daemon.containerd import BEGIN, END, Edit, binary

DROP_IN: Final = "90-architect.conf"


def install(directory: Path, *, current: str | None) -> tuple[Edit, ...]:
    """Return what to write into the drop-in *directory*; *current* is the file's text now."""
    text = (
        f"{BEGIN}\n"
        f"[crio.runtime.runtimes.{names.RUNTIME_CLASS}]\n"
        f'  runtime_path = "{binary(names.RUNTIME_CLASS)}"\n'
        f'  runtime_type = "oci"\n'
        f'  runtime_root = "/run/runc"\n'
        f"{END}\n"
    )
    return () if text == current else (Edit(path=directory / DROP_IN, text=text),)


def remove(directory: Path, *, current: str | None) -> tuple[Edit, ...]:
    """Return what to write so that nothing of ours is left."""
    return () if current is None else (Edit(path=directory / DROP_IN, text=None),)
