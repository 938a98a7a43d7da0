"""Hooks: when they run, where, what they are told, and what comes of one that fails.

They run as under the lower runtime because it runs them; what they find of the container is our
init's. Where the two runtimes differ from the specification, or from each other, it is said here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from support.kinds import Making, Pair
from support.runtime import Container, eventually, spec
from support.told import log_of, nameless

BEFORE_THE_END_OF_CREATE = ("prestart", "createRuntime", "createContainer")
HOOKS = (*BEFORE_THE_END_OF_CREATE, "startContainer", "poststart", "poststop")
INSIDE = ("createContainer", "startContainer")
"""Those that run in the container's namespaces; the others run in the runtime's."""
SPACES = ("mnt", "pid", "net")

TELL = r"""
state=$(tr -d '\n')
for space in mnt pid net; do spaces="$spaces $(readlink /proc/self/ns/$space)"; done
printf '%s\t%s\t%s\t%s\t%s\n' "$0" "$*" "$X" "$spaces" "$state" >> "$LOG"
"""
FAIL = f"{TELL}echo no >&2; exit 7"


def hook(name: str, *, log: Path, code: str = TELL) -> dict[str, Any]:
    """Return a hook that tells what it finds. What runs inside sees *log*'s directory as /mnt."""
    # `startContainer` comes after the change of the root.
    path = Path("/mnt", log.name) if name == "startContainer" else log
    return {
        "path": "/bin/sh",
        "args": ["sh", "-c", code, name, "an", "argument"],
        "env": [f"LOG={path}", "X=1", "PATH=/usr/bin:/bin"],
    }


def with_hooks(make: Making, hooks: Iterable[str], *, failing: str = "") -> Container:
    """Return a container with *hooks*; *failing* fails, and would be followed by one more."""
    config = spec(["sh", "-c", "echo main >> /mnt/log; echo up; exec sleep 1000"])
    container = make(config)
    log = container.bundle / "told/log"
    log.parent.mkdir()
    log.touch()
    config = container.config()
    config["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": str(log.parent), "options": ["rbind"]}
    )
    config["hooks"] = {
        name: [hook(name, log=log)]
        if name != failing
        else [hook(name, log=log, code=FAIL), hook(name, log=log)]
        for name in hooks
    }
    (container.bundle / "config.json").write_text(json.dumps(config))
    return container


def lines(container: Container) -> list[list[str]]:
    """Return what hooks, application and test wrote, in its order."""
    text = (container.bundle / "told/log").read_text()
    return [line.split("\t") for line in text.splitlines()]


def note(container: Container, text: str) -> None:
    with open(container.bundle / "told/log", "a") as file:
        file.write(f"{text}\n")


def test_every_hook_runs_when_and_where_the_specification_says(make_any: Making) -> None:
    make = make_any
    container = with_hooks(make, HOOKS)
    wanted = container.config()
    container.create()
    note(container, "created")
    outside = _spaces("self", container)
    inside = _spaces(str(container.pid), container)
    container.call("start", container.id)
    container.until("up")
    until_poststart(container)
    make.settle(container)
    before = _order(container)
    note(container, "delete")
    container.call("delete", "--force", container.id)
    container.wait()

    order = _order(container)
    # runc up to 1.3 runs poststart at the end of `create`, crun after the application has begun.
    assert [name for name in order if name != "poststart"] == [
        *BEFORE_THE_END_OF_CREATE,
        *("created", "startContainer", "main", "delete", "poststop"),
    ]
    assert order.index("poststart") > order.index("createContainer")
    assert before == order[:-2]

    told = {line[0]: line[1:] for line in lines(container) if line[0] in HOOKS}
    for name, (arguments, x, spaces, text) in told.items():
        assert (arguments, x) == ("an argument", "1"), name
        assert spaces.split() == (inside if name in INSIDE else outside), name
        state = json.loads(text)
        assert state["id"] == container.id
        assert state.get("annotations", {}) == wanted["annotations"]
        assert state["ociVersion"]
        if (make.lower, name) != ("crun", "startContainer"):
            assert state["bundle"] == str(container.bundle), name
        if name not in INSIDE:
            assert state.get("pid", 0) == (0 if name == "poststop" else container.pid), name
    statuses = {name: json.loads(told[name][-1])["status"] for name in HOOKS}
    assert statuses["poststop"] == "stopped"
    creating = make.by_lower(runc="creating", crun="created")
    assert {statuses[name] for name in BEFORE_THE_END_OF_CREATE} == {creating}


def until_poststart(container: Container) -> None:
    eventually(lambda: "poststart" in _order(container), what="poststart")


def _order(container: Container) -> list[str]:
    return [line[0] for line in lines(container)]


def _spaces(process: str, container: Container) -> list[str]:
    look = " ".join(f"/proc/{process}/ns/{space}" for space in SPACES)
    return container.host.call("sh", "-c", f"readlink {look}").stdout.split()


def test_what_a_hook_reads_in_the_bundle_is_the_users_with_our_additions(make: Making) -> None:
    container = with_hooks(make, ())
    config = container.config()
    copy = container.bundle / "seen.json"
    config["hooks"] = {
        "createRuntime": [{"path": "/bin/cp", "args": ["cp", "config.json", str(copy)]}]
    }
    config["hooks"]["createRuntime"][0]["args"][1] = str(container.bundle / "config.json")
    (container.bundle / "config.json").write_text(json.dumps(config))
    container.create()
    seen = json.loads(copy.read_text())
    if make.is_managed:
        # So a hook that looks for the command finds it behind `--`.
        program, separator, *args = seen["process"]["args"]
        assert (program, separator) == ("/dev/.architect/init", "--")
        seen["process"]["args"] = args
        seen["process"]["env"].remove("GODEBUG=multipathtcp=0")
        assert seen["mounts"].pop()["destination"] == "/dev/.architect/init"
        seen["linux"].pop("seccomp", None)
    assert seen == config


@pytest.mark.parametrize("failing", HOOKS)
def test_a_hook_that_fails_has_the_lower_runtimes_consequences(pair: Pair, failing: str) -> None:
    ends = []
    for make in pair:
        container = with_hooks(make, HOOKS, failing=failing)
        created = container.create(check=False)
        said = [log_of(container)]
        if created == 0:
            started = container.call("start", container.id, check=False).returncode
            if failing == "startContainer":
                container.wait()
            else:
                container.until("up")
                until_poststart(container)
        else:
            started = None
        state = container.call("state", container.id, check=False)
        status = json.loads(state.stdout)["status"] if state.returncode == 0 else "none"
        container.log.unlink(missing_ok=True)
        deleted = container.call("delete", "--force", container.id, check=False).returncode
        if created == 0:
            container.wait()
        said.append(log_of(container))
        # crun runs poststart beside the application that has begun.
        order = [o for o in _order(container) if make.lower == "runc" or o != "poststart"]
        ends.append((created, started, status, deleted, container.status, said, order))
    plain, ours = ends
    if failing != "startContainer":
        assert ours == plain
    created, started, status, deleted, _, _, order = ours
    # What the specification asks for.
    if failing in BEFORE_THE_END_OF_CREATE:
        assert created != 0 and status == "none" and "main" not in order
    if failing == "startContainer":
        assert "main" not in order and status == "stopped"
        assert (ours[:5], ours[6]) == (plain[:5], plain[6])
    if failing == "poststop":
        assert (created, started, status, deleted) == (0, 0, "running", 0)


@pytest.mark.long
def test_a_hook_that_takes_too_long_has_failed(pair: Pair) -> None:
    ends = []
    for make in pair:
        container = with_hooks(make, ())
        config = container.config()
        words = ["sleep", "60"]
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": words, "timeout": 1}]}
        (container.bundle / "config.json").write_text(json.dumps(config))
        created = container.create(check=False)
        ends.append((created, [nameless(container, m) for _, m in log_of(container)]))
        assert container.call("state", container.id, check=False).returncode != 0
    plain, ours = ends
    assert ours == plain
    assert created != 0


def test_a_hook_can_ask_for_the_state_of_its_container(make: Making) -> None:
    """As hooks of CNI and of GPUs do; the runtime must not wait for itself."""
    container = with_hooks(make, ())
    config = container.config()
    asked = container.bundle / "asked"
    call = f'"$0" --root /run/test state {container.id} > {asked} 2>&1; echo $? >> {asked}'
    config["hooks"] = {
        "createRuntime": [
            {
                "path": "/bin/sh",
                "args": ["sh", "-c", call, str(make.program())],
                "env": [f"PATH={os.environ['PATH']}"],
            }
        ]
    }
    (container.bundle / "config.json").write_text(json.dumps(config))
    container.start()
    container.until("up")
    assert asked.read_text().splitlines()[-1] in ("0", "1")
