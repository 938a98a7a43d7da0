"""The doubles as programs, as tests of whole machines run them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.patience import patient
from unit.daemon.notices.conftest import Watching

TESTS = Path(__file__).parents[3]


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_double_announces_and_takes_back_what_it_is_told(cloud: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "support.cloudmetadata", cloud, "127.0.0.1", "0"],
        cwd=TESTS,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None

        def tell(command: str) -> str:
            program.stdin.write(f"{command}\n")  # type: ignore[union-attr]
            program.stdin.flush()  # type: ignore[union-attr]
            return program.stdout.readline().strip()  # type: ignore[union-attr]

        url = program.stdout.readline().strip()
        with Watching(cloud, endpoint=url, notice_seconds=1000.0) as watching:
            ends = tell("notice 1000")
            found = watching.one()
            if cloud == "gcp":
                assert ends == "-", "Google does not say when"
            else:
                assert found.ends_unix == float(ends)
            left = found.seconds_left(time.monotonic())
            assert left is not None
            assert 1000 - patient(60) < left <= 1000
            assert tell("withdraw") == "-"
            watching.until(lambda: not watching.lookout.standing())
        assert tell("explode").startswith("not understood")
        program.stdin.close()
        assert program.wait(patient(20.0)) == 0
