"""Where the object store is: operator and daemon are told the same, and read it alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

MAX_PREFIX_CHARS: Final = 512
"""S3's keys have 1024 bytes: the rest is for namespace, id and number."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HOST = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\]"
_ENDPOINT = re.compile(rf"https?://({_HOST})(:(?P<port>[0-9]{{1,5}}))?")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")


def bucket(text: str) -> str:
    """Return the name of a bucket; empty: there is none. Raises ValueError."""
    is_name = _BUCKET.fullmatch(text) and ".." not in text and not _ADDRESS.fullmatch(text)
    return _checked(text, is_fine=bool(is_name) or not text)


def endpoint(text: str) -> str:
    """Return the URL of a store; empty: Amazon's, of the region. Raises ValueError."""
    found = _ENDPOINT.fullmatch(text)
    is_fine = found is not None and (found["port"] is None or 0 < int(found["port"]) <= 65535)
    return _checked(text, is_fine=not text or is_fine)


def region(text: str) -> str:
    """Return the name of a region. Raises ValueError."""
    return _checked(text, is_fine=_REGION.fullmatch(text) is not None)


def prefix(text: str) -> str:
    """Return what all keys begin with; empty: nothing. Raises ValueError."""
    segments = text.split("/")
    is_path = all(_SEGMENT.fullmatch(s) and s not in (".", "..") for s in segments)
    return _checked(text, is_fine=not text or (is_path and len(text) <= MAX_PREFIX_CHARS))


def switch(text: str) -> bool:
    """Return whether something is so. Raises ValueError."""
    return _checked(text, is_fine=text in ("true", "false")) == "true"


READERS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = MappingProxyType(
    {
        "store_bucket": (
            bucket,
            "a bucket's name: 3 to 63 of a-z, 0-9, - and ., beginning and ending with a letter or "
            "digit, no two dots together, no IP address",
        ),
        "store_endpoint": (
            endpoint,
            "http(s)://host or http(s)://host:port, with no path or user",
        ),
        "store_region": (region, "a region's name: 1 to 64 letters, digits, ., _ and -"),
        "store_prefix": (
            prefix,
            f"at most {MAX_PREFIX_CHARS} letters, digits, ., _, - and /, no / at either end, and "
            "no empty part, . or .. between two",
        ),
        "store_path_style": (switch, "true or false"),
    }
)
"""By setting: who reads it, and what is allowed, in words."""


def _checked(text: str, *, is_fine: bool) -> str:
    if not is_fine:
        raise ValueError(text)
    return text
