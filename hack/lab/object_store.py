"""The cluster's object store: versitygw, an S3 server, beside the control plane.

Outside of the nodes, as object stores are: it is there when one of them is drained or dies.
"""

from __future__ import annotations

from typing import Final

from lab import addresses

SERVICE: Final = "versitygw"
PROGRAM: Final = "/usr/local/bin/versitygw"
PORT: Final = 9000
ENDPOINT: Final = f"http://{addresses.CONTROL_PLANE_V4}:{PORT}"
REGION: Final = "us-east-1"
"""Signatures name one; the server takes this."""
BUCKET: Final = "checkpoints"
DATA: Final = "/var/lib/objects"
"""In the machine: a bucket is a directory, an object a file."""
SECRET: Final = "object-store"
"""Name of the Kubernetes Secret with the next two."""
ACCESS_KEY: Final = "lab"
SECRET_KEY: Final = "only-for-the-lab"
"""Whoever reaches the control plane's network is root of this machine already."""


def service() -> dict[str, list[str]]:
    """Return the command line, by the service's name."""
    server = [
        *(PROGRAM, "--quiet", "--port", f":{PORT}", "--region", REGION),
        *("--access", ACCESS_KEY, "--secret", SECRET_KEY, "posix", DATA),
    ]
    prepare = f'mkdir -p {DATA}/{BUCKET} && exec "$@"'
    return {SERVICE: ["/bin/sh", "-c", prepare, "sh", *server]}
