from __future__ import annotations

import os
import subprocess
import sys

import pytest

PREPARE = (
    "from lab import commands, errors, waiting\ntry: {}\nexcept errors.LabError as e: print(e)"
)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("waiting.until(lambda: False, what='it', timeout_seconds=0.01)", "it: not within 0.03 s"),
        ("commands.run(['sleep', '60'], timeout_seconds=0.01)", "not finished after 0.03 s"),
    ],
)
def test_every_deadline_is_longer_on_a_slow_machine(call: str, said: str) -> None:
    env = {**os.environ, "ARCHITECT_PATIENCE": "3", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE.format(call)], capture_output=True, text=True, env=env
    )
    assert said in done.stdout, done.stderr
