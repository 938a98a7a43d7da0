"""A config.json that is wrong, or unusual: the lower runtime's judgement, in its own words.

Ours reads and rewrites the file in between. Whatever is in it, the call comes to the same end as
under the plain runtime, and what was accepted there runs here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.kinds import MANAGED, RUNTIMES, UNMANAGED, Hosts, Making, Pair, kinds, paired
from support.runtime import RUNTIME_DEFAULT, Spec, spec
from support.told import log_of, nameless

Change = Callable[[Spec], object]
END = ["sh", "-c", "echo ran; exit 5"]


# A call for an unmanaged container is passed on before anybody reads the file's meaning.
UNREAD = [pytest.param(f"{lower}-{UNMANAGED}", marks=pytest.mark.long) for lower in RUNTIMES]


@pytest.fixture(params=[*kinds(MANAGED), *UNREAD])
def pair(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Pair]:
    yield from paired(hosts, request.param)


def drop(*path: str) -> Change:
    def change(config: Spec) -> None:
        at: Any = config
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


def put(value: Any, *path: str) -> Change:
    def change(config: Spec) -> None:
        at: Any = config
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return change


def mount(**fields: Any) -> Change:
    return lambda config: config["mounts"].append(fields)


DEEP = "nested too deeply for Python's json"


def seccomp(**fields: Any) -> Change:
    return put({**RUNTIME_DEFAULT, **fields}, "linux", "seccomp")


def hook(**fields: Any) -> Change:
    return put({"createRuntime": [fields]}, "hooks")


def rlimits(*found: tuple[str, int, int]) -> Change:
    limits = [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in found]
    return put(limits, "process", "rlimits")


PRIVATE = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]

CHANGES: dict[str, Change] = {
    "no version": drop("ociVersion"),
    "a version to come": put("9.0.0", "ociVersion"),
    "no process": drop("process"),
    "process is a list": put([], "process"),
    "process is null": put(None, "process"),
    "no args": drop("process", "args"),
    "empty args": put([], "process", "args"),
    "an empty command": put([""], "process", "args"),
    "args are numbers": put([1, 2], "process", "args"),
    "args are a text": put("sleep", "process", "args"),
    "args with a null": put(["sh", None], "process", "args"),
    "an argument with all kinds of characters": put(
        ["sh", "-c", 'exit "$#"', "-", "\u00fc\U0001f600", "\x01\x7f", "a\nb"], "process", "args"
    ),
    "a relative directory": put("tmp", "process", "cwd"),
    "a directory that cannot be made": put("/proc/no/such", "process", "cwd"),
    "no user": drop("process", "user"),
    "the user is a name": put({"uid": "root", "gid": 0}, "process", "user"),
    "environment without a value": put(["PATH=/usr/bin:/bin", "NOTHING"], "process", "env"),
    "environment twice": put(["PATH=/bin", "PATH=/usr/bin:/bin"], "process", "env"),
    "no environment": drop("process", "env"),
    "environment is null": put(None, "process", "env"),
    "environment of numbers": put([1], "process", "env"),
    "no root": drop("root"),
    "a root that is not there": put({"path": "/no/such"}, "root"),
    "a root that is a file": put({"path": "/etc/passwd"}, "root"),
    "no mounts": drop("mounts"),
    "mounts are an object": put({}, "mounts"),
    "a mount without a destination": mount(type="tmpfs", source="tmpfs"),
    "a mount of nothing": mount(
        destination="/mnt", type="bind", source="/no/such", options=["rbind"]
    ),
    "a mount of no kind": mount(destination="/mnt", type="no-kind", source="x"),
    "an option of no kind": mount(
        destination="/mnt", type="tmpfs", source="tmpfs", options=["no-option"]
    ),
    "a namespace of no kind": put([*PRIVATE, {"type": "no-kind"}], "linux", "namespaces"),
    "a namespace twice": put([*PRIVATE, {"type": "pid"}], "linux", "namespaces"),
    "a namespace that is not there": put(
        [*PRIVATE[:-1], {"type": "network", "path": "/no/such"}], "linux", "namespaces"
    ),
    "namespaces of numbers": put([1], "linux", "namespaces"),
    "no namespaces": put([], "linux", "namespaces"),
    "a host name without its namespace": put(
        [each for each in PRIVATE if each["type"] != "uts"], "linux", "namespaces"
    ),
    "no linux": drop("linux"),
    "linux is null": put(None, "linux"),
    "an unknown capability": put({"bounding": ["CAP_NO_KIND"]}, "process", "capabilities"),
    "capabilities are a list": put(["CAP_KILL"], "process", "capabilities"),
    "an unknown limit": rlimits(("RLIMIT_NO_KIND", 1, 1)),
    "a limit twice": rlimits(("RLIMIT_CORE", 0, 0), ("RLIMIT_CORE", 0, 0)),
    "the largest limit": rlimits(("RLIMIT_CORE", 0, 2**64 - 1)),
    "a number too large": put(2**70, "process", "user", "uid"),
    "a fraction": put(0.5, "process", "user", "uid"),
    "an impossible score": put(5000, "process", "oomScoreAdj"),
    "an unknown seccomp action": seccomp(defaultAction="SCMP_ACT_NO_KIND"),
    "an unknown system call": seccomp(
        syscalls=[
            *RUNTIME_DEFAULT["syscalls"],
            {"action": "SCMP_ACT_ERRNO", "names": ["no_such_call"]},
        ]
    ),
    "seccomp rules of numbers": seccomp(syscalls=[1]),
    "seccomp is a list": put([], "linux", "seccomp"),
    "a setting of the node": put({"vm.swappiness": "1"}, "linux", "sysctl"),
    "a hook without a path": hook(args=["sh"]),
    "a hook that is not there": hook(path="/no/such"),
    "annotations of numbers": put(1, "annotations", "number"),
    "a terminal without a console": put(True, "process", "terminal"),
    "fields that nobody knows": put({"a": [1, {"b": None}]}, "org.example"),
    "a deep field that nobody knows": put(DEEP, "org.example"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_lower_runtime_judges(pair: Pair, change: Change) -> None:
    ends = []
    for make in pair:
        container = make(spec(END, env=["A=1"]))
        config = container.config()
        change(config)
        text = json.dumps(config).replace(json.dumps(DEEP), "[" * 3000 + "]" * 3000)
        (container.bundle / "config.json").write_text(text)
        ends.append(_end(make, container))
    plain, ours = ends
    assert ours == plain


TEXTS = {
    "no file": None,
    "nothing": "",
    "half of an object": '{"ociVersion": "1.0.2", "annotations": {"architect.dev/idle": "60s"',
    "a list": '["architect.dev/idle"]',
    "a text": '"architect.dev/idle"',
    "null": "null",
    "two objects": '{"annotations": {"architect.dev/idle": "60s"}} {}',
    "not UTF-8": b'{"annotations": {"architect.dev/idle": "\xff"}}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_what_is_no_configuration_at_all_is_refused_as_ever(
    pair: Pair, text: str | bytes | None
) -> None:
    ends = []
    for make in pair:
        container = make(spec(END))
        file = container.bundle / "config.json"
        if text is None:
            file.unlink()
        else:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        ends.append(_end(make, container))
    plain, ours = ends
    assert ours == plain
    assert plain[0] != 0


def _end(make: Making, container: Any) -> tuple[Any, ...]:
    """Return how far it came, and what was said."""
    container.log.unlink(missing_ok=True)
    created = container.create(check=False)
    # Warnings are ours: that the call is passed on as it came.
    said = (created, [message for level, message in log_of(container) if level == "error"])
    if created != 0:
        # What failed must not leave anything that `delete`, which engines call then, cannot undo.
        assert container.call("delete", "--force", container.id, check=False).returncode == 0
        return said
    started = container.call("start", container.id, check=False)
    ended = container.wait()
    return (
        *said,
        started.returncode,
        nameless(container, started.stderr),
        ended,
        container.output(),
    )
