"""JSON in one form, from whomever: written canonically, read with a check for every key.

Canonical is: keys in order, no spaces, ASCII, one newline at the end. A reader that takes apart
what it was given, builds it again and compares takes nothing else, so that a hash or a signature is
over the meaning. A check gets a value and where it stands, returns what it makes of it, and raises
FormatError with that place in the text, which quotes a bounded part of the value.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from architect.core.errors import FormatError

OTHER_VERSION: Final = "the checkpoint was taken by another version of Architect"

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"

T = TypeVar("T")


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one form of *value*."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii") + b"\n"


def parse(raw: bytes, what: str, *, most: int) -> dict[str, Any]:
    """Return the object that *raw* is, of at most *most* bytes; its form is not looked at.

    *what* names it in errors. Raises FormatError.
    """
    if len(raw) > most:
        raise FormatError(f"{what} of {len(raw)} bytes: at most {most} are read")
    try:
        value = json.loads(raw.decode("ascii"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{what} is no object")
    return value


def check_version(value: Mapping[str, Any], what: str, *, version: int) -> None:
    """Return if *value* says that it is of *version*. Raises FormatError."""
    found = value.get("version")
    if found != version or isinstance(found, bool):
        raise FormatError(
            f"{what} has version {found!r:.50} instead of {version}", hint=OTHER_VERSION
        )


def check_form(value: Mapping[str, Any], raw: bytes, what: str) -> None:
    """Return if *raw* is the one form of *value*. Raises FormatError."""
    if canonical(value) != raw:
        raise FormatError(f"{what} is not in the one form (order, spaces, repeated keys)")


class Object:
    """An object whose keys are all taken, each with its check, or it is refused."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where} is no object")
        self._left: dict[str, Any] = dict(value)
        self._where = where

    def take(self, key: str, check: Callable[[Any, str], T]) -> T:
        """Return what *check* makes of the value at *key*."""
        where = f"{self._where}.{key}"
        if key not in self._left:
            raise FormatError(f"{where} is missing")
        return check(self._left.pop(key), where)

    def take_if_there(self, key: str, check: Callable[[Any, str], T]) -> T | None:
        """Return what *check* makes of the value at *key*; None if there is no such key."""
        return self.take(key, check) if key in self._left else None

    def end(self) -> None:
        """Refuse what was not taken."""
        if self._left:
            raise FormatError(f"{self._where} has unknown keys: {sorted(self._left)!r:.200}")


def text(most: int, *, least: int = 1) -> Callable[[Any, str], str]:
    """Take printable text of *least* to *most* characters."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most or not value.isprintable():
            raise FormatError(f"{where}: {value!r:.100} is no text of {least} to {most} characters")
        return value

    return check


def matching(pattern: re.Pattern[str]) -> Callable[[Any, str], str]:
    """Take text that is *pattern* from end to end."""

    def check(value: Any, where: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise FormatError(f"{where}: {value!r:.100} is not of the form {pattern.pattern}")
        return value

    return check


sha256: Final = matching(re.compile(r"[0-9a-f]{64}"))
"""Take a hash."""


def integer(least: int, most: int) -> Callable[[Any, str], int]:
    """Take a whole number of *least* to *most*."""

    def check(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise FormatError(f"{where}: {value!r:.50} is no whole number of {least} to {most}")
        return value

    return check


def list_of(check: Callable[[Any, str], T], most: int) -> Callable[[Any, str], tuple[T, ...]]:
    """Take at most *most* values, each with *check*."""

    def check_all(value: Any, where: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise FormatError(f"{where} is no list")
        if len(value) > most:
            raise FormatError(f"{where} has {len(value)} entries, more than {most}")
        return tuple(check(item, f"{where}[{number}]") for number, item in enumerate(value))

    return check_all


def base64_of(least: int, most: int | None = None) -> Callable[[Any, str], bytes]:
    """Take base64 of *least* to *most* bytes, or of exactly *least*, in its one form.

    It may be a secret: the value is not quoted.
    """
    most = least if most is None else most
    count = f"{least}" if least == most else f"{least} to {most}"

    def check(value: Any, where: str) -> bytes:
        # What is too long is not decoded.
        if isinstance(value, str) and len(value) <= len(to_base64(bytes(most))):
            try:
                found = base64.b64decode(value, validate=True)
            except ValueError:
                found = b""
            if least <= len(found) <= most and to_base64(found) == value:
                return found
        raise FormatError(f"{where} is no base64 of {count} bytes")

    return check


def to_base64(raw: bytes) -> str:
    """Return the one form of *raw* as base64."""
    return base64.b64encode(raw).decode("ascii")


def time(value: Any, where: str) -> datetime.datetime:
    """Return the time, in whole seconds of UTC, as which *value* is written."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.datetime.strptime(value, _TIME_FORMAT).replace(tzinfo=datetime.UTC)
        except ValueError:
            pass
    raise FormatError(f"{where}: {value!r:.50} is not a time such as 2030-01-01T00:00:00Z")


def to_time(at: datetime.datetime) -> str:
    """Return a time as :func:`time` reads it."""
    return at.astimezone(datetime.UTC).strftime(_TIME_FORMAT)
