"""What the keeper remembers of a pod, written and read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from architect.api import names
from architect.api.keeper import PodState
from architect.core.errors import FormatError
from architect.daemon import images as daemon_images
from architect.daemon.moves.depot import Depot
from architect.shim.keeper import podstate
from architect.shim.keeper.podstate import Remembered

ASLEEP = Remembered(namespace="shop", name="web-0", phase=PodState.ASLEEP, since=1700000000.5)


@pytest.fixture(autouse=True)
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(names, "STATE", tmp_path)
    monkeypatch.setattr(names, "PODS", tmp_path / "pods")
    return tmp_path / "pods"


def written(pods: Path, value: Any) -> None:
    (pods / "uid").mkdir(parents=True, exist_ok=True)
    (pods / "uid/pod.json").write_text(json.dumps(value))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Remembered,
        namespace=st.text(),
        name=st.text(),
        phase=st.sampled_from(PodState),
        since=st.floats(allow_nan=False, allow_infinity=False),
        since_boot=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        reason=st.text(),
        refused=st.none() | st.fixed_dictionaries({"reason": st.text(), "message": st.text()}),
        network=st.none() | st.dictionaries(st.text(), st.integers()),
        is_leaving=st.booleans(),
        sleeps_to_leave=st.booleans(),
        goes_on=st.booleans(),
        signalled=st.dictionaries(st.text(), st.text()),
    )
)
def test_what_is_written_is_read_again(pod: Remembered) -> None:
    podstate.write("uid", pod)
    assert podstate.read("uid") == pod


def test_nobody_else_may_read_it(pods: Path) -> None:
    podstate.write("uid", ASLEEP)
    for path, mode in ((pods, 0o700), (pods / "uid", 0o700), (pods / "uid/pod.json", 0o600)):
        assert path.stat().st_mode & 0o777 == mode


def test_the_least_that_was_ever_written_is_read(pods: Path) -> None:
    written(pods, {"version": 1, "phase": "falling", "since": 0})
    assert podstate.read("uid") == Remembered(phase=PodState.FALLING, since=0.0)


@pytest.mark.parametrize("leaving", [True, False])
def test_a_version_that_noted_only_that_a_pod_leaves_is_read(pods: Path, leaving: bool) -> None:
    written(pods, {"version": 1, "phase": "asleep", "since": 0, "leaving": leaving})
    found = podstate.read("uid")
    assert (found.is_leaving, found.sleeps_to_leave) == (leaving, leaving)


@pytest.mark.parametrize(
    "value",
    [
        {"version": 2, "phase": "asleep", "since": 0},
        {"version": 1, "since": 0},
        {"version": 1, "phase": "asleep"},
        {"version": 1, "phase": "dreaming", "since": 0},
        {"version": 1, "phase": "asleep", "since": None},
        {"version": 1, "phase": "asleep", "since": 0, "signalled": 5},
        [],
    ],
)
def test_what_cannot_be_read_is_told_with_its_file(pods: Path, value: Any) -> None:
    written(pods, value)
    with pytest.raises(FormatError, match=r"/uid/pod\.json: "):
        podstate.read("uid")


def test_nothing_written_is_another_error() -> None:
    with pytest.raises(FileNotFoundError):
        podstate.read("uid")


def test_the_daemon_finds_in_it_whose_the_directory_is_and_who_has_left(pods: Path) -> None:
    depot = Depot(pods=pods)
    podstate.write("uid", ASLEEP)
    (found,) = daemon_images.stored(pods)
    assert (found.uid, found.namespace, found.name) == ("uid", "shop", "web-0")
    assert not depot.has_left("uid")
    podstate.write("uid", replace(ASLEEP, phase=PodState.CAPTURED))
    assert depot.has_left("uid")
