"""The options before the command, in every form that the lower runtime takes them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.kinds import MANAGED, UNMANAGED, Hosts, Making, Pair, made
from support.runtime import DEADLINE_SECONDS, Container, spec
from support.told import nameless, tell

UP = ["sh", "-c", "echo up; exec sleep 1000"]


def create(container: Container, *options: str, cwd: Path | None = None) -> int:
    """Create with *options* before the command; return the exit status."""
    words = [str(container.runtime), *options, "create", "--bundle", str(container.bundle)]
    with open(container.stdout, "wb") as out, open(container.stderr, "wb") as err:
        done = subprocess.run(
            container.host.command(
                *("sh", "-c", 'cd "$0" && exec "$@"', str(cwd or container.bundle)),
                *(*words, "--pid-file", str(container.bundle / "init.pid"), container.id),
            ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=DEADLINE_SECONDS,
        )
    if done.returncode == 0:
        container.pid = int((container.bundle / "init.pid").read_text())
    return done.returncode


def is_recorded(container: Container) -> bool:
    return (container.host.run_directory / "containers" / f"{container.id}.json").exists()


ROOTS: dict[str, Sequence[str]] = {
    "a word": ("--root", "/run/test"),
    "with =": ("--root=/run/test",),
    "the last counts": ("--root", "/run/other", "--root", "/run/test"),
    "between others": ("--log-format=json", "--root", "/run/test", "--debug"),
    "unclean": ("--root", "/run//test/../test/"),
}


@pytest.mark.parametrize("options", ROOTS.values(), ids=ROOTS.keys())
def test_the_state_lies_where_root_says(make: Making, options: Sequence[str]) -> None:
    container = make(spec(UP))
    assert create(container, *options) == 0, container.said()
    assert (make.host.view / "run/test" / container.id).is_dir()
    assert is_recorded(container) is make.is_managed
    container.call("start", container.id)
    container.until("up")
    container.call("delete", "--force", container.id)
    container.wait()
    assert not is_recorded(container)


@pytest.mark.parametrize("way", [UNMANAGED, MANAGED])
def test_a_relative_root_is_the_same_from_everywhere(hosts: Hosts, way: str) -> None:
    """Of runc only: crun's `create` looks for it in the bundle, its other commands do not."""
    for make in made(hosts, f"runc-{way}"):
        _create_below_a_relative_root(make)


def _create_below_a_relative_root(make: Making) -> None:
    container = make(spec(UP))
    os.makedirs(make.host.view / "run/test", exist_ok=True)
    assert create(container, "--root", "../run/test", cwd=Path("/tmp")) == 0, container.said()
    container.call("start", container.id)
    container.until("up")
    # From another directory, by the absolute name.
    assert container.call("exec", container.id, "echo", "in").stdout == "in\n"
    if make.is_managed:
        assert make.host.ask("status", container.id)["containers"]["main"]["init_pid"]
    container.call("delete", "--force", container.id)
    container.wait()
    assert not is_recorded(container)


def test_without_root_both_use_the_lower_runtimes_own(make: Making) -> None:
    container = make(spec(UP))
    container.host.call("rm", "-rf", "/run/runc", "/run/crun")
    assert create(container) == 0, container.said()
    assert (make.host.view / "run" / make.lower / container.id).is_dir()

    def call(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return make.host.call(container.runtime, *words, check=check)

    call("start", container.id)
    container.until("up")
    if make.is_managed:
        assert make.host.ask("status", container.id)["containers"]["main"]["init_pid"]
    refused = call("delete", container.id, check=False)
    assert refused.returncode != 0
    assert is_recorded(container) is make.is_managed
    assert call("exec", container.id, "echo", "in").stdout == "in\n"
    call("delete", "--force", container.id)
    container.wait()
    assert not is_recorded(container)


@pytest.mark.parametrize("form", ["json", "text", None])
def test_errors_are_in_the_log_in_the_form_that_was_asked_for(pair: Pair, form: str | None) -> None:
    told = []
    for make in pair:
        container = make(spec(UP)).start()
        log = container.bundle / "log"
        options = ["--root", "/run/test", "--log", str(log)]
        options += ["--log-format", form] if form else []
        done = make.host.call(
            container.runtime, *options, "start", container.id, check=False, stdin=-3
        )
        text = log.read_text() if log.exists() else ""
        if form == "json":
            said = [json.loads(line)["msg"] for line in text.splitlines()]
        else:
            said = [_without_time(line) for line in text.splitlines()]
        told.append((done.returncode, [nameless(container, line) for line in said]))
    plain, ours = told
    assert ours == plain
    assert plain[0] != 0


def _without_time(line: str) -> str:
    return " ".join(word for word in line.split() if not word.startswith(("time=", "20")))


def test_debug_says_more_and_changes_nothing(make: Making) -> None:
    container = make(spec(["sh", "-c", "exit 7"]))
    log = ("--log", str(container.log), "--log-format", "json")
    assert create(container, "--root", "/run/test", *log, "--debug") == 0, container.said()
    lines = container.log.read_text().splitlines() if container.log.exists() else []
    levels = {json.loads(line)["level"] for line in lines}
    assert levels <= {"debug", "info"}
    container.call("start", container.id)
    assert container.wait() == 7


WRONG: dict[str, Sequence[str]] = {
    "an unknown option": ("--no-such-option", "state", "x"),
    "an unknown command": ("no-such-command", "x"),
    "no command": (),
    "an option of the command before it": ("--bundle", "/x", "create", "x"),
    "an unknown form of the log": ("--log-format", "no-such-form", "state", "x"),
    "a log that cannot be written": ("--log", "/no/such/log", "state", "x"),
    "an unknown option of create": ("create", "--no-such-option", "x"),
    "an unknown option of delete": ("delete", "--no-such-option", "x"),
    "an option without its value": ("state", "x", "--root"),
    "no value at all": ("--root",),
    "help": ("--help",),
    "help of a command": ("create", "--help"),
    "the version": ("--version",),
}


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_or_asks_for_help_is_answered_below(pair: Pair, words: Sequence[str]) -> None:
    told = []
    for make in pair:
        done = make.host.call(make.program(), *words, check=False)
        container = make(spec(UP))
        told.append(
            (done.returncode, nameless(container, done.stdout), nameless(container, done.stderr))
        )
    plain, ours = told
    assert ours == plain


def test_cgroups_of_systemd_are_the_lower_runtimes_affair(pair: Pair) -> None:
    """Without systemd both fail alike; with it both make a scope and remove it."""
    ends = []
    for make in pair:
        container = make(spec(UP))
        log = ("--log", str(container.log), "--log-format", "json")
        status = create(container, "--root", "/run/test", *log, "--systemd-cgroup")
        errors = (
            [
                nameless(container, entry["msg"])
                for entry in map(json.loads, container.log.read_text().splitlines())
                if entry["level"] == "error"
            ]
            if container.log.exists()
            else []
        )
        scope = ""
        if status == 0:
            lines = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
            (scope,) = {nameless(container, os.path.basename(line)) for line in lines[:1]}
        ends.append((status, errors, scope))
    plain, ours = ends
    assert ours == plain


def test_an_option_behind_the_id_is_the_lower_runtimes_to_judge(pair: Pair) -> None:
    told = []
    for make in pair:
        container = make(spec(UP)).start()
        container.until("up")
        told.append(tell(container, "delete", container.id, "--force"))
        if told[-1].status == 0:
            container.wait()
        assert is_recorded(container) is (told[-1].status != 0 and make.is_managed)
    plain, ours = told
    assert ours == plain
