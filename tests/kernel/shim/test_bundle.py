"""The whole bundle, in a root that holds nothing else."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from support.patience import patient
from support.runtime import CHECKOUT, SYSTEM_PYTHON

DEADLINE_SECONDS = patient(240.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    for name in ("proc", "dev", "run", "tmp"):
        (root / name).mkdir()
    subprocess.run(
        [
            *("nice", SYSTEM_PYTHON, CHECKOUT / "shim/bundle.py"),
            *("--output", root / "opt/architect", "--version", "1.2.3"),
        ],
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    return root


def inside(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = 'mount -t proc proc "$0/proc"; exec chroot "$0" "$@"'
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, root, *words],
        text=True,
        capture_output=True,
        timeout=DEADLINE_SECONDS,
    )


def test_it_runs_where_there_is_no_python_no_libc_and_no_shell(root: Path) -> None:
    done = inside(root, "/opt/architect/current/bin/architect-runtime", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: architect-runtime" in done.stdout


def test_everything_that_the_keeper_needs_is_in_it(root: Path) -> None:
    code = (
        "import sys; sys.path.append('/opt/architect/1.2.3/site')\n"
        "import architect.shim.keeper.__main__, architect.shim.runtime_command\n"
        "import ssl, ctypes, hashlib, threading\n"
        "thread = threading.Thread(target=print, args=('from a thread',)); thread.start()\n"
        "thread.join(); ssl.create_default_context()\n"
        "print(all(m.__file__.startswith('/opt/architect/1.2.3/') for m in sys.modules.values()"
        " if getattr(m, '__file__', None)))"
    )
    version = "/opt/architect/1.2.3"
    loader = [f"{version}/lib/loader", "--inhibit-cache", "--library-path", f"{version}/lib"]
    done = inside(root, *loader, f"{version}/python/bin/python3", "-ISB", "-c", code)
    assert done.stdout == "from a thread\nTrue\n", done.stderr


def test_an_unmanaged_call_needs_no_interpreter(root: Path) -> None:
    done = inside(root, "/opt/architect/current/bin/runc-architect", "--version")
    assert done.returncode == 1
    assert "no runc or crun found" in done.stderr
    assert "/opt/architect/runtime.conf" in done.stderr


def test_without_gvisor_its_runtime_says_so(root: Path) -> None:
    done = inside(root, "/opt/architect/current/bin/runsc-architect", "--version")
    assert done.returncode == 1
    assert "no runsc found" in done.stderr
    assert "/opt/architect/runtime.conf" in done.stderr


def test_the_manifest_is_complete_and_true(root: Path) -> None:
    version = root / "opt/architect/1.2.3"
    manifest = json.loads((version / "MANIFEST.json").read_text())
    assert (manifest["version"], manifest["bundle"]) == (1, "1.2.3")
    found = {
        str(path.relative_to(version))
        for path in version.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    assert found == {*manifest["files"], "MANIFEST.json"}
    for name, entry in manifest["files"].items():
        path = version / name
        if "link" in entry:
            assert str(path.readlink()) == entry["link"]
        else:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
            assert path.stat().st_mode & 0o7777 == entry["mode"]
    sha = manifest["init_sha256"]
    assert (version / "init.sha256").read_text() == f"{sha}\n"
    filed = root / "opt/architect/init" / sha / "init"
    assert hashlib.sha256(filed.read_bytes()).hexdigest() == sha
    assert filed.stat().st_mode & 0o777 == 0o755


def test_nothing_of_it_is_dynamically_linked_where_the_container_or_the_engine_calls_it(
    root: Path,
) -> None:
    for name in ("architect-init", "runc-architect", "architect-warden", "architect-anchor"):
        program = (root / "opt/architect/current/bin" / name).read_bytes()
        assert b"ld-linux" not in program
        assert b"ld-musl" not in program
        assert len(program) < 200_000
