"""What we add to containerd's configuration, as containerd itself reads it, of both versions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.daemon import containerd
from architect.daemon.containerd import ConfigFile, Edit
from lab import gomodules, rootfs
from lab import node as lab_node
from lab.cache import Cache
from lab.machine import Bind, Machine, MachineSpec
from lab.settings import Settings

BESIDE = "/usr/local/containerd-2.4"
PROGRAMS = {"2.1": "/usr/bin/containerd", "2.4": f"{BESIDE}/containerd"}
MAIN = Path("/etc/containerd/config.toml")
DEBIANS = "debians-containerd.toml"
"""Where the file of the package is kept while others are in its place."""
LAB = lab_node.containerd_config(restrict_oom_score=False)
"""Of version 3, with a directory of further files."""
VERSION_2 = """
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
"""
VERSION_4 = (
    LAB.replace("version = 3", "version = 4")
    + """
[plugins.'io.containerd.server.v1.grpc']
  address = "/run/elsewhere/containerd.sock"
"""
)
FILES = {
    "none": "",
    "version 2": VERSION_2,
    "version 3": LAB,
    "version 3, no directory": "\n".join(
        line for line in LAB.splitlines() if not line.startswith("imports")
    ),
    "version 4": VERSION_4,
    "version 4, no directory": VERSION_4.replace("imports", "# imports"),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    cache = Cache(Settings.from_environment().cache)
    made = Machine(f"config-{os.getpid()}", settings=Settings.from_environment())
    programs = gomodules.tool(cache, gomodules.CONTAINERD).parent
    try:
        bind = Bind(source=programs, target=BESIDE, readonly=True)
        made.create(MachineSpec(root=rootfs.node_root(cache), binds=(bind,)))
        shutil.move(f"/proc/{made.running_pid}/root{MAIN}", made.directory / DEBIANS)
        yield made
    finally:
        made.destroy()


@pytest.fixture
def apply(machine: Machine) -> Iterator[Callable[[Edit], None]]:
    """Write files of the machine, which are gone afterwards."""
    root = Path(f"/proc/{machine.running_pid}/root")
    written: set[Path] = set()

    def write(edit: Edit) -> None:
        path = root / edit.path.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        written.add(path)
        if edit.text is None:
            path.unlink()
        else:
            path.write_text(edit.text)

    yield write
    for path in written:
        path.unlink(missing_ok=True)


def cases() -> list[tuple[str, str]]:
    """Return which version of containerd reads which file: the older one knows no version 4."""
    kinds = (*FILES, "Debian's", "its own default")
    found = [(version, kind) for version in PROGRAMS for kind in kinds]
    return [(v, kind) for v, kind in found if v != "2.1" or not kind.startswith("version 4")]


@pytest.mark.parametrize(("version", "kind"), cases())
def test_the_handlers_come_and_go_and_nothing_else_changes(
    machine: Machine, apply: Callable[[Edit], None], version: str, kind: str
) -> None:
    program = PROGRAMS[version]
    assert f"{version}." in machine.exec([program, "--version"])

    def dump() -> str:
        return machine.exec([program, "--config", str(MAIN), "config", "dump"])

    if kind == "its own default":
        text = machine.exec([program, "config", "default"])
    else:
        text = FILES[kind] if kind in FILES else (machine.directory / DEBIANS).read_text()
    if text:
        apply(Edit(path=MAIN, text=text))
    before = dump()
    assert containerd.handlers_of(before) == frozenset()
    main = ConfigFile(path=MAIN, text=text)
    edits = containerd.install(main, wanted=containerd.OURS).edits
    for edit in edits:
        apply(edit)
    after = dump()
    assert containerd.handlers_of(after) == set(containerd.OURS)
    assert containerd.without_handlers(after) == containerd.without_handlers(before)
    files = {MAIN: main} | {e.path: ConfigFile(path=e.path, text=e.text or "") for e in edits}
    for edit in containerd.remove(tuple(files.values())):
        apply(edit)
    assert dump() == before
