"""A node with an engine and without Kubernetes, and the daemon as its DaemonSet runs it there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any

from architect.api import names
from lab import errors, waiting
from support import cri

DAEMON_SECONDS = 240.0
"""For one command: it copies the bundle and waits for the engine's restart."""
PROGRAM_DIRECTORIES = ("bin", "sbin", "usr", "opt", "lib", "lib64")


def strip(root: Path, *, kept: Collection[str]) -> None:
    """Remove from a running machine's *root* every program but those called as in *kept*.

    What runs already goes on. Libraries stay, since the engine's own programs may need them; of
    Python nothing stays.
    """
    for library in (root / "usr/lib").glob("python*"):
        shutil.rmtree(library)
    for path in programs(root):
        if path.name not in kept:
            path.unlink()


def programs(root: Path) -> list[Path]:
    """Return every executable file below *root*, and every link that may lead to one."""
    found = []
    for top in PROGRAM_DIRECTORIES:
        if (root / top).is_symlink():
            continue  # merged into /usr
        for directory, _, names_there in os.walk(root / top):
            paths = [Path(directory, name) for name in names_there]
            found += [path for path in paths if _is_program(path)]
    return sorted(found)


def _is_program(path: Path) -> bool:
    info = path.lstat()
    if stat.S_ISLNK(info.st_mode):
        return path.parent.name in ("bin", "sbin")
    is_library = ".so" in path.name
    return stat.S_ISREG(info.st_mode) and bool(info.st_mode & 0o111) and not is_library


class EngineNode(cri.Node):
    """The node, and the daemon's commands on it."""

    def __init__(self, *arguments: Any, image: str) -> None:
        super().__init__(*arguments)
        self.image = image
        self._count = 0

    def daemon(self, *words: str, mounts: dict[str, str] | None = None) -> tuple[int, str]:
        """Run one command of the daemon's image, privileged and with the node's processes.

        *mounts* are more directories of the node, by where the container sees them. Return its exit
        status and what it said.
        """
        self._count += 1
        name = f"daemon-{self._count}"
        logs = f"{cri.LOGS}/{name}"
        self.path(logs).mkdir(parents=True)
        seen = {str(p): str(p) for p in (names.INSTALL, names.RUN, names.STATE)} | (mounts or {})
        for directory in seen.values():
            self.path(directory).mkdir(parents=True, exist_ok=True)
        security = {
            "security_context": {
                "privileged": True,
                "namespace_options": {"network": 2, "pid": 2},  # NODE of the CRI's NamespaceMode
            }
        }
        sandbox = {
            "metadata": {"name": name, "namespace": "architect", "uid": name},
            "log_directory": logs,
            "linux": {"cgroup_parent": f"/{name}", **security},
        }
        container = {
            "metadata": {"name": "daemon"},
            "image": {"image": self.image},
            "args": list(words),
            "mounts": [
                {"container_path": inside, "host_path": outside} for inside, outside in seen.items()
            ],
            "log_path": "daemon.log",
            "linux": security,
        }
        pod_file = self.write(f"/run/{name}.json", json.dumps(sandbox))
        file = self.write(f"/run/{name}-daemon.json", json.dumps(container))
        pod = self.crictl("runp", pod_file)
        made = self.crictl("create", pod, file, pod_file)
        self.crictl("start", made)
        log = self.path(f"{logs}/daemon.log")
        last: dict[str, Any] = {}
        waiting.until(
            lambda: (last.update(self._status(made)) or last.get("state")) == "CONTAINER_EXITED",
            what=f"the end of architect-daemon {' '.join(words)}",
            timeout_seconds=DAEMON_SECONDS,
            last_seen=log.read_text,
        )
        status = int(last["exitCode"])
        self.crictl("stopp", pod)
        self.crictl("rmp", "--force", pod)
        return status, log.read_text()

    def _status(self, container: str) -> dict[str, Any]:
        """Return what the engine says of a container; nothing while it does not answer."""
        # It may be restarted by that very container.
        with contextlib.suppress(errors.CommandFailed):
            return dict(json.loads(self.crictl("inspect", container))["status"])
        return {}

    def runtime(self, *words: str) -> dict[str, Any]:
        """Return what ``architect-runtime`` answers."""
        program = names.CURRENT / "bin/architect-runtime"
        return dict(json.loads(self.run(str(program), *words, "-o", "json")))

    def sleep(self, pod: str) -> None:
        """Put a pod to sleep; see that it does."""
        assert self.runtime("sleep", pod)["status"]["state"] == "asleep"

    def state(self, pod: str) -> str:
        return str(self.runtime("status", pod)["state"])

    def listing(self, directory: Path) -> set[str]:
        """Return the names in a directory of the node; none if it is not there."""
        try:
            return set(os.listdir(self.path(directory)))
        except FileNotFoundError:
            return set()
