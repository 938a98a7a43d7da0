"""Settings of the host's kernel that a cluster changes, and puts back.

kubelet writes a few of the kernel's settings that no namespace contains. What they were is kept
on disk before the cluster starts.
"""

from __future__ import annotations

import json
from pathlib import Path

PROC = Path("/proc/sys")

CHANGED_BY_KUBELET = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)

AT_LEAST = {
    # A kubelet and a containerd per node, and what their pods watch, on one kernel.
    "fs/inotify/max_user_instances": 1024,
    "fs/inotify/max_user_watches": 262144,
}


def prepare(record: Path, *, proc: Path = PROC) -> None:
    """Write down what is set now, and raise what is too low for several nodes."""
    names = [*CHANGED_BY_KUBELET, *AT_LEAST]
    if not record.exists():
        before = {n: (proc / n).read_text().strip() for n in names if (proc / n).exists()}
        # Half a record would stop every later run.
        temporary = record.with_suffix(".new")
        temporary.write_text(json.dumps(before))
        temporary.rename(record)
    for name, least in AT_LEAST.items():
        path = proc / name
        if path.exists() and int(path.read_text()) < least:
            path.write_text(str(least))


def restore(record: Path, *, proc: Path = PROC) -> None:
    """Set back what :func:`prepare` wrote down, and forget it."""
    if not record.exists():
        return
    for name, value in json.loads(record.read_text()).items():
        path = proc / name
        # Settings come and go with modules.
        if path.exists() and path.read_text().strip() != value:
            path.write_text(value)
    record.unlink()
