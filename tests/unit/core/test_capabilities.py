from __future__ import annotations

import pytest

from architect.core import capabilities


@pytest.mark.parametrize(
    ("held", "refused"),
    [
        ([], []),
        (["NET_ADMIN", "CAP_KILL"], []),
        (["sys_ptrace"], ["CAP_SYS_PTRACE"]),
        (["CAP_SYS_ADMIN", "SYS_ADMIN"], ["CAP_SYS_ADMIN"]),
        (["all"], ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]),
        (["SYS_PTRACE_NOT"], []),
    ],
)
def test_names_are_taken_as_the_api_takes_them(held: list[str], refused: list[str]) -> None:
    assert capabilities.refused(held) == refused


def test_masks_of_the_kernel_are_read() -> None:
    assert capabilities.refused_of_mask(0) == []
    assert capabilities.refused_of_mask(0xA80425FB) == []  # an engine's default set
    assert capabilities.refused_of_mask(1 << 19) == ["CAP_SYS_PTRACE"]
    assert capabilities.refused_of_mask(0x1FFFFFFFFFF) == sorted(capabilities.REFUSED)


def test_each_is_explained_by_name() -> None:
    said = capabilities.explained(["CAP_SYS_PTRACE"])
    assert said.startswith("CAP_SYS_PTRACE: ")
