"""Files that another version wrote, or that are missing: told by name, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.mover import numbers
from support.runtime import IDLE, Container, Host, eventually, spec


def restart_keeper(node: Host, change: Callable[[], None]) -> None:
    node.end_keeper()
    change()
    node.ask("list")


def set_version(file: Path, version: Any) -> None:
    value = json.loads(file.read_text())
    file.write_text(json.dumps({**value, "version": version}))


def test_a_record_of_another_version_leaves_its_container_as_it_is(
    node: Host, run: Callable[..., Container]
) -> None:
    old, other = (run(spec(["sleep", "1000"], annotations=IDLE)) for _ in range(2))
    record = node.run_directory / "containers" / f"{old.id}.json"
    restart_keeper(node, lambda: set_version(record, 99))
    assert [pod["pod"] for pod in node.ask("list")["pods"]] == [other.id]
    log = (node.run_directory / "keeper.log").read_text()
    assert f"{old.id}.json: version 99 is not 1" in log
    assert old.call("exec", old.id, "echo", "runs").stdout == "runs\n"
    refused = node.runtime("sleep", old.id, check=False)
    assert refused.returncode == 2
    assert node.ask("sleep", other.id)["status"]["state"] == "asleep"
    old.call("delete", "--force", old.id)
    assert not record.exists()
    new = run(spec(["sleep", "1000"], annotations=IDLE))
    assert node.ask("sleep", new.id)["status"]["state"] == "asleep"


COUNTING = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"


@pytest.fixture
def asleep(node: Host, run: Callable[..., Container]) -> Container:
    container = run(spec(["sh", "-c", COUNTING], annotations=IDLE))
    container.until("3\n")
    node.runtime("sleep", container.id)
    return container


def test_a_sleeping_pods_state_of_another_version_is_told_and_its_image_counts(
    node: Host, asleep: Container
) -> None:
    state = node.state / "architect/pods" / asleep.id / "pod.json"
    restart_keeper(node, lambda: set_version(state, 99))
    eventually(lambda: node.ask("status", asleep.id)["state"] == "asleep", what="a recovered pod")
    log = (node.run_directory / "keeper.log").read_text()
    assert "pod.json: version 99 is not 1" in log
    before = asleep.output()
    node.runtime("wake", asleep.id)
    eventually(lambda: len(asleep.output()) > len(before), what="output after the wake")
    seen = numbers(asleep)
    assert seen == list(range(1, len(seen) + 1))


def test_an_image_of_another_version_stays_and_so_does_its_container(
    node: Host, asleep: Container
) -> None:
    meta = node.state / "architect/pods" / asleep.id / "main/meta.json"
    set_version(meta, 99)
    refused = node.runtime("wake", asleep.id, check=False)
    assert refused.returncode != 0
    assert "meta.json: version 99 is not 1" in refused.stderr
    assert node.ask("status", asleep.id)["state"] == "failed"
    assert Path(f"/proc/{asleep.pid}").exists()
    # The version that wrote it comes back.
    set_version(meta, 1)
    assert node.ask("wake", asleep.id)["status"]["state"] == "awake"


@pytest.mark.parametrize("missing", ["init.sha256", "init"])
def test_a_bundle_that_lacks_something_leaves_the_container_to_runc(
    host: Host, tmp_path: Path, missing: str
) -> None:
    root = tmp_path / "install"
    subprocess.run(["cp", "-a", f"{host.bundle.parent}/.", root], check=True)
    where = (
        root / "test/init.sha256" if missing == "init.sha256" else next(root.glob("init/*/init"))
    )
    where.unlink()
    container = host.container(
        spec(["sh", "-c", "echo pid $$"], annotations=IDLE),
        runtime=root / "test/bin/runc-architect",
    )
    try:
        assert container.run() == 0
        assert container.output() == "pid 1\n"
        (line,) = [json.loads(line) for line in container.log.read_text().splitlines()]
        assert line["level"] == "warning"
        assert str(where) in line["msg"]
    finally:
        container.remove()


def test_a_sleeping_pod_whose_policy_a_newer_version_wrote_is_picked_up(
    node: Host, asleep: Container
) -> None:
    record = node.run_directory / "containers" / f"{asleep.id}.json"

    def with_more() -> None:
        value = json.loads(record.read_text())
        value["policy"]["quiet_hours"] = "22-6"
        record.write_text(json.dumps({**value, "fromTheNext": True}))

    restart_keeper(node, with_more)
    eventually(lambda: node.ask("status", asleep.id)["state"] == "asleep", what="a recovered pod")
    assert node.ask("wake", asleep.id)["status"]["state"] == "awake"


def test_an_image_beside_which_a_newer_version_wrote_more_is_restored(
    node: Host, asleep: Container
) -> None:
    meta = node.state / "architect/pods" / asleep.id / "main/meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "fromTheNext": True}))
    assert node.ask("wake", asleep.id)["status"]["state"] == "awake"
