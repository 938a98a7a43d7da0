"""Makes the virtual environment of one image: ``python3 environment.py DIRECTORY EXTRA``.

It has the dependencies that ``pyproject.toml``, beside this file or above it, lists for EXTRA, and
looks for our own code in ``/app``, which the Dockerfiles fill last: a change of ours then costs no
installation. pip stays behind.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any, Final

CODE: Final = "/app"


def main() -> int:
    """Make the environment and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("extra")
    options = parser.parse_args()
    project = tomllib.loads(_project_file().read_text())["project"]
    venv.create(options.directory, with_pip=False, symlinks=True)
    python = options.directory / "bin/python3"
    with tempfile.TemporaryDirectory() as helper:
        venv.create(helper, with_pip=True, symlinks=True)
        pip = [f"{helper}/bin/pip", "--python", str(python), "--disable-pip-version-check"]
        install = [*pip, "install", "--no-cache-dir", "--no-compile"]
        subprocess.run([*install, *requirements(project, options.extra)], check=True)
    major, minor = sys.version_info[:2]
    site = options.directory / f"lib/python{major}.{minor}/site-packages"
    (site / "architect.pth").write_text(f"{CODE}\n")
    information = site / distribution(project)
    information.mkdir()
    (information / "METADATA").write_text(metadata(project))
    subprocess.run([python, "-m", "compileall", "-q", options.directory], check=True)
    return 0


def requirements(project: dict[str, Any], extra: str) -> list[str]:
    """Return what pip is to install."""
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def distribution(project: dict[str, Any]) -> str:
    """Return the name of the directory by which ``importlib.metadata`` knows our version."""
    return f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"


def metadata(project: dict[str, Any]) -> str:
    """Return the text of METADATA."""
    return f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"


def _project_file() -> Path:
    here = Path(__file__).resolve().parent
    return next(p for p in (here / "pyproject.toml", here.parent / "pyproject.toml") if p.exists())


if __name__ == "__main__":
    sys.exit(main())
