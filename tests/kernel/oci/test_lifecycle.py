"""``create``, ``start``, ``kill``, ``delete``: their order, and the errors out of it.

An operation that is refused "MUST have no effect on the container": a sleeping one sleeps on.
What the error says is the lower runtime's alone, to the letter: engines look for its words.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import pytest

from support.kinds import MANAGED, UNMANAGED, Hosts, Making, Pair, made, paired
from support.runtime import Container, Host, eventually, spec
from support.told import Told, log_of, tell

UP = ["sh", "-c", "echo up; exec sleep 1000"]


def status(container: Container) -> str:
    return str(json.loads(container.call("state", container.id).stdout)["status"])


def running(make: Making) -> Container:
    """Return one that runs, or sleeps, as its kind says."""
    container = make(spec(UP)).start()
    container.until("up")
    make.settle(container)
    return container


def test_nothing_of_the_application_runs_before_start(make: Making) -> None:
    container = make(spec(["sh", "-c", "echo main; exit 4"]))
    container.create()
    assert status(container) == "created"
    comm = Path(f"/proc/{container.pid}/comm").read_text().strip()
    assert comm not in ("sh", "init")
    assert container.output() == ""
    container.call("start", container.id)
    assert container.wait() == 4
    assert container.output() == "main\n"


def test_what_was_created_can_be_killed(make: Making) -> None:
    container = make(spec(["sh", "-c", "echo never"]))
    container.create()
    container.kill("KILL")
    assert container.wait() == 137
    assert status(container) == "stopped"
    assert container.output() == ""


def test_what_was_created_can_be_deleted(make: Making) -> None:
    """The specification has it stopped first; both runtimes are milder, and so are we."""
    container = make(spec(["sh", "-c", "echo never"]))
    container.create()
    container.call("delete", container.id)
    container.wait()
    assert container.output() == ""
    assert container.call("state", container.id, check=False).returncode != 0


def test_delete_removes_all_that_create_made(make_any: Making) -> None:
    make = make_any
    container = running(make)
    state = make.host.view / "run/test" / container.id
    cgroups = cgroups_of(container)
    assert state.exists() and all(cgroup.exists() for cgroup in cgroups)
    container.kill("KILL")
    container.wait()
    container.call("delete", container.id)
    assert not state.exists()
    eventually(lambda: not any(c.exists() for c in cgroups), what="the end of its cgroups")
    left = make.host.view / "proc/self/mountinfo"
    assert container.id not in left.read_text()


def cgroups_of(container: Container) -> list[Path]:
    """Return the directories of the container's own cgroups, as we see them."""
    lines = container.host.call("cat", f"/proc/{container.pid}/cgroup").stdout.splitlines()
    paths = dict(line.split(":", 2)[1:] for line in lines)
    found = []
    for line in container.host.call("cat", "/proc/self/mountinfo").stdout.splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split()
        for controllers, path in paths.items():
            names = set(controllers.split(",")) if controllers else {""}
            here = {""} if kind == "cgroup2" else {*options.split(",")}
            if kind.startswith("cgroup") and names <= here and path != "/":
                found.append(container.host.view / fields.split()[4].lstrip("/") / path.lstrip("/"))
    assert found
    return found


# Out of order

NOBODY = (
    *(("state", "ID"), ("start", "ID"), ("kill", "ID", "TERM"), ("kill", "ID", "KILL")),
    *(("delete", "ID"), ("exec", "ID", "true"), ("ps", "ID"), ("pause", "ID"), ("resume", "ID")),
    ("update", "--memory", "10000000", "ID"),
)
WITHOUT_ID = (
    *((words[0],) for words in NOBODY),
    *(("create",), ("create", "--bundle", "BUNDLE")),
)
TOO_MUCH = (
    *(("state", "ID", "x"), ("start", "ID", "x"), ("delete", "ID", "x")),
    ("create", "--bundle", "BUNDLE", "ID", "x"),
)
REFUSED_OF_A_RUNNING_ONE = (
    *(("start", "ID"), ("delete", "ID"), ("create", "--bundle", "BUNDLE", "ID")),
    ("update", "--memory", "no-number", "ID"),
)
REFUSED_OF_A_STOPPED_ONE = (
    *(("start", "ID"), ("kill", "ID", "TERM"), ("kill", "ID", "KILL"), ("exec", "ID", "true")),
    ("create", "--bundle", "BUNDLE", "ID"),
)


def told(container: Container, calls: tuple[tuple[str, ...], ...]) -> dict[str, Told]:
    names = {"ID": container.id, "BUNDLE": str(container.bundle)}
    return {
        " ".join(words): tell(container, *(names.get(word, word) for word in words))
        for words in calls
    }


@pytest.mark.parametrize("calls", [NOBODY, WITHOUT_ID], ids=["unknown id", "no id"])
def test_what_nobody_created_is_refused_in_the_runtimes_words(
    pair: Pair, calls: tuple[tuple[str, ...], ...]
) -> None:
    ours, plain = (told(make(spec(UP)), calls) for make in (pair.ours, pair.plain))
    assert ours == plain
    assert all(each.status != 0 and each.stderr for each in ours.values())


def test_what_runs_is_neither_started_nor_deleted_nor_created_again(pair_any: Pair) -> None:
    answers = []
    for make in pair_any:
        container = running(make)
        answers.append(told(container, REFUSED_OF_A_RUNNING_ONE))
        assert status(container) == "running"
        make.is_still_asleep(container)
        assert container.call("exec", container.id, "echo", "lives").stdout == "lives\n"
        assert os.path.exists(f"/proc/{container.pid}")
    plain, ours = answers
    assert ours == plain
    assert all(each.status != 0 and each.stderr for each in ours.values())


def test_what_has_ended_is_neither_started_nor_signalled_nor_created_again(pair_any: Pair) -> None:
    answers = []
    for make in pair_any:
        container = running(make)
        container.kill("KILL")
        container.wait()
        answers.append(told(container, REFUSED_OF_A_STOPPED_ONE))
        assert status(container) == "stopped"
    plain, ours = answers
    assert ours == plain
    assert all(each.status != 0 and each.stderr for each in ours.values())


def test_operands_too_many_are_refused(pair: Pair) -> None:
    answers = []
    for make in pair:
        container = make(spec(UP))
        container.create()
        answers.append(told(container, TOO_MUCH))
        assert status(container) == "created"
    plain, ours = answers
    assert ours == plain


# Ids

REFUSED_BY_RUNC = ("", ".", "..", "../up", "a/b", "/a", "a b", "a:b", "a%b", "\u00fc", "a\nb")
TAKEN = ("_a", "a.b_c-d", "A9", "a" * 64, "+a")
TAKEN_AND_NOT_MANAGED = (".a", "a" * 201)


@pytest.mark.parametrize("way", [UNMANAGED, MANAGED])
def test_an_id_that_is_no_name_is_refused_and_touches_nothing(hosts: Hosts, way: str) -> None:
    """Of runc only: crun takes most of them for directories, `delete --force ..` as well."""
    for pair in paired(hosts, f"runc-{way}"):
        before = _files(pair.ours.host)
        for identity in REFUSED_BY_RUNC:
            plain, ours = (_calls_with(make(spec(UP)), identity) for make in pair)
            assert ours == plain, repr(identity)
            assert all(told.status != 0 for told in ours), repr(identity)
        eventually(
            functools.partial(_is_as_before, pair.ours.host, before),
            what="that nothing was touched",
        )


def _is_as_before(host: Host, before: list[str]) -> bool:
    return _files(host) == before


def _files(host: Host) -> list[str]:
    """Return what there is of us, but for what is being written."""
    return sorted(
        os.path.join(root, name)
        for root, directories, files in os.walk(host.run_directory)
        for name in (*directories, *files)
        if not name.endswith(".tmp")
    )


def _calls_with(container: Container, identity: str) -> list[Told]:
    create = ("create", "--bundle", str(container.bundle))
    verbs = (create, ("state",), ("start",), ("delete",), ("delete", "--force"), ("kill",))
    found = [tell(container, *verb, identity) for verb in verbs]
    # That it cannot be managed is told besides, where nothing else is wrong with it.
    return [
        Told(t.status, t.stdout, t.stderr, tuple(line for line in t.log if line[0] == "error"))
        for t in found
    ]


@pytest.mark.parametrize("identity", TAKEN)
def test_a_managed_container_may_have_an_id_of_any_form(make: Making, identity: str) -> None:
    container = make(spec(["sh", "-c", "exit 6"]))
    container.id = identity
    container.create()
    record = make.host.run_directory / "containers" / f"{identity}.json"
    assert record.exists() is make.is_managed
    container.call("start", container.id)
    assert container.wait() == 6
    container.call("delete", container.id)


@pytest.mark.parametrize("identity", TAKEN_AND_NOT_MANAGED)
def test_an_id_that_is_no_name_of_a_file_of_ours_runs_unmanaged_and_is_told(
    hosts: Hosts, identity: str
) -> None:
    for make in made(hosts, "runc-managed"):
        container = make(spec(["sh", "-c", "echo $$"]))
        container.id = identity
        container.create()
        ((level, message),) = log_of(container)
        assert level == "warning" and "not managed" in message
        container.call("start", container.id)
        assert container.wait() == 0
        assert container.output() == "1\n"
