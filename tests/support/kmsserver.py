"""A real key management service on this machine: local-kms, which speaks AWS KMS' protocol.

It can be killed and started again at the same address, with the keys that it had. It listens at all
addresses, for it cannot be told one; it verifies no signatures, so that credentials and rights are
not its business.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from architect.operator.kms.settings import KmsSettings
from lab import artefacts
from lab.cache import Cache
from lab.settings import Settings
from support.keyservices import CLUSTER
from support.loopback import lasting_port
from support.patience import patient

REGION: Final = "eu-west-2"
START_SECONDS = patient(60)

_STARTED = re.compile(r"started on \S*?:(\d+)(?=\D)")


class Server:
    """One that keeps its keys in *directory*. Use it in a ``with`` block."""

    def __init__(self, directory: Path, *, region: str = REGION, seed: str = "") -> None:
        directory.mkdir(parents=True)
        self.region = region
        self.port = lasting_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._program = artefacts.local_kms(Cache(Settings.from_environment().cache))
        (directory / "seed.yaml").write_text(seed)

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, key: str, *, endpoint: str = "", **changes: Any) -> KmsSettings:
        """How a client reaches it."""
        return KmsSettings(
            **{
                "key_id": key,
                "cluster": CLUSTER,
                "region": self.region,
                "endpoint": endpoint or self.endpoint,
                **changes,
            }
        )

    def admin(self) -> Any:
        """Return a client that may do everything."""
        import boto3

        return boto3.client("kms", region_name=self.region, endpoint_url=self.endpoint)

    def new_key(self, alias: str = "") -> str:
        """Return the ARN of a new key."""
        admin = self.admin()
        arn = str(admin.create_key()["KeyMetadata"]["Arn"])
        if alias:
            admin.create_alias(AliasName=alias, TargetKeyId=arn)
        admin.close()
        return arn

    def start(self) -> None:
        """Start it, at the same port as before if there was one, and return once it answers."""
        log = self._directory / "log"
        log.unlink(missing_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._program],
                env={
                    **os.environ,
                    "PORT": str(self.port),
                    "KMS_REGION": self.region,
                    "KMS_DATA_PATH": str(self._directory / "data"),
                    "KMS_SEED_PATH": str(self._directory / "seed.yaml"),
                },
                cwd=self._directory,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if started := _STARTED.search(log.read_text(errors="replace")):
                self.port = int(started[1])
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                    return
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"local-kms does not start:\n{log.read_text()[-4000:]}")

    def kill(self) -> None:
        """End it without a chance to say anything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Have it not be there for a ``with`` block."""
        self.kill()
        yield
        self.start()
