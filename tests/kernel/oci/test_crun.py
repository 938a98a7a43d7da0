"""What crun has and runc has not: our part does not see all of it, as docs/runtime.md says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from support.kinds import Hosts, Making, made
from support.runtime import Container, spec

pytestmark = pytest.mark.long

UP = "trap 'echo got TERM; exit 5' TERM; echo up; while :; do sleep 0.05; done"


@pytest.fixture
def make(hosts: Hosts) -> Iterator[Making]:
    yield from made(hosts, "crun-asleep")


def running(make: Making) -> Container:
    container = make(spec(["sh", "-c", UP])).start()
    container.until("up")
    return container


def is_recorded(make: Making, container: Container) -> bool:
    return (make.host.run_directory / "containers" / f"{container.id}.json").exists()


def test_another_configuration_runs_unmanaged_and_is_left_as_it_is(make: Making) -> None:
    container = make(spec(["sh", "-c", "echo $$; exit 6"]))
    other = container.bundle.with_name(f"{container.id}.json")
    shutil.copy(container.bundle / "config.json", other)
    before = other.read_bytes()
    pid_file = container.bundle / "init.pid"
    words = container.words("create", "--bundle", str(container.bundle), "--config", str(other))
    container.host.call(
        *("sh", "-c", 'exec "$@" > "$0" 2>&1', str(container.stdout)),
        *(*words, "--pid-file", str(pid_file), container.id),
    )
    container.pid = int(pid_file.read_text())
    assert not is_recorded(make, container)
    container.call("start", container.id)
    assert container.wait() == 6
    assert container.output() == "1\n"
    assert other.read_bytes() == before


def test_a_signal_by_expression_waits_for_the_wake(make: Making) -> None:
    container = running(make)
    make.settle(container)
    container.call("kill", "--regex", f"{container.id}$", "TERM")
    make.is_still_asleep(container)
    make.host.runtime("wake", container.id)
    assert container.wait() == 5
    assert container.output().endswith("got TERM\n")


def test_what_was_deleted_by_expression_can_be_made_again(make: Making) -> None:
    container = running(make)
    make.settle(container)
    container.call("delete", "--force", "--regex", f"{container.id}$")
    assert container.wait() == 137
    assert is_recorded(make, container)
    container.status = None
    container.start()
    container.until("up")
    make.settle(container)
    assert container.call("exec", container.id, "echo", "awake").stdout == "awake\n"
