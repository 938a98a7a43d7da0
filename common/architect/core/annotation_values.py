"""What stands in annotations: one parser per kind of value, every problem collected.

Both families of annotations (:mod:`architect.core.annotations`, ours, and
:mod:`architect.core.vendor_annotations`) are read through a :class:`Reader`. A value that cannot
be read is written down and reading goes on, so that the user sees all that is wrong at once.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from architect.api import names
from architect.api.policy import LEAST_PRIORITY, MOST_PRIORITY, Policy, Probe
from architect.core import durations
from architect.core.errors import ConfigError

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

MAX_SECONDS: Final = 365 * 24 * 3600.0
"""Upper bound of every duration: what is longer is meant as ``never``."""

QUOTED_CHARACTERS: Final = 80
"""As much of a value as a message repeats."""

ALLOWED_DURATION: Final = "a duration such as 90s, 5m or 1h30m (at most 8760h)"
ALLOWED_PORTS: Final = "ports from 1 to 65535, such as 9090,9100"
ALLOWED_COMMAND: Final = 'a JSON list of the words of a command, such as ["/bin/refresh", "all"]'
ALLOWED_PRIORITY: Final = f"an integer from {LEAST_PRIORITY} to {MOST_PRIORITY}"
ALLOWED_OBJECT: Final = 'a JSON object keyed by container name, such as {"app": …}'

# RFC 1123 subdomain: what Kubernetes allows as an object's name.
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_INTEGER = re.compile(r"-?[0-9]{1,10}")
_PORT = re.compile(r"[0-9]{1,5}")


class AnnotationErrors(ConfigError):
    """Annotations of one pod that cannot be read; ``messages`` has one text for each problem."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("; ".join(messages))
        self.messages = tuple(messages)


@dataclass(frozen=True, kw_only=True)
class AppContainer:
    """An app container of the pod: never an init container or a restartable one."""

    name: str
    probes: tuple[Probe, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a pod's annotations say."""

    policy: Policy | None = None
    """None: the pod is not opted in."""
    runtime_class: str = names.RUNTIME_CLASS
    probe_ports: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """Container to (port in a probe → port that the probe must use instead)."""
    warnings: tuple[str, ...] = ()
    """What is legal and probably not meant."""


class Reader:
    """The annotations of one pod while they are read."""

    def __init__(self, annotations: Mapping[str, str], containers: Sequence[AppContainer]) -> None:
        self.annotations = annotations
        self.containers = tuple(containers)
        self.names = tuple(c.name for c in containers)
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def refuse(self, key: str, value: object, *, allowed: str, where: str = "") -> None:
        """Write down that *value* of *key* (at *where* inside it) is not one of *allowed*."""
        place = f" for {where}" if where else ""
        self.errors.append(f"{key}: {quote(value)}{place} cannot be read; allowed: {allowed}")

    def warn(self, text: str) -> None:
        """Write down what is legal and probably not meant."""
        self.warnings.append(text)

    def scalar(self, key: str, parse: Callable[[Any], T], *, allowed: str) -> T | None:
        """Return the value of *key* for the whole pod, None if absent or unreadable."""
        if key not in self.annotations:
            return None
        text = self.annotations[key]
        try:
            return parse(text.strip())
        except ValueError:
            self.refuse(key, text, allowed=allowed)
            return None

    def per_container(
        self,
        key: str,
        parse: Callable[[Any], T],
        *,
        allowed: str,
        managed: Sequence[str],
        scalars: bool = True,
    ) -> dict[str, T]:
        """Return the value of *key* for each managed container that has one.

        A scalar holds for all *managed* containers, if *scalars*; an object holds for those it
        names.
        """
        if key not in self.annotations:
            return {}
        text = self.annotations[key]
        if scalars and not text.lstrip().startswith("{"):
            try:
                value = parse(text.strip())
            except ValueError:
                self.refuse(key, text, allowed=f"{allowed}, or {ALLOWED_OBJECT}")
                return {}
            return dict.fromkeys(managed, value)
        given = self.json_object(key, allowed=ALLOWED_OBJECT)
        found: dict[str, T] = {}
        for name, raw in ({} if given is None else given).items():
            if not self.known(key, name):
                continue
            try:
                value = parse(raw.strip() if isinstance(raw, str) else raw)
            except ValueError:
                self.refuse(key, raw, allowed=allowed, where=f"container {name}")
                continue
            if name in managed:
                found[name] = value
            else:
                self.warn(f"{key}: container {name} is not managed, its value has no effect")
        return found

    def known(self, key: str, name: str) -> bool:
        """Tell whether *name* is an app container of the pod; write it down if not."""
        if name in self.names:
            return True
        self.errors.append(
            f"{key}: {quote(name)} is not an app container of the pod; allowed: "
            f"{', '.join(self.names)} (init containers are never managed)"
        )
        return False

    def json(self, key: str, *, allowed: str) -> Any:
        """Return the JSON value of *key*, None if absent or unreadable."""
        if key not in self.annotations:
            return None
        text = self.annotations[key]
        try:
            value = json.loads(text, object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError):
            self.refuse(key, text, allowed=allowed)
            return None
        if value is None:
            self.refuse(key, text, allowed=allowed)
        return value

    def json_object(self, key: str, *, allowed: str) -> dict[str, Any] | None:
        """Return the JSON object that *key* holds, None if absent or unreadable."""
        value = self.json(key, allowed=allowed)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, self.annotations[key], allowed=allowed)
            return None
        return value

    def finish(self) -> None:
        """Raise AnnotationErrors if anything could not be read."""
        if self.errors:
            raise AnnotationErrors(self.errors)


def quote(value: object) -> str:
    """Return *value* as JSON for a message, bounded."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= QUOTED_CHARACTERS else text[:QUOTED_CHARACTERS] + "…"


def duration(value: Any) -> float:
    """Return the seconds of a Go duration. Raises ValueError."""
    # Go's digits are ASCII; its microsecond sign is not.
    if not isinstance(value, str) or not value.replace("µ", "u").isascii():
        raise ValueError("not a duration")
    seconds = durations.parse(value)
    if seconds > MAX_SECONDS:
        raise ValueError("too long")
    return seconds


def port(value: Any) -> int:
    """Return a port number. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ValueError("not a port")
    return value


def ports(value: Any) -> tuple[int, ...]:
    """Return the ports of a comma list or a JSON list, sorted, each once. Raises ValueError."""
    if isinstance(value, str):
        words = [word.strip() for word in value.split(",")]
        if not all(_PORT.fullmatch(word) for word in words):
            raise ValueError("not a list of ports")
        value = [int(word) for word in words]
    elif isinstance(value, int):
        value = [value]
    if not isinstance(value, list) or not value:
        raise ValueError("not a list of ports")
    return tuple(sorted({port(item) for item in value}))


def priority(value: Any) -> int:
    """Return a priority, of those that a user's PriorityClass may have. Raises ValueError."""
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise ValueError("not an integer")
    number = int(value)
    if not LEAST_PRIORITY <= number <= MOST_PRIORITY:
        raise ValueError("out of range")
    return number


def command(value: Any) -> tuple[str, ...]:
    """Return the words of a command, a JSON list of strings. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except RecursionError as error:
            raise ValueError("not a list") from error
    if not isinstance(value, list) or not value or not value[0]:
        raise ValueError("not a command")
    if not all(isinstance(word, str) and "\0" not in word for word in value):
        raise ValueError("not words")
    return tuple(value)


def object_name(value: Any) -> str:
    """Return a Kubernetes object's name. Raises ValueError."""
    if not isinstance(value, str) or len(value) > 253 or not _OBJECT_NAME.fullmatch(value):
        raise ValueError("not a name")
    return value


def word_list(value: Any) -> tuple[str, ...]:
    """Return the words of a comma list. Raises ValueError for an empty or repeated one."""
    words = tuple(word.strip() for word in value.split(","))
    if not all(words) or len(set(words)) != len(words):
        raise ValueError("not a list of words")
    return words


def one_of(choices: Mapping[str, T]) -> Callable[[Any], T]:
    """Return a parser for the words that are the keys of *choices*."""

    def parse(value: Any) -> T:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("not one of the choices")
        return choices[value]

    return parse


def member(kind: type[E]) -> Callable[[Any], E]:
    """Return a parser for the values of an enumeration."""
    return one_of({str(item.value): item for item in kind})


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two equal keys the later would win in silence.
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key is repeated")
    return fields
