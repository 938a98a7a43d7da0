"""containerd's configuration: where the runtime handlers go, and how they come out again.

Pure: files in, one edit out. What bites (containerd issues 5837, 7982 and 9968, change 9982):

- Version 2 of the format, which containerd 1.x reads too, merges imported files by whole plugin
  sections: a drop-in that adds one handler makes the main file's CRI section vanish, and 1.x also
  forgets its built-in ``runc`` handler as soon as a file names any other. So with version 2 the
  handler goes into the file that has the last word on the CRI section, and brings ``runc`` along.
- From version 3 on (containerd 2) files are merged by key: a drop-in is right where the main file
  imports a directory, and a block at the end of the main file where it does not.
- A drop-in of a higher version than the main file is refused, so it repeats the main file's.

What is ours stands between two marks; a file is edited only if it is TOML before and after, and
says the same without our handlers.
"""

from __future__ import annotations

import copy
import fnmatch
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.core.errors import ConfigError

BEGIN: Final = "# architect: begin (written by the architect daemon; removed by its uninstall)"
END: Final = "# architect: end"
DROP_IN: Final = "90-architect.toml"
OURS: Final = (names.RUNTIME_CLASS, names.RUNTIME_CLASS_GVISOR)
"""Names of our handlers: each is named as its runtime class, and as its program."""
POD_ANNOTATIONS: Final = (f"{names.GROUP}/*",)
RUNC_TYPE: Final = "io.containerd.runc.v2"

_SECTION: Final = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""Version of the format → plugin that holds the handlers; later versions are as 3."""

_MIGRATE_HINT: Final = "write it anew with `containerd config migrate`"


@dataclass(frozen=True, kw_only=True)
class ConfigFile:
    """One configuration file on the host."""

    path: Path
    text: str


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One file to write or, with *text* None, to remove."""

    path: Path
    text: str | None


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What :func:`install` decided."""

    edits: tuple[Edit, ...]
    """Empty: the handlers are there already."""
    lower_runtime: str
    """``BinaryName`` of the runtime that our handlers are like; empty: containerd finds runc."""


def binary(handler: str) -> str:
    """Return the program of one of our handlers."""
    return str(names.CURRENT / "bin" / handler)


def parse(file: ConfigFile) -> dict[str, Any]:
    """Return the file's content. Raises ConfigError naming the file and the line."""
    try:
        return tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file.path} is not TOML: {error}") from error


def import_patterns(main: ConfigFile) -> list[str]:
    """Return the absolute patterns that *main* imports, in order."""
    imports = parse(main).get("imports") or []
    if not isinstance(imports, list) or not all(isinstance(i, str) for i in imports):
        raise ConfigError(f"{main.path}: imports is not a list of paths")
    return [i if i.startswith("/") else str(main.path.parent / i) for i in imports]


def version_of(main: ConfigFile) -> int:
    """Return the version of *main*'s format; a file that says nothing yet counts as 2.

    Raises ConfigError for version 1, whose plugin names containerd itself no longer writes.
    """
    content = parse(main)
    version = content.get("version")
    if version is None:
        if content.keys() & {"plugins", "disabled_plugins", "required_plugins"}:
            raise ConfigError(f"{main.path} is of version 1", hint=_MIGRATE_HINT)
        return 2
    if not isinstance(version, int) or version < 2:
        raise ConfigError(f"{main.path} is of version {version!r}", hint=_MIGRATE_HINT)
    return version


def section_of(version: int) -> str:
    """Return the plugin that holds the handlers."""
    return _SECTION[2] if version == 2 else _SECTION[3]


def strip(text: str) -> str:
    """Return *text* without our blocks, as it was before they were added."""
    kept: list[str] = []
    is_ours = False
    for line in text.splitlines(keepends=True):
        if line.strip() == BEGIN:
            is_ours = True
            # The block was set off by an empty line of ours.
            if kept and kept[-1] == "\n":
                kept.pop()
        elif line.strip() == END and is_ours:
            is_ours = False
        elif not is_ours:
            kept.append(line)
    if is_ours:
        raise ConfigError(f"a block that begins with {BEGIN!r} has no end")
    return "".join(kept)


def install(
    main: ConfigFile,
    imported: Sequence[ConfigFile] = (),
    *,
    wanted: Sequence[str] = (names.RUNTIME_CLASS,),
) -> Installed:
    """Return what to write so that the *wanted* ones of our handlers exist, and no other.

    *main* has an empty text if there is no file; *imported* are the files that it imports, in the
    order in which containerd loads them. Raises ConfigError if a file does not parse, cannot be
    added to, or configures a handler of that name otherwise.
    """
    bare = [ConfigFile(path=f.path, text=strip(f.text)) for f in (main, *imported)]
    contents = [parse(f) for f in bare]
    version, section = version_of(bare[0]), section_of(version_of(bare[0]))
    _check_enabled(main.path, contents, section)
    home, base, name = _home(bare, contents, version, section)
    handlers = _handlers(base)
    model = _model(handlers, name)
    tables = {}
    for handler in wanted:
        theirs = handlers.get(handler)
        if theirs is None:
            tables[handler] = _ours(handler, model)
        elif not _is_ours(handler, theirs):  # else a prepared node image brought it
            raise ConfigError(
                f"{home.path} configures {handler} otherwise: {theirs!r:.200}",
                hint=f"remove it, or set BinaryName to {binary(handler)} and pod_annotations",
            )
    if not tables:
        return Installed(edits=remove((main, *imported)), lower_runtime=_binary(model))
    if version == 2 and name not in handlers:
        tables = {name: {"runtime_type": RUNC_TYPE}} | tables
    body = "".join(_table(["plugins", section, *_path(), key], t) for key, t in tables.items())
    is_new = not home.text.strip()
    head = f"version = {version}\n" if is_new else ""
    text = _with_block(home.text, head + body)
    if not is_new and home.path == main.path and "version" not in contents[0]:
        text = f"{BEGIN}\nversion = {version}\n{END}\n" + text
    edit = ConfigFile(path=home.path, text=text)
    _check(home, edit, section, set(tables))
    stale = [
        _removal(f) for f in (main, *imported) if f.text != strip(f.text) and f.path != home.path
    ]
    before = next((f.text for f in (main, *imported) if f.path == home.path), "")
    edits = [] if edit.text == before else [Edit(path=edit.path, text=edit.text)]
    return Installed(edits=(*edits, *stale), lower_runtime=_binary(model))


def remove(files: Sequence[ConfigFile]) -> tuple[Edit, ...]:
    """Return what to write so that nothing of ours is left in *files*."""
    return tuple(_removal(f) for f in files if f.text != strip(f.text))


def handlers_of(dump: str) -> frozenset[str]:
    """Return which of our handlers ``containerd config dump`` shows."""
    plugins = tomllib.loads(dump).get("plugins") or {}
    found = [_handlers(plugins.get(section) or {}) for section in _SECTION.values()]
    return frozenset(
        name for name in OURS if any(_is_ours(name, each.get(name) or {}) for each in found)
    )


def without_handlers(dump: str) -> dict[str, Any]:
    """Return what a dump says besides our handlers and the list of imported files."""
    content = tomllib.loads(dump)
    content.pop("imports", None)
    for section in _SECTION.values():
        for name in OURS:
            _handlers((content.get("plugins") or {}).get(section) or {}).pop(name, None)
    return content


def _home(
    bare: Sequence[ConfigFile], contents: Sequence[dict[str, Any]], version: int, section: str
) -> tuple[ConfigFile, dict[str, Any], str]:
    """Return the file to edit, the CRI section in force, and the default handler's name."""
    sections = [(c.get("plugins") or {}).get(section) for c in contents]
    if version == 2:
        last = max((i for i, s in enumerate(sections) if s is not None), default=0)
        base = sections[last] or {}
        return bare[last], base, _default_name(base)
    base = {}
    for found in sections:
        base = _merged(base, found or {})
    target = bare[0]
    for pattern in import_patterns(bare[0]):
        path = Path(pattern)
        # A pattern with wildcards in its directory names no place to put a file.
        if fnmatch.fnmatch(DROP_IN, path.name) and not set("*?[") & set(str(path.parent)):
            drop_in = path.parent / DROP_IN
            target = next((f for f in bare if f.path == drop_in), ConfigFile(path=drop_in, text=""))
            break
    return target, base, _default_name(base)


def _path() -> list[str]:
    return ["containerd", "runtimes"]


def _handlers(section: Mapping[str, Any]) -> dict[str, Any]:
    runtimes = (section.get("containerd") or {}).get("runtimes")
    return runtimes if isinstance(runtimes, dict) else {}


def _default_name(section: Mapping[str, Any]) -> str:
    return str((section.get("containerd") or {}).get("default_runtime_name") or "runc")


def _model(handlers: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the handler that ours are to be like: the default one, if it is a runc."""
    for candidate in (name, "runc"):
        model = handlers.get(candidate)
        if isinstance(model, dict) and model.get("runtime_type", RUNC_TYPE) == RUNC_TYPE:
            return model
    return {}


def _ours(handler: str, model: Mapping[str, Any]) -> dict[str, Any]:
    table = copy.deepcopy(dict(model))
    table["runtime_type"] = RUNC_TYPE
    # runtime_path names the shim, which stays the model's.
    known = [a for a in table.get("pod_annotations") or [] if a not in POD_ANNOTATIONS]
    table["pod_annotations"] = [*known, *POD_ANNOTATIONS]
    table["options"] = {**(table.get("options") or {}), "BinaryName": binary(handler)}
    return table


def _is_ours(handler: str, table: Mapping[str, Any]) -> bool:
    return (
        table.get("runtime_type") == RUNC_TYPE
        and _binary(table) == binary(handler)
        and set(POD_ANNOTATIONS) <= set(table.get("pod_annotations") or ())
    )


def _binary(table: Mapping[str, Any]) -> str:
    return str((table.get("options") or {}).get("BinaryName") or "")


def _check_enabled(path: Path, contents: Sequence[dict[str, Any]], section: str) -> None:
    disabled = {str(p) for c in contents for p in c.get("disabled_plugins") or ()}
    if found := disabled & {"cri", section, _SECTION[2]}:
        raise ConfigError(
            f"{path} disables the plugin {found.pop()}, without which there is no Kubernetes",
            hint="remove it from disabled_plugins",
        )


def _with_block(text: str, body: str) -> str:
    block = f"{BEGIN}\n{body}{END}\n"
    if not text.strip():
        return text + block
    return text + ("" if text.endswith("\n") else "\n") + "\n" + block


def _removal(file: ConfigFile) -> Edit:
    rest = strip(file.text)
    return Edit(path=file.path, text=rest if rest.strip() else None)


def _check(before: ConfigFile, after: ConfigFile, section: str, added: set[str]) -> None:
    """Raise ConfigError unless *after* parses and says the same as *before* besides *added*."""
    try:
        new = tomllib.loads(after.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{before.path} cannot be added to: {error}",
            hint=f"its section {section!r} is written as an inline table; write it as [tables], or"
            " import a directory",
        ) from error
    old = parse(before)
    runtimes = _handlers(new["plugins"][section])
    for name in added:
        runtimes.pop(name)
    new.pop("version", None)
    old.pop("version", None)
    if _pruned(new) != _pruned(old):
        raise ConfigError(f"{before.path} would say something else with our handlers added")


def _pruned(value: Any) -> Any:
    """Return *value* without empty tables, which say nothing."""
    if not isinstance(value, dict):
        return value
    pruned = {key: _pruned(item) for key, item in value.items()}
    return {key: item for key, item in pruned.items() if item != {}}


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(first)
    for key, value in second.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def _table(path: list[str], table: Mapping[str, Any]) -> str:
    """Return *table* as TOML, sub-tables after the plain keys."""
    lines = ["[" + ".".join(_key(part) for part in path) + "]"]
    lines += [f"  {_key(k)} = {value(v)}" for k, v in table.items() if not isinstance(v, dict)]
    below = "".join(_table([*path, k], v) for k, v in table.items() if isinstance(v, dict))
    return "\n".join(lines) + "\n" + below


def _key(text: str) -> str:
    plain = text.replace("-", "").replace("_", "")
    return text if plain.isascii() and plain.isalnum() else json.dumps(text)


def value(found: Any) -> str:
    """Return a plain value or a list of them as TOML. Raises ConfigError for anything else."""
    if isinstance(found, list):
        return "[" + ", ".join(value(item) for item in found) + "]"
    if isinstance(found, (bool, int, float, str)):
        return json.dumps(found)
    raise ConfigError(f"cannot repeat the value {found!r:.80} of the default runtime handler")
