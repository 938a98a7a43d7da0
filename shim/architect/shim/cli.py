"""runc's command line as engines write it, and crun's where it has more. Pure.

Only what is needed to find the container's id and the few options that matter here; the words
themselves are passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

DEFAULT_ROOT: Final = "/run/runc"
"""runc's own default for ``--root`` as root."""

_GLOBAL_VALUED: Final = frozenset(
    {"root", "log", "log-format", "log-level", "criu", "rootless", "cgroup-manager"}
)
_VALUED: Final = {
    "create": frozenset(
        {"bundle", "b", "console-socket", "pidfd-socket", "pid-file", "preserve-fds"}
        | {"config", "f"}
    ),
    "exec": frozenset(
        {"console-socket", "pidfd-socket", "cwd", "env", "e", "user", "u", "additional-gids", "g"}
        | {"process", "p", "pid-file", "process-label", "apparmor", "cap", "c", "preserve-fds"}
        | {"cgroup"}
    ),
    "kill": frozenset[str](),
    "delete": frozenset[str](),
}
_VALUED["run"] = _VALUED["create"]
_LONG: Final = {"b": "bundle", "f": "config", "p": "process"}

_KILL: Final = frozenset({"9", "KILL", "SIGKILL"})


_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Call(NamedTuple):
    """One call of the runtime.

    A named tuple: ``dataclasses`` alone would double what ``exec`` and ``kill`` spend on imports.
    """

    words: tuple[str, ...]
    """Everything behind the program's name."""
    command_at: int
    """Where the command stands in ``words``; their length if there is none."""
    global_options: Mapping[str, str] = _NONE
    options: Mapping[str, str] = _NONE
    """Of the command, without hyphens; flags have the value ``true``."""
    operands_at: int = 0
    """Where the command's operands begin: first the container's id."""
    default_root: str = DEFAULT_ROOT
    """What the lower runtime takes for ``--root``."""

    @property
    def command(self) -> str:
        """The command; empty if there is none."""
        return self.words[self.command_at] if self.command_at < len(self.words) else ""

    @property
    def operands(self) -> tuple[str, ...]:
        """The container's id and what follows it."""
        return self.words[self.operands_at :]

    @property
    def container(self) -> str:
        """The container's id; empty if it is missing."""
        return self.operands[0] if self.operands else ""

    @property
    def root(self) -> str:
        """Where the lower runtime keeps its state."""
        return self.global_options.get("root") or self.default_root

    @property
    def bundle(self) -> str:
        """The directory of config.json; the working directory by default."""
        return self.options.get("bundle", ".")

    @property
    def has_systemd_cgroup(self) -> bool:
        """Whether cgroups are made by systemd."""
        return self.global_options.get("systemd-cgroup") == "true"

    @property
    def is_kill_nine(self) -> bool:
        """Whether the signal of ``kill`` is SIGKILL, which needs no application to arrive."""
        return self.signal.upper() in _KILL

    @property
    def signal(self) -> str:
        """The signal of ``kill`` as written; runc's default is SIGTERM."""
        return self.operands[1] if len(self.operands) > 1 else "SIGTERM"


def parse(words: Sequence[str], *, default_root: str = DEFAULT_ROOT) -> Call:
    """Return *words* (without the program's name), understood."""
    global_options, at = _options(words, 0, valued=_GLOBAL_VALUED)
    command = words[at] if at < len(words) else ""
    options, operands_at = _options(words, at + 1, valued=_VALUED.get(command, frozenset()))
    return Call(
        words=tuple(words),
        command_at=at,
        global_options=global_options,
        options=options,
        operands_at=operands_at,
        default_root=default_root,
    )


def _options(
    words: Sequence[str], at: int, *, valued: frozenset[str]
) -> tuple[dict[str, str], int]:
    found: dict[str, str] = {}
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        if words[at] == "--":
            return found, at + 1
        # Go's parser takes one hyphen or two for every option.
        name, has_value, value = words[at].lstrip("-").partition("=")
        at += 1
        if name in valued and not has_value:
            value = words[at] if at < len(words) else ""
            at += 1
        found[_LONG.get(name, name)] = value if name in valued or has_value else "true"
    return found, at


def with_process_file(call: Call, path: str) -> list[str]:
    """Return the words of ``exec`` *call* with ``--process`` *path* instead of its own."""
    words = list(call.words)
    at = call.command_at + 1
    while at < call.operands_at and words[at].startswith("-"):
        name, has_value, _ = words[at].lstrip("-").partition("=")
        if _LONG.get(name, name) == "process":
            # In place: runc refuses both forms of the option at once.
            width = 1 if has_value else 2
            words[at : at + width] = ["--process", path] if width == 2 else [f"--process={path}"]
            return words
        at += 2 if name in _VALUED["exec"] and not has_value else 1
    raise ValueError("exec has no --process")


def with_command(call: Call, argv: Sequence[str]) -> list[str]:
    """Return the words of ``exec`` *call* with *argv* as the command behind the id."""
    return [*call.words[: call.operands_at + 1], *argv]
