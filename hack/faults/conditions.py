"""What a run was made under, as one line of text."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from architect.api import names
from bench.conditions import Host, version_word
from faults import CHECKOUT
from lab.node import Node

UNIFIED: Final = Path("/sys/fs/cgroup/cgroup.controllers")


def conditions() -> str:
    """Return commit, kernel, cores and the lower runtime's version, of this machine."""
    return _line(_commit(), _said("runc", "--version"))


def in_cluster(node: Node, *, is_attached: bool) -> str:
    """As :func:`conditions`, in a cluster. *is_attached*: with what was installed there before."""
    bundle = os.path.basename(node.exec(["readlink", names.CURRENT]).strip())
    what = f"Architect {bundle} as it was installed" if is_attached else _commit()
    return _line(what, node.exec(["runc", "--version"]))


def _line(what: str, runc: str) -> str:
    host = Host.read(
        cgroup_version=2 if UNIFIED.exists() else 1, versions={"runc": version_word(runc)}
    )
    return f"{what}; {host.text()}"


def _commit() -> str:
    return f"commit {_said('git', '-C', str(CHECKOUT), 'rev-parse', '--short', 'HEAD').strip()}"


def _said(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
