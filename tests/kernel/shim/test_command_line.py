"""The runtime's command line as engines use it, with a keeper played by the tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.runtime import (
    IDLE,
    Container,
    Host,
    KeeperDouble,
    Page,
    python,
    spec,
)

Make = Callable[..., Container]
TERMINAL_LIKE = {
    "SharedPidNamespace": lambda c: c["linux"]["namespaces"][0].update(path="/proc/self/ns/pid"),
    "HostNetwork": lambda c: c["linux"]["namespaces"].pop(4),
    "DevIsBind": lambda c: c["mounts"][1].update(type="bind", source="/dev", options=["rbind"]),
}

TRIES = 5

UP = ["sh", "-c", "echo up; exec sleep 1000"]
"""Says when it can be signalled: before that PID 1 ignores signals, as every PID 1 does."""


def record(host: Host, container: Container) -> dict[str, Any]:
    file = host.run_directory / "containers" / f"{container.id}.json"
    return dict(json.loads(file.read_text()))


def cri(*, policy: dict[str, Any] | None = None, kind: str = "container") -> dict[str, str]:
    annotations = {
        "io.kubernetes.cri.container-type": kind,
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-id": "sandbox",
        "io.kubernetes.cri.sandbox-uid": "uid-1",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
    }
    if policy is not None:
        annotations["architect.dev/policy"] = json.dumps(policy)
    return annotations


POLICY = {"version": 1, "containers": {"app": {"idle_seconds": 60.0}}}


def test_a_pods_container_is_recorded_before_it_exists_and_registered(
    make: Make, host: Host, keeper: KeeperDouble
) -> None:
    container = make(spec(["sleep", "1000"], annotations=cri(policy=POLICY)))
    container.start()
    found = record(host, container)
    assert (found["pod"], found["namespace"], found["pod_name"], found["container"]) == (
        "uid-1",
        "shop",
        "web-0",
        "app",
    )
    assert found["runc_root"] == "/run/test"
    assert found["bundle"] == str(container.bundle)
    assert found["runtime"] == "/usr/sbin/runc"
    assert found["policy"]["containers"]["app"]["idle_seconds"] == 60.0
    assert keeper.calls[0]["op"] == "register"
    assert keeper.calls[0]["container"] == container.id
    assert Page(container.pid).magic == int.from_bytes(b"ARCH", "little")


def test_delete_forgets_the_container(make: Make, host: Host, keeper: KeeperDouble) -> None:
    container = make(spec(["true"], annotations=IDLE))
    assert container.run() == 0
    container.call("delete", container.id)
    assert "removed" in keeper.ops()
    assert list((host.run_directory / "containers").iterdir()) == []


def test_delete_needs_no_interpreter(make: Make, host: Host, keeper: KeeperDouble) -> None:
    container = make(spec(["true"], annotations=IDLE))
    assert container.run() == 0
    container.call("delete", "--force", container.id)
    assert keeper.programs[keeper.ops().index("removed")] == "runc-architect"
    assert not (host.run_directory / "containers" / f"{container.id}.json").exists()


def test_delete_forgets_the_container_also_where_the_keeper_does_not_answer_as_usual(
    make: Make, host: Host, keeper: KeeperDouble
) -> None:
    container = make(spec(["true"], annotations=IDLE))
    assert container.run() == 0
    keeper.answers["removed"] = {"ok": False, "error": {"code": 3, "message": "no", "hint": ""}}
    log = container.bundle / "log"
    container.call("--log", str(log), "--log-format", "json", "delete", container.id)
    assert keeper.ops().count("removed") == 2, "the launcher, then the interpreter"
    assert list((host.run_directory / "containers").iterdir()) == []
    assert json.loads(log.read_text())["msg"].startswith(f"container {container.id} is deleted")


def test_delete_has_the_status_of_the_lower_runtime_once_all_is_forgotten(
    make: Make, host: Host, keeper: KeeperDouble
) -> None:
    """An engine deletes twice; what is not there any more is the lower runtime's to judge."""
    container = make(spec(["true"], annotations=IDLE))
    assert container.run() == 0
    plainly = ("/usr/sbin/runc", "--root", "/run/test", "delete", container.id)
    host.call(*plainly)
    again = container.call("delete", container.id, check=False)
    plain = host.call(*plainly, check=False)
    assert again.returncode == plain.returncode == 1
    assert list((host.run_directory / "containers").iterdir()) == []


def test_a_container_of_that_id_below_another_root_keeps_its_record(
    make: Make, host: Host, keeper: KeeperDouble
) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    runtime = host.bundle / "bin/runc-architect"
    for words in (("delete", "--force"), ("delete",)):
        host.call(runtime, "--root", "/run/other", *words, container.id, check=False)
    assert record(host, container)["id"] == container.id
    assert "removed" not in keeper.ops()


@pytest.mark.parametrize("signal", ["9", "KILL", "SIGKILL", "sigkill"])
def test_nobody_is_told_of_sigkill(
    make: Make, host: Host, keeper: KeeperDouble, signal: str
) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    container.call("kill", container.id, signal)
    assert keeper.ops() == ["register"]


def test_delete_of_a_running_container_fails_as_under_runc_and_forgets_nothing(
    make: Make, host: Host
) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    refused = container.call("delete", container.id, check=False)
    container.runtime = "/usr/sbin/runc"
    plain = container.call("delete", container.id, check=False)
    assert refused.returncode == plain.returncode == 1
    assert plain.stderr.strip() in refused.stderr
    assert record(host, container)["id"] == container.id


def test_forced_delete_of_an_unknown_id_is_runcs_answer(host: Host, make: Make) -> None:
    ours = host.container(spec(["true"]))
    plain = host.container(spec(["true"]), runtime="/usr/sbin/runc")
    for words in (("delete", "--force", "nobody"), ("delete", "nobody"), ("kill", "nobody", "9")):
        a, b = ours.call(*words, check=False), plain.call(*words, check=False)
        assert (a.returncode, a.stdout) == (b.returncode, b.stdout)
        assert a.stderr.partition("level=")[2] == b.stderr.partition("level=")[2]


@pytest.mark.parametrize("words", [("--version",), ("features",), ("list", "-q"), ("--help",)])
def test_what_is_not_ours_is_runcs(host: Host, make: Make, words: tuple[str, ...]) -> None:
    runtime = host.bundle / "bin/runc-architect"
    ours = host.call(runtime, "--root", "/run/test", *words, check=False)
    plain = host.call("/usr/sbin/runc", "--root", "/run/test", *words, check=False)
    assert ours.returncode == plain.returncode
    assert ours.stdout == plain.stdout


@pytest.mark.parametrize(
    "annotations",
    [
        {},
        {"other": "thing"},
        cri(policy=POLICY, kind="sandbox"),
        cri(policy={"version": 1, "containers": {"another": {}}}),
    ],
)
def test_a_container_that_does_not_ask_is_runcs_alone(
    make: Make, host: Host, keeper: KeeperDouble, annotations: dict[str, str]
) -> None:
    container = make(spec(["sh", "-c", "echo pid $$"], annotations=annotations))
    before = container.config()
    assert container.run() == 0
    assert container.output() == "pid 1\n"
    assert container.config() == before
    assert keeper.calls == []
    assert not (host.run_directory / "containers").exists()
    assert not (host.run_directory / "unmanaged").exists()


@pytest.mark.parametrize(
    ("reason", "annotations"),
    [
        ("NoPolicy", {**cri(), **IDLE}),
        ("BadPolicy", cri(policy={"version": 7})),
        ("BadPolicy", {"architect.dev/idle": "soon"}),
        ("HostNetwork", IDLE),
        ("DevIsBind", IDLE),
    ],
)
def test_a_container_that_cannot_be_managed_runs_untouched_and_the_reason_is_noted(
    make: Make, host: Host, reason: str, annotations: dict[str, str]
) -> None:
    config = spec(["sleep", "1000"], annotations=annotations)
    if reason in TERMINAL_LIKE:
        TERMINAL_LIKE[reason](config)
    container = make(config)
    before = container.config()
    container.start()
    assert container.config() == before
    note = host.run_directory / "unmanaged" / f"{container.id}.json"
    found = json.loads(note.read_text())
    assert (found["reason"], found["version"]) == (reason, 1)
    container.call("delete", "--force", container.id)
    assert not note.exists()


@pytest.mark.parametrize("command", ["nothing-of-that-name", "/nothing/here", "/etc/passwd"])
def test_a_missing_executable_is_runcs_error_in_runcs_words(make: Make, command: str) -> None:
    ours = make(spec([command], annotations=IDLE))
    plain = make(spec([command]), lower="/usr/sbin/runc")
    outcomes = []
    for container in (ours, plain):
        status = container.create(check=False)
        started = container.call("start", container.id, check=False).returncode
        last = json.loads(container.log.read_text().splitlines()[-1])
        text = last["msg"].replace(container.id, "ID")
        outcomes.append((status, started, last["level"], text))
    assert outcomes[0] == outcomes[1]


def test_exec_asks_the_keeper_and_then_runs(make: Make, keeper: KeeperDouble) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    done = container.call("exec", container.id, "echo", "hello")
    assert done.stdout == "hello\n"
    call = keeper.calls[-1]
    assert (call["op"], call["argv"]) == ("exec", ["echo", "hello"])


def test_before_exec_in_an_awake_pod_only_the_launcher_asks(
    make: Make, keeper: KeeperDouble
) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    keeper.answers["awake"] = {"ok": True, "state": "awake"}
    for _ in range(TRIES):
        before = len(keeper.calls)
        assert container.call("exec", container.id, "echo", "hello").stdout == "hello\n"
        if (asked := keeper.ops()[before:]) == ["awake"]:
            break
        # The launcher waits for a second, for which the double may have no processor.
        assert asked == ["awake", "exec"]
    else:
        pytest.fail("the launcher's answer is not taken")
    assert keeper.calls[-1]["container"] == container.id


def test_before_a_signal_the_keeper_is_asked_awake_or_not(make: Make, keeper: KeeperDouble) -> None:
    container = make(spec(UP, annotations=IDLE)).start()
    container.until("up\n")
    keeper.answers["awake"] = {"ok": True, "state": "awake"}
    before = len(keeper.calls)
    container.kill("TERM")
    assert container.wait() == 143
    assert keeper.ops()[before:] == ["kill"]


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": True, "state": "asleep"},
        {"ok": True, "state": "falling"},
        {"ok": True, "state": "unmanaged"},
        {"ok": True, "padding": "x" * 5000, "state": "awake"},
        {"ok": False, "error": {"code": "rejected", "message": '"state":"awake"'}},
    ],
    ids=lambda answer: str(answer.get("state", "refused")) + str(len(answer)),
)
def test_whatever_else_the_keeper_says_the_interpreter_decides(
    make: Make, keeper: KeeperDouble, answer: dict[str, Any]
) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    keeper.answers["awake"] = answer
    assert container.call("exec", container.id, "echo", "hello").stdout == "hello\n"
    assert keeper.ops()[-2:] == ["awake", "exec"]


@pytest.mark.parametrize("form", ["--process", "-p", "--process=", "words"])
def test_an_exec_probe_of_a_sleeping_container_is_answered_by_init(
    make: Make, keeper: KeeperDouble, form: str
) -> None:
    container = make(
        spec(["sleep", "1000"], annotations=IDLE, uid=1000, is_restricted=True)
    ).start()
    keeper.answers["exec"] = {"ok": True, "state": "asleep", "probe": True}
    process = container.bundle / "process.json"
    fields = dict(container.config()["process"], args=["sh", "-c", "echo asked; exit 1"])
    process.write_text(json.dumps(fields))
    words = {
        "--process": ["--process", str(process), container.id],
        "-p": ["-p", str(process), container.id],
        "--process=": [f"--process={process}", container.id],
        "words": [container.id, "sh", "-c", "echo asked; exit 1"],
    }[form]
    done = container.call("exec", *words)
    assert (done.stdout, done.returncode) == ("", 0)
    assert keeper.calls[-1]["argv"] == ["sh", "-c", "echo asked; exit 1"]
    assert sorted(p.name for p in container.bundle.glob("process*")) == ["process.json"]


def test_a_failed_wake_fails_exec_in_words_that_engines_pass_on(
    make: Make, keeper: KeeperDouble
) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    keeper.answers["exec"] = {
        "ok": False,
        "error": {"code": "failed", "reason": "RestoreFailed", "message": "no", "hint": "look"},
    }
    done = container.call("exec", container.id, "true", check=False)
    assert done.returncode == 255
    last = json.loads(container.log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert last["msg"].startswith(f"exec failed: container {container.id} is asleep")
    assert last["msg"] in done.stderr


@pytest.mark.parametrize(
    ("name", "asked"), [("TERM", True), ("10", True), ("KILL", False), ("SIGKILL", False)]
)
def test_kill_wakes_first_unless_nobody_is_needed(
    make: Make, keeper: KeeperDouble, name: str, asked: bool
) -> None:
    container = make(spec(UP, annotations=IDLE)).start()
    container.until("up\n")
    container.kill(name)
    container.wait()
    assert ("kill" in keeper.ops()) is asked


def test_the_lower_runtimes_state_of_another_root_is_not_ours(
    make: Make, host: Host, keeper: KeeperDouble
) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    done = host.call(
        container.runtime, "--root", "/run/other", "kill", container.id, "TERM", check=False
    )
    assert done.returncode != 0
    assert "does not exist" in done.stderr
    assert "kill" not in keeper.ops()


def test_a_go_program_gets_plain_tcp_listeners(make: Make) -> None:
    container = make(spec(["sh", "-c", "echo $GODEBUG"], annotations=IDLE, env=["GODEBUG=a=1"]))
    assert container.run() == 0
    assert container.output() == "a=1,multipathtcp=0\n"


IO_URING_SETUP = (
    "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
    "r = c.syscall(425, 1, None); print(r, ctypes.get_errno())"
)


def test_io_uring_is_absent_and_nothing_else_is(make: Make) -> None:
    managed = make(spec(python(IO_URING_SETUP), annotations=IDLE))
    assert managed.run() == 0
    assert managed.output() == "-1 38\n"


def test_a_broken_interpreter_leaves_the_container_to_runc(
    make: Make, host: Host, bundle: Path
) -> None:
    broken = host.directory / "broken/0"
    (broken / "bin").mkdir(parents=True)
    os.link(bundle / "bin/runc-architect", broken / "bin/runc-architect")
    container = make(
        spec(["sh", "-c", "echo pid $$"], annotations=IDLE),
        lower=str(broken / "bin/runc-architect"),
    )
    assert container.run() == 0
    assert container.output() == "pid 1\n"


def test_the_configured_runtime_is_used_and_never_ourselves(host: Host, bundle: Path) -> None:
    root = host.directory / "install"
    (root / "0/bin").mkdir(parents=True)
    program = root / "0/bin/runc-architect"
    program.write_bytes((bundle / "bin/runc-architect").read_bytes())
    program.chmod(0o755)
    other = host.directory / "other"
    other.write_text("#!/bin/sh\necho other $@\n")
    other.chmod(0o755)
    (root / "runtime.conf").write_text(f"runc={other}\n")
    assert host.call(program, "state", "x").stdout == "other state x\n"
    (root / "runtime.conf").write_text(f"runc={program}\n")
    assert host.call(program, "--version").stdout.startswith("runc version")


def test_where_there_is_no_runc_crun_will_do(host: Host, bundle: Path) -> None:
    program = host.directory / "install/0/bin/runc-architect"
    program.parent.mkdir(parents=True)
    program.write_bytes((bundle / "bin/runc-architect").read_bytes())
    program.chmod(0o755)
    for path in ("/usr/local/sbin/runc", "/usr/local/bin/runc", "/usr/sbin/runc", "/usr/bin/runc"):
        if Path(path).exists():
            host.call("mount", "--bind", "/dev/null", path)  # in the test's own mount namespace
    assert host.call(program, "--version").stdout.startswith("crun version")


def test_the_interpreter_is_isolated_from_the_bundles_directory(
    make: Make, host: Host, keeper: KeeperDouble
) -> None:
    container = make(spec(["true"], annotations=IDLE))
    (container.bundle / "json.py").write_text("raise SystemExit('loaded from the bundle')")
    inside = ["sh", "-c", 'cd "$0"; PYTHONPATH=. exec "$@"', str(container.bundle)]
    container.create(prefix=inside)
    container.call("start", container.id)
    assert container.wait() == 0
    assert "loaded from the bundle" not in container.said()
    assert keeper.ops()[0] == "register"
