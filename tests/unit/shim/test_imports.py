from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from support.runtime import CHECKOUT

ROOTS = [str(CHECKOUT / root) for root in ("common", "shim")]
ALWAYS_SLOW = {
    *("asyncio", "argparse", "ctypes", "grpc", "hashlib", "http", "inspect", "logging"),
    *("dataclasses", "multiprocessing", "shutil", "subprocess", "tempfile", "threading"),
}

LARGE = {
    *("asyncio", "argparse", "ast", "bz2", "hashlib", "http", "inspect", "lzma", "random", "runpy"),
    *("multiprocessing", "shutil", "ssl", "subprocess", "tempfile"),
}
"""Every node's memory pays for what its keeper imports: 2.5 MB for those that it once had."""


def run(code: str) -> str:
    """Run *code* in an interpreter started as on nodes; return what it prints."""
    code = f"import sys; sys.path += {ROOTS!r}\n{textwrap.dedent(code)}"
    done = subprocess.run(
        [sys.executable, "-ISB", "-c", code], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("architect.shim.__main__, architect.shim.commands", ALWAYS_SLOW),
        # A policy is made of dataclasses, which import inspect.
        (
            "architect.shim.__main__, architect.shim.create",
            ALWAYS_SLOW - {"dataclasses", "inspect"},
        ),
        ("architect.shim.keeper.__main__", LARGE),
        ("architect.shim.gvisor.__main__", ALWAYS_SLOW),
        ("architect.shim.gvisor.create", ALWAYS_SLOW - {"dataclasses", "inspect"}),
    ],
)
def test_what_engines_and_nodes_wait_for_imports_nothing_slow_or_large(
    modules: str, unwanted: set[str]
) -> None:
    said = run(
        f"before = set(sys.modules)\nimport {modules}\nprint(*sorted(set(sys.modules) - before))"
    )
    loaded = {name.partition(".")[0] for name in said.split()}
    assert not loaded & unwanted
    assert loaded - {"architect"} <= set(sys.stdlib_module_names)


def test_what_dataclasses_needs_of_inspect_besides_is_the_real_ones() -> None:
    said = run(
        """
        from architect.shim import frugal
        frugal.import_dataclasses()
        assert "inspect" not in sys.modules
        from dataclasses import dataclass, fields

        @dataclass
        class Documented:
            \"\"\"It needs no signature.\"\"\"
            number: int

        @dataclass
        class Derived(Documented):
            \"\"\"Nor does this; what it inherits is not its own.\"\"\"
            text: str = ""

        assert "inspect" not in sys.modules
        print([each.name for each in fields(Derived)])

        @dataclass
        class Bare:
            number: int = 1

        print(Bare.__doc__)
        import inspect
        print(inspect.signature(Derived))
        """
    )
    assert said.splitlines() == [
        "['number', 'text']",
        "Bare(number: int = 1)",
        "(number: int, text: str = '') -> None",
    ]
