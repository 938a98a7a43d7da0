"""Where a service is, and by whose certificate it is believed."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from architect.core.errors import ConfigError
from architect.core.tls import without_strictness

_REGION: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")

Check = tuple[str, object, str]
"""Of a setting: its name, something that is true if its value can be, and what is allowed."""


def is_region(text: str) -> bool:
    """Whether *text* can be a region's name, which is part of every signature."""
    return _REGION.fullmatch(text) is not None


def is_endpoint(endpoint: str) -> bool:
    """Whether *endpoint* is ``http(s)://host[:port]`` and nothing more."""
    scheme, found, server = endpoint.partition("://")
    host, colon, port = server.removesuffix("/").rpartition(":")
    if not colon or "]" in port:
        host, port = server.removesuffix("/"), "443"
    if scheme not in ("http", "https") or not found or not _HOST.fullmatch(host):
        return False
    return re.fullmatch(r"[1-9][0-9]{0,4}", port) is not None and int(port) <= 65535


def checks(*, region: str, endpoint: str, ca_file: str) -> tuple[Check, ...]:
    """Return what must hold of a service's address; an empty *endpoint* is Amazon's, by https."""
    return (
        (
            "region",
            is_region(region),
            "a region's name, such as us-east-1: letters, digits, ., _ and -",
        ),
        (
            "endpoint",
            not endpoint or is_endpoint(endpoint),
            "http(s)://host or http(s)://host:port, with no path or user",
        ),
        ("ca_file", not ca_file or Path(ca_file).is_absolute(), "an absolute path"),
        (
            "ca_file",
            not ca_file or not endpoint.startswith("http:"),
            "for an endpoint of http, which has no certificates",
        ),
    )


def require(settings: object, all_checks: Iterable[Check]) -> None:
    """Raise ConfigError, with name, value and what is allowed, for the first that does not hold."""
    for field, is_fine, allowed in all_checks:
        if not is_fine:
            raise ConfigError(f"{field}: {getattr(settings, field)!r:.600} is not {allowed}")


@contextlib.contextmanager
def named(prefix: str) -> Iterator[None]:
    """Have a ConfigError begin with the name of the option that gave the setting."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error.message}") from error


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return what a server is judged by; an empty *ca_file*: the system's authorities.

    As strict as the libraries that then use the service, and not more. Raises ConfigError.
    """
    try:
        return without_strictness(ssl.create_default_context(cafile=ca_file or None))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"CA file {ca_file!r:.300} cannot be used: {error}",
            hint="a PEM file with at least one certificate",
        ) from error
