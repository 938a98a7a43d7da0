"""Files of given sizes to the object store, all at once, by nothing but the client we use.

A program of its own, since it is run in a node's network::

    python -m bench.plainstore DIRECTORY ENDPOINT REGION BUCKET BYTES…

One line of JSON: ``{"seconds": float}``, from the first request to the last answer. What awscrt
makes of a file: parts of 8 MiB, as many at once as it likes, read by its own threads; no
compression, encryption or hash of content. The files are random and lie in the page cache.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from architect.objectstore.settings import StoreSettings
from bench.bucketside import Plain

BLOCK_BYTES: Final = 1 << 20


def main(words: list[str]) -> None:
    """Carry out the command line above."""
    directory, endpoint, region, bucket, *sizes = words
    settings = StoreSettings(bucket=bucket, endpoint=endpoint, region=region, prefix="bench")
    files = [
        make(Path(directory) / f"plain-{number}", int(size)) for number, size in enumerate(sizes)
    ]
    client = Plain(settings)
    began = time.monotonic()
    client.up(*files)
    print(json.dumps({"seconds": time.monotonic() - began}), flush=True)


def make(path: Path, size: int) -> Path:
    """Write a file of *size* random bytes."""
    with open(path, "wb") as file:
        for start in range(0, size, BLOCK_BYTES):
            file.write(os.urandom(min(BLOCK_BYTES, size - start)))
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
