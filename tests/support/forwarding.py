"""``kubectl port-forward`` for as long as a test needs it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from lab.cluster import Cluster


@contextmanager
def forwarded(cluster: Cluster, namespace: str, pod: str, port: int) -> Iterator[str]:
    """Forward a free port to a pod's; give the URL under which it answers."""
    with subprocess.Popen(
        [cluster.kubectl_program, "-n", namespace, "port-forward", f"pod/{pod}", f":{port}"],
        env=cluster.client_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as forward:
        try:
            assert forward.stdout is not None
            said = forward.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", said)
            assert found is not None, said
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            forward.kill()
