"""AWS' token service under its own name, for programs that believe no other.

``python -m support.tokenservice DIRECTORY PROGRAM…`` has namespaces of its own (network and
mounts), in which :data:`NAME` is the loopback, and a certificate for it is of an authority that
everybody believes. It ends with the program, whose status it returns.

``python -m support.tokenservice DIRECTORY --at ADDRESS`` is the service alone: who is to believe it
is told by others that the name is at that address, and given ``DIRECTORY/authority.pem``.

Each request is a line of
JSON in ``DIRECTORY/asked``, and is answered with what is in ``DIRECTORY/credentials``:
``access_key``, ``secret_key``, ``token``, and the ``seconds`` that they live.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from architect.pki import certificates

REGION = "eu-west-2"
NAME = f"sts.{REGION}.amazonaws.com"
TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian's programs find whom to believe."""

ANSWER = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret_key}</SecretAccessKey>
<SessionToken>{token}</SessionToken><Expiration>{ends}</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


def command(directory: Path, *program: str | Path) -> list[str | Path]:
    """Return the words that run *program* where the token service is."""
    return [
        *("unshare", "--mount", "--net", sys.executable, "-m", "support.tokenservice"),
        directory,
        *program,
    ]


def main() -> int:
    """Be the service until the program ends."""
    directory = Path(sys.argv[1])
    if sys.argv[2] == "--at":
        _, context = _identity(directory)
        _server(directory, sys.argv[3], context).serve_forever()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    authority, context = _identity(directory)
    (directory / "hosts").write_text(f"127.0.0.1 localhost {NAME}\n")
    for source, target in ((directory / "hosts", Path("/etc/hosts")), (authority, TRUSTED)):
        subprocess.run(["mount", "--bind", source, target], check=True)
    server = _server(directory, "127.0.0.1", context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return subprocess.run(sys.argv[2:], check=False).returncode


def _server(directory: Path, address: str, context: ssl.SSLContext) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer((address, 443), _handler(directory))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server


def _handler(directory: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            asked = parse_qs(body or urlsplit(self.path).query)
            with (directory / "asked").open("a") as log:
                log.write(json.dumps({name: values[0] for name, values in asked.items()}) + "\n")
            given = json.loads((directory / "credentials").read_text())
            ends = time.gmtime(time.time() + given.pop("seconds"))
            data = ANSWER.format(**given, ends=time.strftime("%Y-%m-%dT%H:%M:%SZ", ends)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _any

        def log_message(self, format: str, *args: object) -> None:
            """See ``asked``."""

    return Handler


def _identity(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """Return a file with the authority, and what the service proves its name with."""
    now = datetime.now(UTC)
    authority, authority_key = certificates.make_authority(
        "tokens", now=now, life=timedelta(days=1)
    )
    key = certificates.make_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=12))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    trusted, mine = directory / "authority.pem", directory / "service.pem"
    trusted.write_bytes(certificates.to_pem(authority))
    mine.write_bytes(certificates.to_pem(certificate) + certificates.key_to_pem(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(mine)
    return trusted, context


if __name__ == "__main__":
    sys.exit(main())
