"""Saved pods on the disk: whole or not there, whatever was cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from architect.core.errors import FormatError, NodeError
from architect.daemon.moves.depot import Decided, Depot


def slept(state: Path, uid: str, *containers: str) -> None:
    for name in containers:
        image = state / "pods" / uid / name / "image"
        image.mkdir(parents=True)
        (image / "inventory.img").write_text(name)
        (image.parent / "meta.json").write_text("{}")


def depot_in(state: Path) -> Depot:
    return Depot(
        pods=state / "pods", checkpoints=state / "checkpoints", arrivals=state / "arrivals"
    )


def test_a_pod_leaves_and_comes_on_the_same_node(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    slept(tmp_path, "old", "app", "side")
    into = depot.begin_departure("old")
    assert depot.departures() == []
    depot.link_images("old", ["app", "side"], into=into)
    assert (tmp_path / "pods/old/app/image/inventory.img").exists()
    depot.finish_departure("old")
    assert not (tmp_path / "pods/old/app/image").exists()
    assert depot.departures() == ["old"]
    assert depot.departure("old") == tmp_path / "checkpoints/old"
    depot.move_here("old", to="new")
    assert depot.departures() == []
    assert depot.has_come("new", "app") and depot.has_come("new", "side")
    assert not depot.has_come("new", "other")
    arrived = depot.arrival("new")
    assert arrived is not None
    assert (arrived / "containers/side/image/inventory.img").read_text() == "side"


def test_half_a_departure_is_begun_anew_and_can_be_given_up(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    (depot.begin_departure("old") / "rest").write_text("x")
    assert list(depot.begin_departure("old").iterdir()) == []
    depot.give_up_departure("old")
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_image_that_is_missing_is_named(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    slept(tmp_path, "old", "app")
    with pytest.raises(NodeError, match="no image of container side"):
        depot.link_images("old", ["app", "side"], into=depot.begin_departure("old"))


def test_an_arrival_is_there_once_it_is_whole(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    target = depot.arrival_of("new")
    assert depot.arrival("new") is None
    (target / "containers/app/image").mkdir(parents=True)
    assert depot.has_come("new", "app")
    depot.drop_arrival("new")
    depot.drop_arrival("new")
    assert depot.arrivals() == []


def test_the_init_is_that_of_the_image(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    slept(tmp_path, "old", "app")
    meta = tmp_path / "pods/old/app/meta.json"
    meta.write_text('{"version": 1, "init_sha": "abc"}')
    assert depot.init_of("old", "app") == "abc"
    meta.write_text('{"version": 2, "init_sha": "abc"}')
    with pytest.raises(FormatError, match="version 2"):
        depot.init_of("old", "app")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b", "x" * 300])
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    depot = depot_in(tmp_path)
    with pytest.raises(NodeError, match="not usable"):
        depot.begin_departure(name)
    with pytest.raises(NodeError, match="not usable"):
        depot.drop_arrival(name)


def came(state: Path, uid: str) -> Path:
    image = state / "arrivals" / uid / "containers/app/image"
    image.mkdir(parents=True)
    (image / "inventory.img").write_text(uid)
    return state / "arrivals" / uid


def test_whoever_is_killed_while_he_gives_back_loses_nothing(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    came(tmp_path, "new").rename(tmp_path / "arrivals/new.gone")
    assert depot.give_back("new", departed="old")
    assert (tmp_path / "checkpoints/old/containers/app/image/inventory.img").read_text() == "new"
    assert not depot.give_back("new", departed="old"), "once"


def test_what_came_from_elsewhere_is_not_put_over_what_is_damaged_here(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    damaged = tmp_path / "checkpoints/old"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{}")
    came(tmp_path, "new")
    assert depot.give_back("new", departed="old")
    assert [p.name for p in damaged.iterdir()] == ["manifest.json"]
    assert list((tmp_path / "arrivals").iterdir()) == []


def test_what_another_version_decided_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    depot = depot_in(tmp_path)
    decided = Decided(namespace="default", name="web", reason="Claimed", checkpoint="old-move")
    depot.note("uid-1", decided)
    file = tmp_path / "arrivals/uid-1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fromTheNext": True}))
    assert depot.decided("uid-1") == decided
