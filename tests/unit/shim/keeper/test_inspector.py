"""What a look at a pod's processes says to the keeper, with a program in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architect.core.errors import NodeError, Rejected
from architect.shim import installation
from architect.shim.inspection.findings import About, Finding
from architect.shim.keeper import inspector
from architect.shim.keeper.inspector import Inspector
from architect.shim.keeper.loop import Task
from support.programs import ProgramLoop

Look = Callable[[str], list[Finding]]

FOUND = Finding(
    container="app",
    reason="Socket",
    message="process 7 has a socket",
    hint="close it",
    is_blocking=False,
    about=About.CONTAINER,
)


@pytest.fixture
def world() -> Iterator[ProgramLoop]:
    made = ProgramLoop()
    with made.reaping():
        yield made


@pytest.fixture
def look(world: ProgramLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """Have the program be a script."""
    program = tmp_path / "architect-runtime"
    monkeypatch.setattr(installation, "program", lambda name: tmp_path / name)

    def looked(script: str) -> list[Finding]:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return world.finish(Inspector(world.programs).look("uid-1"))

    return looked


def test_what_was_found_is_handed_on(look: Look, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    many = [vars(FOUND) | {"message": f"process {n}"} for n in range(200)]
    answer.write_text(json.dumps({"findings": [vars(FOUND), *many]}))
    found = look(f'echo "$@" > {tmp_path}/asked; cat {answer}')
    assert (tmp_path / "asked").read_text() == "inspect uid-1 --output json\n"
    assert (found[0], len(found)) == (FOUND, 201)


@pytest.mark.parametrize(
    "script",
    [
        "echo Traceback >&2; exit 1",
        "kill -9 $$",
        "echo nothing",
        """echo '{"findings": [7]}'""",
        """echo '{"findings": [{"container": 1, "reason": "", "message": "", "hint": "",
        "is_blocking": true, "about": "pod"}]}'""",
    ],
)
def test_without_an_answer_nothing_is_known(look: Look, script: str) -> None:
    with pytest.raises(NodeError, match="has failed") as caught:
        look(script)
    assert caught.value.reason == "NotInspected"


def test_a_look_that_hangs_is_ended(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "LIMIT_SECONDS", 0.2)
    with pytest.raises(NodeError, match="has no answer"):
        look("exec sleep 1000")


def test_a_pod_is_not_looked_at_twice_at_once(
    world: ProgramLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "architect-runtime"
    program.write_text("""#!/bin/sh\necho '{"findings": []}'\n""")
    program.chmod(0o755)
    monkeypatch.setattr(installation, "program", lambda name: tmp_path / name)
    one = Inspector(world.programs)

    def both() -> Task[list[Finding]]:
        first = world.loop.spawn(one.look("uid-1"), name="first")
        with pytest.raises(Rejected, match="being looked at"):
            yield from one.look("uid-1")
        assert (yield from one.look("uid-2")) == []
        yield first
        return (yield from one.look("uid-1"))

    assert world.finish(both()) == []
