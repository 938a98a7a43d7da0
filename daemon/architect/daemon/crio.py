"""CRI-O's configuration: one drop-in file with the runtime handler. That of gVisor is containerd's.

Pure. CRI-O reads ``crio.conf``, then the drop-ins in the order of their names; a handler that one
of them names is as that one says, and the others stay. Annotations of pods are passed to the
runtime as they are; ``allowed_annotations`` concerns those that CRI-O itself acts on.

A handler is like the default one, but for its program: packages of CRI-O keep runc and the monitor
of containers where no search path leads, and a handler without its monitor keeps CRI-O from
starting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core.errors import ConfigError
from architect.daemon.containerd import BEGIN, END, ConfigFile, Edit, binary, parse, value

DROP_IN: Final = "90-architect.conf"
MAIN: Final = "crio.conf"
"""Beside the directory of drop-ins."""

_PLAIN: Final[Mapping[str, Any]] = {"runtime_type": "oci", "runtime_root": "/run/runc"}
_OWN: Final = frozenset(
    # What says which program is run, or what of a virtual machine.
    {"runtime_path", "runtime_config_path", "platform_runtime_paths", "inherit_default_runtime"}
)


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What :func:`install` decided."""

    edits: tuple[Edit, ...]
    """Empty: the handler is there already."""
    lower_runtime: str
    """Path of the runtime that our handler is like; empty: CRI-O finds it."""


def install(directory: Path, files: Sequence[ConfigFile]) -> Installed:
    """Return what to write into the drop-in *directory* so that our handler is there.

    *files* are ``crio.conf`` and the drop-ins, in the order in which CRI-O reads them, ours among
    them if it is there. Raises ConfigError if one of them is no configuration.
    """
    path = directory / DROP_IN
    current = next((f.text for f in files if f.path == path), None)
    model = _model([f for f in files if f.path != path])
    table = {**_PLAIN, **{key: v for key, v in model.items() if key not in _OWN}}
    table["runtime_path"] = binary(names.RUNTIME_CLASS)
    lines = [f"  {key} = {value(table[key])}\n" for key in sorted(table)]
    text = f"{BEGIN}\n[crio.runtime.runtimes.{names.RUNTIME_CLASS}]\n{''.join(lines)}{END}\n"
    return Installed(
        edits=() if text == current else (Edit(path=path, text=text),),
        lower_runtime=str(model.get("runtime_path") or ""),
    )


def remove(directory: Path, *, current: str | None) -> tuple[Edit, ...]:
    """Return what to write so that nothing of ours is left; *current* is our file's text now."""
    return () if current is None else (Edit(path=directory / DROP_IN, text=None),)


def _model(files: Sequence[ConfigFile]) -> Mapping[str, Any]:
    """Return the default handler as *files* have it, if it is of OCI's kind; else nothing."""
    default, handlers = "", dict[str, Any]()
    for file in files:
        runtime = parse(file)
        for key in ("crio", "runtime"):
            runtime = runtime.get(key) or {}
            if not isinstance(runtime, dict):
                raise ConfigError(f"{file.path}: {key} is not a table")
        default = str(runtime.get("default_runtime") or default)
        handlers |= runtime.get("runtimes") or {}
    model = handlers.get(default or "runc")
    if not isinstance(model, dict) or model.get("runtime_type", "oci") not in ("", "oci"):
        return {}
    return {key: v for key, v in model.items() if isinstance(v, (str, bool, int, float, list))}
