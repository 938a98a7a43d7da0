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
