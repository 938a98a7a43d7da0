"""What a node can restore is read from its processors and its CRIU."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.daemon.host import Host
from architect.daemon.node_facts import NodeFacts, cpu_features


def test_features_are_those_of_every_processor() -> None:
    x86 = "processor\t: 0\nflags\t\t: fpu avx sse\n\nprocessor\t: 1\nflags\t\t: sse fpu\n"
    assert cpu_features(x86) == ("fpu", "sse")
    assert cpu_features("processor\t: 0\nFeatures\t: fp asimd\n") == ("asimd", "fp")
    assert cpu_features("") == ()


@pytest.mark.parametrize(
    ("says", "version"), [("Version: 4.2.1", "4.2.1"), ("no idea", ""), (None, "")]
)
def test_the_version_is_that_of_the_installed_criu(
    tmp_path: Path, says: str | None, version: str
) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/architect-criu"
    if says is not None:
        program.write_text(f"#!/bin/sh\necho '{says}'\n")
        program.chmod(0o755)
    host = Host(root=Path("/"), is_entered=False)
    found = NodeFacts(host, current=tmp_path).requirements
    assert found.criu == version
    assert found.architecture
    assert found.cpu_features == tuple(sorted(found.cpu_features))


def tells(bundle: Path, version: str) -> None:
    (bundle / "bin").mkdir(parents=True)
    program = bundle / "bin/architect-criu"
    program.write_text(f"#!/bin/sh\necho 'Version: {version}'\n")
    program.chmod(0o755)


def test_a_daemon_that_installs_another_criu_tells_that_one(tmp_path: Path) -> None:
    facts = NodeFacts(Host(root=Path("/"), is_entered=False), current=tmp_path / "current")
    assert facts.requirements.criu == "", "nothing is installed yet"
    for version in ("4.2.1", "4.3"):
        tells(tmp_path / version, version)
        (tmp_path / "new").symlink_to(version)
        (tmp_path / "new").rename(tmp_path / "current")
        assert facts.requirements.criu == version
