from __future__ import annotations

import copy
from typing import Any

import pytest

from architect.shim.seccomp import ENOSYS, IO_URING, without_io_uring

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def denied(profile: dict[str, Any] | None) -> Any:
    before = copy.deepcopy(profile)
    result = without_io_uring(profile, machine="x86_64")
    assert profile == before
    return result


def action(profile: dict[str, Any], name: str) -> str:
    """What libseccomp does: the rule that names the call, else the default."""
    found = [rule["action"] for rule in profile["syscalls"] if name in rule["names"]]
    assert len(found) <= 1, "two rules name one call"
    return str(found[0] if found else profile["defaultAction"])


def test_an_unconfined_container_loses_io_uring_only() -> None:
    profile = denied(None)
    assert profile["defaultAction"] == ALLOW
    assert {action(profile, name) for name in IO_URING} == {ERRNO}
    assert action(profile, "read") == ALLOW
    assert profile["syscalls"][0]["errnoRet"] == ENOSYS
    assert "SCMP_ARCH_X86" in profile["architectures"]


def test_an_unconfined_container_of_an_unknown_architecture_is_left_alone() -> None:
    assert without_io_uring(None, machine="s390x") is None


@pytest.mark.parametrize(
    "profile",
    [
        {"defaultAction": ERRNO, "syscalls": [{"names": ["read"], "action": ALLOW}]},
        {"defaultAction": ERRNO, "syscalls": None},
        {"defaultAction": "SCMP_ACT_KILL", "syscalls": []},
        {"defaultAction": ALLOW, "syscalls": [{"names": [*IO_URING], "action": ERRNO}]},
        {"defaultAction": ALLOW, "syscalls": [{"names": ["io_uring_setup"], "action": "X"}]},
    ],
)
def test_a_profile_that_denies_it_is_not_touched(profile: dict[str, Any]) -> None:
    assert denied(profile) == profile


@pytest.mark.parametrize("allowing", [ALLOW, "SCMP_ACT_LOG"])
def test_a_profile_that_allows_it_is_changed_there_only(allowing: str) -> None:
    profile = {
        "defaultAction": ERRNO,
        "defaultErrnoRet": 1,
        "flags": ["x"],
        "syscalls": [
            {"names": ["read", *IO_URING, "write"], "action": allowing},
            {"names": ["io_uring_setup"], "action": allowing},
            {"names": ["mount"], "action": "SCMP_ACT_KILL"},
        ],
    }
    result = denied(profile)
    assert {action(result, name) for name in IO_URING} == {ERRNO}
    assert [action(result, n) for n in ("read", "write", "mount", "open")] == [
        allowing,
        allowing,
        "SCMP_ACT_KILL",
        ERRNO,
    ]
    assert {k: v for k, v in result.items() if k != "syscalls"} == {
        k: v for k, v in profile.items() if k != "syscalls"
    }


def test_a_profile_that_allows_everything_gets_the_denial() -> None:
    result = denied({"defaultAction": ALLOW})
    assert action(result, "io_uring_enter") == ERRNO
    assert action(result, "read") == ALLOW
