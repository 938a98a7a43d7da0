"""CRI-O's drop-in: our handler is like its default one, wherever that is configured."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from architect.core.errors import ConfigError
from architect.daemon import crio
from architect.daemon.containerd import ConfigFile
from architect.daemon.engine import read_crio
from architect.daemon.host import Host

DIRECTORY = Path("/etc/crio/crio.conf.d")
BINARY = "/opt/architect/current/bin/runc-architect"
MAIN = ConfigFile(
    path=DIRECTORY.parent / "crio.conf", text='[crio.runtime]\ndefault_runtime = "runc"\n'
)
PACKAGED = ConfigFile(
    path=DIRECTORY / "10-crio.conf",
    text="""
[crio.runtime]
default_runtime = "crun"
[crio.runtime.runtimes.crun]
runtime_path = "/usr/libexec/crio/crun"
runtime_root = "/run/crun"
monitor_path = "/usr/libexec/crio/conmon"
allowed_annotations = ["io.containers.trace-syscall"]
platform_runtime_paths = { "linux/arm64" = "/usr/libexec/crio/crun-arm64" }
[crio.runtime.runtimes.runc]
runtime_path = "/usr/libexec/crio/runc"
monitor_path = "/usr/libexec/crio/conmon"
""",
)


def handler(*files: ConfigFile) -> dict[str, Any]:
    (edit,) = crio.install(DIRECTORY, files).edits
    assert edit.path == DIRECTORY / "90-architect.conf"
    found = tomllib.loads(edit.text or "")["crio"]["runtime"]["runtimes"]
    return dict(found["runc-architect"])


def test_it_gets_one_file_and_loses_it_again() -> None:
    (edit,) = crio.install(DIRECTORY, [MAIN]).edits
    assert edit.text is not None
    ours = ConfigFile(path=edit.path, text=edit.text)
    assert crio.install(DIRECTORY, [MAIN, ours]).edits == ()
    assert crio.remove(DIRECTORY, current=edit.text)[0].text is None
    assert crio.remove(DIRECTORY, current=None) == ()


def test_the_handler_has_the_monitor_of_the_default_one() -> None:
    assert handler(MAIN, PACKAGED) == {
        "runtime_path": BINARY,
        "runtime_type": "oci",
        "runtime_root": "/run/crun",
        "monitor_path": "/usr/libexec/crio/conmon",
        "allowed_annotations": ["io.containers.trace-syscall"],
    }
    assert crio.install(DIRECTORY, [PACKAGED]).lower_runtime == "/usr/libexec/crio/crun"


def test_the_last_file_has_the_last_word() -> None:
    admins = ConfigFile(
        path=DIRECTORY / "99-admin.conf", text='[crio.runtime]\ndefault_runtime = "runc"\n'
    )
    assert crio.install(DIRECTORY, [PACKAGED, admins]).lower_runtime == "/usr/libexec/crio/runc"
    assert handler(PACKAGED, admins)["runtime_root"] == "/run/runc"


def test_a_default_handler_of_another_kind_is_no_model() -> None:
    kata = ConfigFile(
        path=DIRECTORY / "50-kata.conf",
        text="""
[crio.runtime]
default_runtime = "kata"
[crio.runtime.runtimes.kata]
runtime_path = "/usr/bin/containerd-shim-kata-v2"
runtime_type = "vm"
""",
    )
    plain = {"runtime_path": BINARY, "runtime_type": "oci", "runtime_root": "/run/runc"}
    assert handler(kata) == handler() == plain
    assert crio.install(DIRECTORY, [kata]).lower_runtime == ""


def test_our_own_file_is_no_model() -> None:
    (edit,) = crio.install(DIRECTORY, [MAIN]).edits
    ours = ConfigFile(path=edit.path, text=edit.text or "")
    text = '[crio.runtime]\ndefault_runtime = "runc-architect"\n'
    admins = ConfigFile(path=DIRECTORY / "99-admin.conf", text=text)
    assert crio.install(DIRECTORY, [MAIN, ours, admins]).lower_runtime == ""


@pytest.mark.parametrize("text", ["[crio", "crio = 1", "[crio]\nruntime = [1]\n"])
def test_what_is_no_configuration_is_told_with_its_file(text: str) -> None:
    broken = ConfigFile(path=DIRECTORY / "50-broken.conf", text=text)
    with pytest.raises(ConfigError, match="50-broken"):
        crio.install(DIRECTORY, [broken])


def test_the_files_are_read_as_crio_reads_them(tmp_path: Path) -> None:
    host = Host(root=tmp_path, is_entered=False)
    assert read_crio(DIRECTORY, host) == ()
    directory = host.path(DIRECTORY)
    directory.mkdir(parents=True)
    (directory.parent / "crio.conf").write_text("a")
    (directory / "not-a-file").mkdir()
    for name in ("90-architect.conf", "10-crio.conf"):
        (directory / name).write_text("b")
    found = [file.path.name for file in read_crio(DIRECTORY, host)]
    assert found == ["crio.conf", "10-crio.conf", "90-architect.conf"]
