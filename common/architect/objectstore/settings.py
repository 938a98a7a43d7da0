"""Where the object store is, and the form of keys in it.

Credentials are none of ours: the client libraries find them (environment, profile, web identity,
the cloud's metadata), and a program's settings never hold them.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

from architect.cloud import addresses
from architect.core.errors import Rejected

MAX_KEY_BYTES: Final = 1024
"""Of a whole key in UTF-8; S3's limit."""

MAX_PREFIX_CHARS: Final = 512
"""Leaves room in a key for a namespace, a checkpoint's id and the rest: at most 218 characters."""

BAD_KEY: Final = "BadKey"
"""Reason of a key that no store is asked about."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_PREFIX_PART = r"[A-Za-z0-9_-][A-Za-z0-9._=-]{0,127}"
"""No leading dot: neither ``..`` nor what :attr:`StoreSettings.probe_key` is."""
_PREFIX = re.compile(rf"{_PREFIX_PART}(/{_PREFIX_PART})*")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """One bucket, and how it is reached. Raises ConfigError where a value cannot be."""

    bucket: str

    endpoint: str = ""
    """``https://host[:port]`` or ``http://host[:port]``; empty: Amazon's, of the region."""

    region: str = "us-east-1"
    """Part of every signature. Stores that know no regions take this one."""

    prefix: str = ""
    """Before all keys, without a slash at its ends; empty: the bucket is ours alone."""

    is_path_style: bool = True
    """The bucket's name stands in the path, which every store understands, and not in the host's
    name, for which there must be a DNS name and a certificate."""

    ca_file: str = ""
    """PEM with the authorities that the server's certificate is of; empty: the system's."""

    def __post_init__(self) -> None:
        checks = (
            (
                "bucket",
                _BUCKET.fullmatch(self.bucket)
                and ".." not in self.bucket
                and not _ADDRESS.fullmatch(self.bucket),
                "a bucket's name: 3 to 63 of a-z, 0-9, - and ., with a letter or digit at both "
                "ends, no two dots together, no IP address",
            ),
            (
                "prefix",
                is_prefix(self.prefix),
                f"at most {MAX_PREFIX_CHARS} letters, digits, ., _, = and -, with / between parts "
                "that do not begin with a dot, and at neither end",
            ),
            *addresses.checks(region=self.region, endpoint=self.endpoint, ca_file=self.ca_file),
        )
        addresses.require(self, checks)

    @property
    def url(self) -> str:
        """Where requests go, without the bucket: ``https://host[:port]``."""
        return self.endpoint.rstrip("/") or f"https://s3.{self.region}.{_domain(self.region)}"

    @property
    def is_encrypted(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.url.startswith("https:")

    @property
    def host(self) -> str:
        """``host[:port]`` of a request for the bucket, as in the header ``Host``."""
        server = self.url.partition("://")[2]
        return server if self.is_path_style else f"{self.bucket}.{server}"

    @property
    def probe_key(self) -> str:
        """Key of the empty object that shows that we may write; no checkpoint's, by its dot."""
        return self.key_of(".writable")

    def key_of(self, name: str) -> str:
        """Return the whole key of *name*, a path below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def path_of(self, key: str) -> str:
        """Return the path of a request for a whole key, quoted. Raises Rejected."""
        check_key(key)
        return self._bucket_path + urllib.parse.quote(key, safe="/-._~")

    @property
    def _bucket_path(self) -> str:
        return f"/{self.bucket}/" if self.is_path_style else "/"


def is_prefix(text: str) -> bool:
    """Whether everything can lie below *text*: names with ``/`` between them, or nothing."""
    return not text or (len(text) <= MAX_PREFIX_CHARS and _PREFIX.fullmatch(text) is not None)


def check_key(key: str) -> None:
    """Refuse a key that a proxy or a store might take for another one. Raises Rejected."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= MAX_KEY_BYTES:
        problem = f"it has not 1 to {MAX_KEY_BYTES} bytes of UTF-8"
    elif not key.isprintable():
        problem = "it has characters that cannot be printed"
    elif any(part in ("", ".", "..") for part in key.split("/")):
        problem = "a part of it is empty, '.' or '..'"
    else:
        return
    raise Rejected(f"{key!r:.300} is no key of ours: {problem}", reason=BAD_KEY)


def _domain(region: str) -> str:
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
