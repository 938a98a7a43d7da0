"""What a look at a pod's volumes says to the keeper, with a program in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.core import wire
from architect.core.errors import NodeError, Rejected
from architect.shim import installation
from architect.shim.keeper import volumes
from architect.shim.keeper.volumes import Volumes
from support.programs import ProgramLoop

Look = Callable[[str], None]


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """Have the program be a script."""
    program = tmp_path / "architect-runtime"
    monkeypatch.setattr(installation, "program", lambda name: tmp_path / name)
    world = ProgramLoop()

    def looked(script: str) -> None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        world.finish(Volumes(world.programs).check("uid-1"))

    with world.reaping():
        yield looked


def test_what_is_as_it_was_is_no_error(look: Look, tmp_path: Path) -> None:
    look(f'echo "$@" > {tmp_path}/asked; echo all is well')
    assert (tmp_path / "asked").read_text() == "check-volumes uid-1 --output json\n"


@pytest.mark.parametrize(
    "error",
    [
        NodeError("volume data was written", reason="VolumeChanged", hint="no newer data"),
        Rejected("more than 1000000 files", reason="VolumeTooLarge"),
    ],
)
def test_an_answer_is_raised_as_it_was_meant(look: Look, error: NodeError | Rejected) -> None:
    answer = json.dumps(wire.failure(error))
    with pytest.raises(type(error), match=error.message) as caught:
        look(f"echo a warning >&2; echo '{answer}'; exit {error.exit_code}")
    assert getattr(caught.value, "reason", "") == error.reason


@pytest.mark.parametrize("script", ["echo Traceback >&2; exit 1", "kill -9 $$", "exit 3"])
def test_without_an_answer_nothing_runs(look: Look, script: str) -> None:
    with pytest.raises(NodeError, match="has failed") as caught:
        look(script)
    assert caught.value.reason == "VolumeUnknown"


def test_one_that_takes_too_long_is_ended(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "LIMIT_SECONDS", 0.2)
    with pytest.raises(NodeError, match="has no answer after 0 s"):
        look("exec sleep 4324")
