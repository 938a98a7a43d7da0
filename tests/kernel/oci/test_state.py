"""``state`` and ``list``: what the specification has a runtime tell of a container."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Any

import pytest

from support.kinds import Making
from support.runtime import DEADLINE_SECONDS, Container, spec

VERSION = re.compile(r"\d+\.\d+(\.\d+)?(-[0-9A-Za-z.-]+)?")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
ODD = {"org.example/empty": "", "org.example.text": 'two "words",\n\u00fc', "plain": "1"}
"""Annotations that a runtime has to give back as they are."""


def state(container: Container) -> dict[str, Any]:
    return dict(json.loads(container.call("state", container.id).stdout))


def listed(container: Container) -> dict[str, Any]:
    found = json.loads(container.call("list", "--format", "json").stdout)
    (one,) = (each for each in found if each["id"] == container.id)
    return dict(one)


def test_state_tells_all_that_the_specification_asks_for(make_any: Making) -> None:
    make = make_any
    container = make(spec(["sh", "-c", "echo up; exec sleep 1000"], annotations=ODD))
    wanted = container.config()["annotations"]
    container.create()
    created = state(container)
    container.call("start", container.id)
    container.until("up")
    make.settle(container)
    running = state(container)
    make.is_still_asleep(container)
    container.kill("KILL")
    container.wait()
    stopped = state(container)

    assert [each.pop("status") for each in (created, running, stopped)] == [
        "created",
        "running",
        "stopped",
    ]
    assert created.pop("pid") == running.pop("pid") == container.pid
    # "REQUIRED when status is created or running": what ended must not point to a stranger.
    assert stopped.pop("pid", 0) == 0
    assert created == running == stopped
    assert created["id"] == container.id
    assert created["bundle"] == str(container.bundle)
    assert created["annotations"] == wanted
    assert VERSION.fullmatch(created["ociVersion"])
    # The runtimes' own, which Podman and CRI-O read.
    assert created["rootfs"] == str(container.host.rootfs)
    assert TIME.fullmatch(created["created"])


def test_list_tells_what_state_tells(make_any: Making) -> None:
    make = make_any
    container = make(spec(["sh", "-c", "echo up; exec sleep 1000"])).start()
    container.until("up")
    make.settle(container)
    told, one = state(container), listed(container)
    for key in ("id", "pid", "status", "bundle", "created"):
        assert one[key] == told[key], key
    make.is_still_asleep(container)


@pytest.mark.parametrize("form", [["--bundle", "."], ["--bundle=."], ["-b", "."], []])
def test_a_bundle_is_named_by_its_absolute_path(make: Making, form: list[str]) -> None:
    container = make(spec(["sh", "-c", "exit 3"]))
    pid_file = container.bundle / "init.pid"
    words = container.words("create", *form, "--pid-file", "init.pid", container.id)
    subprocess.run(
        container.host.command("sh", "-c", 'cd "$0" && exec "$@"', str(container.bundle), *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    container.pid = int(pid_file.read_text())
    assert state(container)["bundle"] == str(container.bundle)
    record = container.host.run_directory / "containers" / f"{container.id}.json"
    assert record.exists() is make.is_managed
    if make.is_managed:
        assert json.loads(record.read_text())["bundle"] == os.path.realpath(container.bundle)
    container.call("start", container.id)
    assert container.wait() == 3
