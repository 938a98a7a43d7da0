"""A key management service for the cluster: local-kms, which speaks AWS KMS' protocol.

Beside the control plane, like the object store, and outside of the nodes as such services are. Only
who needs one starts it: its program is put into the machine then. It verifies no signatures, so
that credentials and rights are not its business.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from lab import addresses, artefacts, errors, waiting
from lab.cluster import Cluster
from lab.machine import Service

SERVICE: Final = "local-kms"
PROGRAM: Final = "/usr/local/bin/local-kms"
DATA: Final = "/var/lib/local-kms"
"""In the machine."""
PORT: Final = 9001
ENDPOINT: Final = f"http://{addresses.CONTROL_PLANE_V4}:{PORT}"
REGION: Final = "eu-west-2"
READY_SECONDS: Final = 120.0

_ACCOUNT: Final = "111122223333"
"""Every key of this server is of this one."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One that is there from the start."""

    id: str
    alias: str
    secret: str
    """256 bits, as it is told to the server."""

    @property
    def arn(self) -> str:
        """Its name among all."""
        return f"arn:aws:kms:{REGION}:{_ACCOUNT}:key/{self.id}"


FIRST: Final = Key(
    id="bc436485-5092-42b8-92a3-0aa8b93536dc",
    alias="alias/architect",
    secret="5cdaead27fe7da2de47945d73cd6d79e36494e73802f3cd3869f1d2cb0b5d7a9",
)
SECOND: Final = Key(
    id="dddaead2-1111-42b8-92a3-0aa8b93536dc",
    alias="alias/second",
    secret="a72145e93b7e2cf3b1f0d8c4459f6a1e7d0b28c6530e9a4f8b1c7d3e2f60a9b5",
)


@dataclass(frozen=True, kw_only=True)
class KeyService:
    """The one that runs."""

    cluster: Cluster
    service: Service

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Have it not be there for a ``with`` block; it then has the keys that it had."""
        self.service.stop()
        try:
            yield
        finally:
            self.service.start()
            self._wait()

    def disable(self, key: Key) -> None:
        """Have it refuse everything about *key*."""
        self._ask("DisableKey", KeyId=key.id)

    def enable(self, key: Key) -> None:
        """Take :meth:`disable` back."""
        self._ask("EnableKey", KeyId=key.id)

    def _ask(self, operation: str, **arguments: Any) -> str:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"TrentService.{operation}",
        }
        words = [word for name, text in headers.items() for word in ("-H", f"{name}: {text}")]
        body = json.dumps(arguments)
        return self.cluster.in_control_plane(
            ["curl", "-sS", "--fail-with-body", "-m", "10", *words, "-d", body, ENDPOINT]
        )

    def _wait(self) -> None:
        def answers() -> bool:
            try:
                self._ask("ListKeys")
            except errors.CommandFailed:
                return False
            return True

        log = self.cluster.plane.machine.logs / f"{SERVICE}.log"
        waiting.until(
            answers,
            what="the key management service answers",
            timeout_seconds=READY_SECONDS,
            last_seen=lambda: log.read_text(errors="replace")[-3000:] if log.exists() else "",
        )


@contextlib.contextmanager
def running(cluster: Cluster) -> Iterator[KeyService]:
    """Have the service for a ``with`` block, with the keys above; nothing of it is left after."""
    machine = cluster.plane.machine
    with artefacts.local_kms(cluster.cache).open("rb") as program:
        machine.exec(["sh", "-ec", f"cat > {PROGRAM}; chmod 755 {PROGRAM}"], stdin=program)
    machine.exec(["sh", "-ec", f"mkdir -p {DATA}; cat > {DATA}/seed.yaml"], input=seed())
    machine.start_service(
        SERVICE,
        [PROGRAM],
        env={
            "PORT": str(PORT),
            "KMS_REGION": REGION,
            "KMS_ACCOUNT_ID": _ACCOUNT,
            "KMS_DATA_PATH": f"{DATA}/data",
            "KMS_SEED_PATH": f"{DATA}/seed.yaml",
        },
    )
    found = KeyService(cluster=cluster, service=machine.service(SERVICE))
    try:
        found._wait()
        yield found
    finally:
        found.service.forget()
        machine.exec(["rm", "-rf", PROGRAM, DATA])


def seed() -> str:
    """Return what the server is told of its keys at its first start, as YAML."""
    keys = (FIRST, SECOND)
    # JSON is a part of YAML.
    return json.dumps(
        {
            "Keys": {
                "Symmetric": {
                    "Aes": [
                        {"Metadata": {"KeyId": key.id}, "BackingKeys": [key.secret]} for key in keys
                    ]
                }
            },
            "Aliases": [{"AliasName": key.alias, "TargetKeyId": key.id} for key in keys],
        }
    )
