"""Every version of an object that the API server had, not only those at which somebody looked."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lab.cluster import Cluster
from support.workloads import eventually


class Watch:
    """The versions of one object, oldest first, from the one that was there at the start."""

    def __init__(self, stream: Any) -> None:
        self.versions: list[dict[str, Any]] = []
        self.broken = ""
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        decoder, text = json.JSONDecoder(), ""
        for line in self._stream:
            text += line
            # kubectl ends each object with an unindented brace.
            if line.rstrip() != "}":
                continue
            try:
                value, _ = decoder.raw_decode(text.lstrip())
            except ValueError as error:
                self.broken = f"{error}: {text[:200]}"
                return
            text = ""
            self.versions.append(value)

    def join(self) -> None:
        """Return once all that was said has been read."""
        self._thread.join()

    def conditions(self, kind: str) -> list[str]:
        """Return the status of condition *kind* in each version; ``absent`` where it is not."""
        return [condition_of(version, kind) for version in self.versions]

    def said(self, kind: str) -> list[str]:
        """Return the reasons of condition *kind*, each once, in the order in which they came."""
        found = [
            str(each["reason"])
            for version in list(self.versions)
            for each in version.get("status", {}).get("conditions", [])
            if each["type"] == kind
        ]
        return list(dict.fromkeys(found))

    def restarts(self) -> int:
        """Return the highest number of restarts of any container in any version of a pod."""
        return max(
            int(status["restartCount"])
            for version in self.versions
            for status in version["status"].get("containerStatuses", [])
        )


def condition_of(value: dict[str, Any], kind: str) -> str:
    """Return the status of a condition, ``absent`` if there is none of that type."""
    for each in value.get("status", {}).get("conditions", []):
        if each["type"] == kind:
            return str(each["status"])
    return "absent"


@contextmanager
def watch(cluster: Cluster, namespace: str, name: str, *, kind: str = "pod") -> Iterator[Watch]:
    """Watch one object for the ``with`` block; fails if the watch ended before it."""
    words = ("-n", namespace, "get", kind, name, "--watch", "-o", "json")
    process = subprocess.Popen(
        [cluster.kubectl_program, *words],
        env=cluster.client_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = Watch(process.stdout)
    try:
        eventually(lambda: seen.versions, what=f"the watch of {name} begins")
        yield seen
        assert process.poll() is None, f"the watch of {name} ended with {process.returncode}"
        assert not seen.broken, seen.broken
    finally:
        process.kill()
        process.wait()
        seen.join()
        assert process.stdout is not None
        process.stdout.close()
