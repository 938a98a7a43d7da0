"""The same engines with crun below: what they ask of it, and what ours asks, is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.runtime import eventually

pytestmark = pytest.mark.long

SERVER = ["python3", "-u", "/opt/memory.py", "16"]
RECORDS = "/run/architect/containers"
CONF = "/opt/architect/runtime.conf"


@pytest.fixture(autouse=True)
def crun(node: Any) -> Iterator[None]:
    node.run("sh", "-c", f"echo runc=/usr/bin/crun > {CONF}")
    yield
    node.run("rm", CONF)


def test_it_sleeps_wakes_and_ends_as_with_runc(engine: Any, node: Any) -> None:
    engine.start(*SERVER)
    before = engine.until_ready()
    (record,) = node.files(RECORDS)
    assert json.loads(node.run("cat", f"{RECORDS}/{record}"))["runtime"] == "/usr/bin/crun"
    pid = engine.pid()
    engine.sleep()
    assert engine.pid() == pid, "the engine must see the container run on"
    after = engine.get("/")
    assert after["identity"] == before["identity"] and after["count"] > before["count"]
    engine.sleep()
    assert engine.exec("echo", "here") == "here\n"
    engine.sleep()
    assert engine.stop() == 7
    engine.remove()
    assert node.files(RECORDS) == []
    eventually(lambda: node.runtime("list")["pods"] == [], what="an empty list")
