"""Assembles the bundle that nodes get: ``python3 shim/bundle.py --output DIR [--criu FILE]``.

Nodes need neither Python nor CRIU nor our libc, so the bundle carries them, taken from the system
that this script runs on::

    DIR/<version>/bin/      runc-architect, runsc-architect, architect-runtime, architect-warden,
                            architect-init, architect-anchor, architect-criu, runsc
    DIR/<version>/lib/      shared libraries and their loader (`loader` links to it)
    DIR/<version>/python/   the interpreter and what we use of its library
    DIR/<version>/site/     our packages
    DIR/<version>/MANIFEST.json, init.sha256, criu.version
    DIR/init/<sha256>/init  named by content: checkpoints refer to it
    DIR/current             links to <version>

``--link-python`` links to the running interpreter instead: for tests on the machine of the build.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
PACKAGES: Final = (
    "common/architect/api",
    "common/architect/core",
    "shim/architect/shim",
)
NATIVE: Final = ("architect-init", "runc-architect", "architect-warden", "architect-anchor")
MANIFEST_VERSION: Final = 1

UNUSED_LIBRARY: Final = frozenset(
    {
        *("__pycache__", "site-packages", "dist-packages", "lib-dynload", "test", "tests"),
        *("idlelib", "tkinter", "turtledemo", "turtle.py", "lib2to3", "ensurepip", "venv"),
        *("pydoc_data", "distutils", "unittest", "sqlite3", "curses", "dbm", "wsgiref", "xmlrpc"),
        *("sitecustomize.py", "usercustomize.py", "EXTERNALLY-MANAGED", "msilib"),
    }
)
UNUSED_EXTENSIONS: Final = re.compile(
    r"_(test|ctypes_test|xx|tkinter|sqlite3|curses|dbm|gdbm)|xx|readline|nis|ossaudiodev|audioop"
)
LOADED_AT_RUN_TIME: Final = ("libgcc_s.so.1",)
"""glibc opens it by name when a thread is cancelled or exits; ldd does not show it."""


def main() -> int:
    """Assemble the bundle and return the exit code."""
    options = _parse(sys.argv[1:])
    final = options.output / options.version
    work = options.output / f".{options.version}.{os.getpid()}.tmp"
    shutil.rmtree(work, ignore_errors=True)
    (work / "bin").mkdir(parents=True)
    try:
        sha = _native(work, options=options)
        if options.criu is not None:
            _copy_program(options.criu, work / "bin" / "architect-criu")
            (work / "criu.version").write_text(f"{_criu_version(options.criu)}\n")
        if options.runsc is not None:
            _copy_program(options.runsc, work / "bin" / "runsc")
        if options.link_python:
            (work / "python/bin").mkdir(parents=True)
            (work / "python/bin/python3").symlink_to(_interpreter())
        else:
            _python(work)
        _site(work)
        _manifest(work, bundle=options.version, init_sha=sha)
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _link(options.output / "current", options.version)
    size = sum(path.lstat().st_size for path in final.rglob("*"))
    print(f"{final}: {size / (1 << 20):.1f} MiB, init {sha[:12]}")
    return 0


def _native(work: Path, *, options: argparse.Namespace) -> str:
    """Place the static programs and file the init by its content; return its SHA-256."""
    build, output = options.native, options.output
    if build is None:
        build = work / "build"
        subprocess.run(
            ["make", "-C", CHECKOUT / "shim/native", f"OUT={build}", f"VERSION={options.version}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    for name in NATIVE:
        _copy_program(build / name, work / "bin" / name)
    shutil.rmtree(work / "build", ignore_errors=True)
    for name in ("architect-runtime", "runsc-architect"):
        (work / "bin" / name).symlink_to("runc-architect")
    init = (work / "bin/architect-init").read_bytes()
    sha = hashlib.sha256(init).hexdigest()
    (work / "init.sha256").write_text(f"{sha}\n")
    place = output / "init" / sha / "init"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f".init.{os.getpid()}")
        temporary.write_bytes(init)
        temporary.chmod(0o755)
        temporary.rename(place)
    return sha


def _criu_version(program: Path) -> str:
    """Return the version that *program* tells: of the images that it writes."""
    told = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    if found := re.search(r"^Version: ([0-9][0-9A-Za-z.]*)", told, re.MULTILINE):
        return found[1]
    raise SystemExit(f"{program} tells no version: {told!r:.200}")


def _interpreter() -> Path:
    return Path(sys.executable).resolve()


def _python(work: Path) -> None:
    """Copy the running interpreter, the used part of its library, and what they link to."""
    home = work / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = home / "lib" / version
    _copy_program(_interpreter(), home / "bin/python3")
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        library,
        ignore=lambda _, found: [
            name for name in found if name in UNUSED_LIBRARY or name.startswith("config-")
        ],
    )
    extensions = library / "lib-dynload"
    extensions.mkdir()
    source = Path(sysconfig.get_config_var("DESTSHARED") or "")
    if not source.is_dir():  # Debian names the directory of the build
        source = Path(sysconfig.get_path("stdlib")) / "lib-dynload"
    for extension in sorted(source.glob("*.so")):
        if not UNUSED_EXTENSIONS.match(extension.name):
            shutil.copy2(extension, extensions)
    _libraries(work, [home / "bin/python3", *extensions.glob("*.so")])
    _compile(library)


def _libraries(work: Path, programs: Iterable[Path]) -> None:
    needed: dict[str, Path] = {}
    loader: Path | None = None
    for program in programs:
        for path in _needed(program):
            needed[path.name] = path
            if path.name.startswith("ld-linux"):
                loader = path
    if loader is None:
        raise SystemExit(f"{_interpreter()} has no loader: is it a static build?")
    for name in LOADED_AT_RUN_TIME:
        beside = needed["libc.so.6"].with_name(name)
        if not beside.exists():
            raise SystemExit(f"{beside} is missing (hint: install libgcc-s1)")
        needed[name] = beside
    target = work / "lib"
    target.mkdir()
    for name, path in needed.items():
        shutil.copy2(path.resolve(), target / name)
        (target / name).chmod(0o755)
    (target / "loader").symlink_to(loader.name)


def _needed(program: Path) -> Iterator[Path]:
    """Yield the shared libraries of *program* and its loader, as ldd finds them."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        if "not found" in line:
            raise SystemExit(f"{program}: {line.strip()}")
        if match := re.search(r"(/\S+) \(0x", line):
            yield Path(match[1])


def _site(work: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(
            CHECKOUT / package,
            work / "site/architect" / Path(package).name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    _compile(work / "site")


def _compile(directory: Path) -> None:
    # Unchecked: the files never change, and comparing times would cost a stat for each import.
    subprocess.run(
        [
            *(_interpreter(), "-I", "-m", "compileall", "-q", "-j", "2"),
            *("--invalidation-mode", "unchecked-hash", directory),
        ],
        check=True,
    )


def _manifest(work: Path, *, bundle: str, init_sha: str) -> None:
    files = {
        str(path.relative_to(work)): _entry(path)
        for path in sorted(work.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }
    manifest = {
        "version": MANIFEST_VERSION,
        "bundle": bundle,
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "init_sha256": init_sha,
        "files": files,
    }
    (work / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _entry(path: Path) -> dict[str, str | int]:
    if path.is_symlink():
        return {"link": str(path.readlink())}
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sha256": sha, "mode": path.stat().st_mode & 0o7777}


def _copy_program(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _link(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.rename(link)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True, help="the installation's root")
    parser.add_argument("--criu", type=Path, help="the CRIU to carry")
    parser.add_argument("--runsc", type=Path, help="gVisor's runtime to carry; default: the host's")
    parser.add_argument("--native", type=Path, help="built programs; default: build them now")
    parser.add_argument("--version", default=_version(), help="default: pyproject.toml's")
    parser.add_argument("--link-python", action="store_true", help="do not carry an interpreter")
    options = parser.parse_args(arguments)
    options.output = options.output.absolute()
    return options


def _version() -> str:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


if __name__ == "__main__":
    sys.exit(main())
