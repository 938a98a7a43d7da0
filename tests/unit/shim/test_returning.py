"""What slept before a reboot becomes what came for its pod, whatever was cut on the way."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from architect.api import names, saved
from architect.api.keeper import PodState
from architect.core.errors import NodeError
from architect.shim import returning
from architect.shim.keeper import images, machinerun, podstate
from architect.shim.keeper.images import Meta
from architect.shim.keeper.podstate import Remembered
from architect.shim.oci import Identity

UID = "uid-a"


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's directories; its machine has been booted since whatever sleeps there."""
    monkeypatch.setattr(names, "STATE", tmp_path / "state")
    monkeypatch.setattr(names, "PODS", tmp_path / "state/pods")
    monkeypatch.setattr(names, "ARRIVALS", tmp_path / "state/arrivals")
    monkeypatch.setattr(names, "MACHINE_RUN", tmp_path / "machine-run")
    return tmp_path


def remember(phase: PodState = PodState.ASLEEP, **more: Any) -> None:
    podstate.write(UID, Remembered(phase=phase, since=1.0, **more))


def image(
    name: str = "app", *, run: str = "before", upper: Path | None = None, volatile: str = ""
) -> Path:
    directory = images.container_directory(UID, name)
    found = images.prepare(directory)
    (found / "inventory.img").write_text(name)
    (found / "dump.exit").write_text("0\n")
    Meta(
        tree_pid=2,
        highest_pid=9,
        pipes={},
        init_sha="sha",
        slept_at=1.0,
        run=run,
        upper=str(upper or ""),
        volatile=[volatile] if volatile else [],
    ).write(directory)
    return directory


def take_up(name: str = "app") -> bool:
    return returning.take_up(
        Identity(pod=UID, namespace="shop", pod_name="web-0", container=name, sandbox_id=None)
    )


def arrived(name: str = "app") -> Path:
    return images.arrival(UID, name)


def test_it_becomes_what_came_for_its_pod(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "file").write_text("written")
    remember()
    image(upper=upper)
    assert take_up()
    assert (arrived() / "image/inventory.img").read_text() == "app"
    assert Meta.read(arrived()).init_sha == "sha"
    assert (images.arrival_of_pod(UID) / saved.layer("app")).stat().st_size > 0
    assert images.came_asleep(UID) and images.has_returned(UID)
    returning.check(UID)
    # Asked again, as for a container that could not be made.
    assert take_up()
    # Its pod's daemon has nothing to do with it.
    assert not list(images.arrival_of_pod(UID).glob("manifest*"))


@pytest.mark.parametrize(
    "phase", [PodState.AWAKE, PodState.FALLING, PodState.WAKING, PodState.CAPTURED]
)
def test_a_pod_that_did_not_sleep_starts_anew(phase: PodState) -> None:
    remember(phase)
    image()
    assert not take_up()
    assert not images.arrival_of_pod(UID).exists()


@pytest.mark.parametrize("why", ["is_leaving", "goes_on"])
def test_a_pod_that_slept_for_something_else_starts_anew(why: str) -> None:
    remember(PodState.ASLEEP, **{why: True})
    image()
    assert not take_up()


def test_one_of_which_nothing_was_written_down_starts_anew() -> None:
    image()
    assert not take_up()


@pytest.mark.parametrize("run", ["", "now"])
def test_an_image_of_this_run_or_of_none_is_no_return(run: str) -> None:
    names.MACHINE_RUN.write_text("now\n")
    remember()
    image(run=run)
    assert not take_up()


def test_an_image_that_has_run_again_is_old() -> None:
    remember()
    image("beside")
    (image() / "image/restore.exit").write_text("0\n")
    assert not take_up()
    assert not take_up("beside")


def test_half_an_image_is_none() -> None:
    remember()
    (image() / "image/dump.exit").unlink()
    assert not take_up()


def test_all_containers_come_at_once_and_one_that_has_taken_it_is_left_alone() -> None:
    remember()
    image("app"), image("beside")
    assert take_up("app")
    assert (arrived("beside") / "image").is_dir()
    # The first one has adopted what came, in this run of the machine, and sleeps.
    machinerun.begin()
    images.adopt(images.container_directory(UID, "app"), arrival=arrived("app"))
    images.note_return(images.container_directory(UID, "app"), addresses=[], upper="", volatile=[])
    assert images.forget_return(UID)
    assert take_up("beside")
    assert not take_up("app")
    images.adopt(images.container_directory(UID, "beside"), arrival=arrived("beside"))
    assert images.forget_return(UID)
    assert not images.arrival_of_pod(UID).exists()
    assert not take_up("beside")


@pytest.mark.parametrize("cut", range(10))
def test_it_may_be_cut_at_any_moment(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(Exception):
        pass

    remember()
    image("app"), image("beside")
    steps = 0

    def counted(call: Callable[..., None]) -> Callable[..., None]:
        def counting(*words: Any, **more: Any) -> None:
            nonlocal steps
            if steps == cut:
                raise Cut
            steps += 1
            call(*words, **more)

        return counting

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", counted(os.rename))
        patched.setattr(os, "mkdir", counted(os.mkdir))
        with contextlib.suppress(Cut):
            take_up()
            assert steps < cut, "more steps than were cut"
    assert take_up("app")
    assert take_up("beside")
    for name in ("app", "beside"):
        assert (arrived(name) / "image/inventory.img").read_text() == name


def test_what_lay_in_memory_or_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    remember()
    image(volatile="/dev/shm", upper=tmp_path / "gone")
    assert take_up()
    with pytest.raises(NodeError, match=r"/, /dev/shm") as raised:
        returning.check(UID)
    assert raised.value.reason == returning.FILES_LOST


def test_what_came_from_elsewhere_goes_first() -> None:
    remember()
    image()
    arrived().mkdir(parents=True)
    assert not take_up()
    assert not images.forget_return(UID), "that is the daemon's"


def test_a_run_of_the_machine_has_one_name() -> None:
    assert machinerun.current() == ""
    machinerun.begin()
    name = machinerun.current()
    assert len(name) == 32
    machinerun.begin()
    assert machinerun.current() == name


def test_what_earlier_versions_wrote_is_read(tmp_path: Path) -> None:
    image()
    file = images.container_directory(UID, "app") / "meta.json"
    value = json.loads(file.read_text())
    del value["run"]
    file.write_text(json.dumps(value))
    assert Meta.read(file.parent).run == ""
