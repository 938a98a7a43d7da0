"""Who of the kernel tests runs in one process with whom, and after whom."""

from __future__ import annotations

import pytest

from support import units
from support.runtime import CHECKOUT


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/kernel/shim/test_init.py::test_it[a::b/c]", "tests/kernel/shim/test_init.py"),
        ("tests/kernel/test_criu_server.py::test_it", "tests/kernel/test_criu_server.py"),
        ("tests/kernel/gvisor/test_pods.py::test_it", "tests/kernel/gvisor"),
        ("tests/kernel/faults/test_power.py::test_it[1]", "tests/kernel/faults/test_power.py"),
    ],
)
def test_a_unit_is_a_file_or_a_folder_with_a_machine(nodeid: str, name: str) -> None:
    assert units.unit(nodeid) == name


def test_faults_are_tried_before_there_is_a_machine_that_they_would_end() -> None:
    names = ["tests/kernel/shim/test_a.py", "tests/kernel/gvisor", "tests/kernel/faults/test_b.py"]
    assert sorted(names, key=units.turn) == names[::-1]


def test_the_folders_are_there() -> None:
    for folder in (*units.FIRST, *units.WHOLE):
        assert list((CHECKOUT / folder).glob("test_*.py")), folder


def test_what_lasts_for_a_session_is_made_in_one_process() -> None:
    """A machine that several units ask for would be made once for each process."""
    for conftest in (CHECKOUT / "tests/kernel").glob("*/conftest.py"):
        makes_machine = "machine.create(" in conftest.read_text()
        assert makes_machine is (f"tests/kernel/{conftest.parent.name}" in units.WHOLE), conftest
