from __future__ import annotations

import subprocess
import sys

import pytest

from support.runtime import CHECKOUT

ROOTS = [str(CHECKOUT / root) for root in ("common", "shim")]
ALWAYS_SLOW = {
    *("asyncio", "argparse", "ctypes", "grpc", "hashlib", "http", "inspect", "logging"),
    *("dataclasses", "multiprocessing", "shutil", "subprocess", "tempfile", "threading"),
}


@pytest.mark.parametrize(
    ("modules", "slow"),
    [
        ("architect.shim.__main__, architect.shim.commands", ALWAYS_SLOW),
        # A policy is made of dataclasses, which import inspect.
        (
            "architect.shim.__main__, architect.shim.create",
            ALWAYS_SLOW - {"dataclasses", "inspect"},
        ),
    ],
)
def test_what_engines_wait_for_imports_nothing_slow(modules: str, slow: set[str]) -> None:
    code = (
        f"import sys; sys.path += {ROOTS!r}\n"
        f"before = set(sys.modules)\nimport {modules}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-ISB", "-c", code], check=True, capture_output=True, text=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & slow
    assert loaded - {"architect"} <= set(sys.stdlib_module_names)
