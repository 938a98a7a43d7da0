"""A real S3 server on the loopback: versitygw, with a directory as its store.

It can be killed and started again at the same address. Its buckets are the directories below
:attr:`Server.root`, and its objects their files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from architect.objectstore.settings import StoreSettings
from architect.pki import certificates
from lab import artefacts
from lab.cache import Cache
from lab.settings import Settings
from support.loopback import lasting_port
from support.patience import patient

ACCESS_KEY = "architect-test"
SECRET_KEY = "not-a-secret-of-anybody"
BUCKET = "checkpoints"

START_SECONDS = patient(60)
ATTEMPTS = 5
"""To start: between the choice of a port and its use another program may take it."""


def environment(access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY) -> dict[str, str]:
    """Return the variables that give a client these credentials, and keep others from it."""
    return {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


WRONG_CREDENTIALS: Final[Mapping[str, Mapping[str, str]]] = {
    "secret": environment(secret_key="another one"),
    "access key": environment(access_key="nobody's"),
}
"""What the server does not take, by what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """A certificate for 127.0.0.1 by an authority of its own."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def make(cls, directory: Path) -> Tls:
        """Write the three files."""
        now = datetime.now(UTC)
        authority, authority_key = certificates.make_authority(
            "object store", now=now, life=timedelta(days=1)
        )
        key = certificates.make_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "s3")])
        names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=12))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                critical=False,
            )
            .sign(authority_key, hashes.SHA256())
        )
        directory.mkdir()
        made = cls(
            authority=directory / "ca.pem",
            certificate=directory / "cert.pem",
            key=directory / "key.pem",
        )
        made.authority.write_bytes(certificates.to_pem(authority))
        made.certificate.write_bytes(certificates.to_pem(certificate))
        made.key.write_bytes(certificates.key_to_pem(key))
        return made


class Server:
    """One that serves *directory*, with one empty bucket. Use it in a ``with`` block."""

    def __init__(
        self, directory: Path, *, tls: Tls | None = None, root: Path | None = None
    ) -> None:
        self._directory = directory
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.root = root or directory / "root"
        (self.root / BUCKET).mkdir(parents=True)
        (directory / "sidecar").mkdir(parents=True)
        self._program = artefacts.versitygw(Cache(Settings.from_environment().cache))

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def settings(self) -> StoreSettings:
        """How a client reaches it."""
        return StoreSettings(
            bucket=BUCKET,
            endpoint=self.endpoint,
            ca_file=str(self._tls.authority) if self._tls else "",
        )

    def with_endpoint(self, endpoint: str) -> StoreSettings:
        """Return its settings at another address, such as a proxy's."""
        return dataclasses.replace(self.settings, endpoint=endpoint)

    def stored(self, key: str) -> bytes | None:
        """Return what lies in the store's directory under *key*, past the server."""
        path = self.root / BUCKET / key
        return path.read_bytes() if path.is_file() else None

    def start(self) -> None:
        """Start it, at the same port as before if there was one, and return once it answers."""
        for _ in range(ATTEMPTS):
            port = self.port or lasting_port()
            process = self._spawn(port)
            if self._is_ready(process, port):
                self._process, self.port = process, port
                return
            process.kill()
            process.wait()
        raise AssertionError(f"versitygw does not start:\n{self._log[-4000:]}")

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

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        secured: list[str | Path] = []
        if self._tls:
            secured = ["--cert", self._tls.certificate, "--key", self._tls.key]
        with (self._directory / "log").open("ab") as log:
            return subprocess.Popen(
                [
                    self._program,
                    *("--port", f"127.0.0.1:{port}", "--keep-alive", "--quiet"),
                    *secured,
                    *("posix", "--sidecar", self._directory / "sidecar", self.root),
                ],
                env={
                    **os.environ,
                    "ROOT_ACCESS_KEY_ID": ACCESS_KEY,
                    "ROOT_SECRET_ACCESS_KEY": SECRET_KEY,
                },
                cwd=self._directory,
                stdout=log,
                stderr=log,
            )

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self._ask(port)
                return process.poll() is None
            time.sleep(0.02)
        return False

    def _ask(self, port: int) -> None:
        """See that it answers HTTP. Raises OSError."""
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            if self._tls:
                context = ssl.create_default_context(cafile=self._tls.authority)
                link = stack.enter_context(context.wrap_socket(link, server_hostname="127.0.0.1"))
            link.sendall(b"GET / HTTP/1.1\r\nHost: s3\r\nConnection: close\r\n\r\n")
            if not link.recv(16).startswith(b"HTTP/1.1"):
                raise OSError("no HTTP")

    @property
    def _log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")
