"""Every parser of what comes from outside, given some thousand inputs: the same ones each time.

``make fuzz`` does the same for as long as one likes, led by what the inputs reach.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from fuzz import harness
from fuzz.harness import Target

RUNS: Final = 2000


@pytest.mark.parametrize("name", harness.names())
def test_nothing_but_what_it_declares_comes_out_of_a_parser(name: str) -> None:
    # What is refused is logged; ten thousand lines of it help nobody.
    logging.disable()
    last = b""
    target = Target.load(name)
    try:
        for data in target.inputs(RUNS):
            last = data
            target.run(data)
    except BaseException:
        print(f"{target.name} breaks at {last!r}")
        raise
    finally:
        logging.disable(logging.NOTSET)


def test_each_target_is_told_of_in_the_documentation() -> None:
    text = (harness.HERE.parents[1] / "docs" / "security.md").read_text()
    table = text[text.index("## What is fuzzed") :].split("\n## ", 1)[0]
    told = {word for line in table.splitlines() for word in re.findall(r"`(\w+)`", line[-80:])}
    assert set(harness.names()) <= told


BREAKS = """
from fuzz import mutations

MUTATE = mutations.raw


def seeds():
    yield b"all is well"


def run(data):
    if data.startswith(b"{"):
        raise RuntimeError("it breaks")
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="atheris is made for amd64 only")
def test_an_input_that_breaks_its_parser_is_kept_and_can_be_run_again(tmp_path: Path) -> None:
    target = tmp_path / "fuzz" / "targets" / "breaks.py"
    target.parent.mkdir(parents=True)
    target.write_text(BREAKS)

    def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fuzz", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": f"{harness.HERE.parent}:{tmp_path}"},
            capture_output=True,
            text=True,
            check=False,
        )

    found = fuzz("breaks", "--seconds", 200, "--into", tmp_path / "build")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "RuntimeError: it breaks" in found.stdout
    (kept,) = (tmp_path / "build" / "breaks" / "broken").iterdir()
    assert f"make fuzz AGAIN={kept}" in found.stdout
    again = fuzz("--again", kept)
    assert again.returncode != 0
    assert "RuntimeError: it breaks" in again.stderr
