"""What an engine and an application see, under plain runc and under ours, managed and not.

Every test runs three times, and with `long` three times more with crun below: what fails under the
plain runtime is wrong in the test, what differs when managed is a decision, written here with
`by_kind` and in docs/runtime.md ("What changes in a managed container"). Unmanaged containers
differ in nothing.

Longer than a module should be, because it is one list: the whole of what a runtime promises.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.kinds import (
    MANAGED,
    PLAIN,
    RUNTIMES,
    UNMANAGED,
    Hosts,
    Making,
    kinds,
    made,
    plain,
)
from support.look import LOOK, without_decisions
from support.runtime import (
    DEADLINE_SECONDS,
    RUNTIME_DEFAULT,
    Container,
    Spec,
    eventually,
    python,
    spec,
)


@pytest.fixture(params=kinds(PLAIN, UNMANAGED, MANAGED, long=(UNMANAGED,)))
def make(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Making]:
    yield from made(hosts, request.param)


def shell(code: str, **options: Any) -> Spec:
    return spec(["sh", "-c", code], **options)


def exec_later(container: Container, *words: str, **options: Any) -> subprocess.Popen[str]:
    """Start an exec session that runs on beside the test."""
    return subprocess.Popen(
        container.host.command(*container.words("exec", *words)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


# The end


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("exec sh -c 'exit 9'", 9),
        ("sh -c 'kill -SEGV $$'; exit $?", 139),
        ("sh -c 'kill -KILL $$'; exit $?", 137),
    ],
)
def test_the_exit_status_is_the_applications(make: Making, code: str, status: int) -> None:
    assert make(shell(code)).run() == status


def test_a_signal_to_oneself_ends_whoever_is_not_pid_1(make: Making) -> None:
    container = make(shell("kill -TERM $$; kill -USR1 $$; exit 3"))
    assert container.run() == make.by_kind(3, managed=143)


def test_a_broken_pipe_is_an_error_to_pid_1_and_the_end_of_others(make: Making) -> None:
    container = make(shell("trap '' TERM; seq 1 1000000 | true; exec seq 1 10000000"))
    reader, writer = os.pipe()
    os.close(reader)
    pid_file = container.bundle / "init.pid"
    words = container.words("create", "--bundle", str(container.bundle))
    subprocess.run(
        container.host.command(*words, "--pid-file", str(pid_file), container.id),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.DEVNULL,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    os.close(writer)
    container.pid = int(pid_file.read_text())
    container.call("start", container.id)
    assert container.wait() == make.by_kind(1, managed=128 + signal.SIGPIPE)


# Signals and grace periods

TRAPPING = "trap 'echo got {0}; exit 5' {0}; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "WINCH"])
def test_a_handled_signal_arrives(make: Making, name: str) -> None:
    container = make(shell(TRAPPING.format(name))).start()
    container.until("up")
    container.kill(f"SIG{name}")
    assert container.wait() == 5
    assert f"got {name}" in container.output()


def test_a_number_is_a_signal_too(make: Making) -> None:
    container = make(shell(TRAPPING.format("USR2"))).start()
    container.until("up")
    container.kill(str(int(signal.SIGUSR2)))
    assert container.wait() == 5


def test_the_whole_grace_period_is_the_applications(make: Making) -> None:
    code = "trap 'sleep 1; echo saved; exit 6' TERM; echo up; while :; do sleep 0.05; done"
    container = make(shell(code)).start()
    container.until("up")
    container.kill("TERM")
    assert container.wait() == 6
    assert container.output().endswith("saved\n")


def test_sigterm_without_a_handler(make: Making) -> None:
    container = make(shell("echo up; sleep 1000 & wait; exit 2")).start()
    container.until("up")
    container.kill("TERM")
    if make.is_managed:
        assert container.wait() == 143
    else:
        # PID 1 ignores it: nothing happens until the end of the grace period.
        assert container.call("exec", container.id, "echo", "runs on").stdout == "runs on\n"
        container.kill("KILL")
        assert container.wait() == 137


@pytest.mark.parametrize("name", ["KILL", "9", "SIGKILL"])
def test_sigkill_ends_it_at_once(make: Making, name: str) -> None:
    container = make(shell("trap '' TERM; echo up; sleep 1000 & wait; sleep 1000")).start()
    container.until("up")
    container.kill(name)
    assert container.wait() == 137


def test_a_signal_for_an_ended_container_is_refused(make: Making) -> None:
    container = make(shell("exit 0"))
    assert container.run() == 0
    done = container.call("kill", container.id, "TERM", check=False)
    assert done.returncode == 1
    words = make.by_lower(runc=("not running", "already finished"), crun=("No such process",))
    assert any(text in done.stderr for text in words)


def test_sigstop_stops_pid_1(make: Making) -> None:
    container = make(shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")).start()
    container.until("3\n")
    container.kill("STOP")
    states = Path(f"/proc/{container.pid}/stat")
    eventually(lambda: states.read_text().split(")")[1].split()[0] == "T", what="a stopped PID 1")
    before = len(container.output())
    if make.is_managed:
        # It is init that stops: the application goes on.
        eventually(lambda: len(container.output()) > before, what="an application that goes on")
    container.kill("CONT")
    eventually(lambda: len(container.output()) > before, what="an application that goes on")


def test_kill_all_ends_exec_sessions_too(make: Making) -> None:
    container = make(shell("sleep 1000 & echo up; wait")).start()
    container.until("up")
    session = exec_later(container, container.id, "sh", "-c", "echo in; exec sleep 1000")
    assert session.stdout is not None and session.stdout.readline() == "in\n"
    container.call("kill", "--all", container.id, "KILL")
    assert container.wait() == 137
    session.communicate(timeout=DEADLINE_SECONDS)
    assert session.returncode != 0


# Limits

EAT = "b = []\nwhile True: b.append(bytearray(b'x' * (1 << 20)))"


def limited(config: Spec, **memory: int) -> Spec:
    config["linux"]["resources"] = {"memory": memory}
    return config


def cgroup(container: Container) -> Path:
    for line in Path(f"/proc/{container.pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or not controllers:
            for mount in Path("/proc/self/mountinfo").read_text().splitlines():
                fields, _, tail = mount.partition(" - ")
                kind, _, options = tail.split(" ", 2)
                if kind == "cgroup" and "memory" in options.split()[-1].split(","):
                    return Path(fields.split()[4]) / path.lstrip("/")
                if kind == "cgroup2" and not controllers:
                    return Path(fields.split()[4]) / path.lstrip("/")
    raise AssertionError("no memory cgroup")


def test_out_of_memory_ends_it_as_the_kernel_says(make: Making) -> None:
    container = make(limited(spec(python(EAT)), limit=48 << 20, swap=48 << 20))
    container.create()
    before = cgroup(container)  # of one that has ended the kernel does not tell it
    container.call("start", container.id)
    assert container.wait() == 137
    assert before.exists()
    control = before / "memory.oom_control"
    text = (control if control.exists() else before / "memory.events").read_text()
    assert "oom_kill 1" in text.splitlines()


def test_out_of_memory_of_a_child_is_the_applications_to_handle(make: Making) -> None:
    code = f'python3 -Suc "{EAT}"; echo child $?; exit 4'
    config = limited(shell(code), limit=48 << 20, swap=48 << 20)
    container = make(config)
    assert container.run() == 4
    assert container.output() == "child 137\n"


def test_update_changes_limits(make: Making) -> None:
    container = make(limited(shell("echo up; sleep 1000"), limit=64 << 20, swap=64 << 20)).start()
    container.until("up")
    directory = cgroup(container)
    file = directory / "memory.limit_in_bytes"
    file = file if file.exists() else directory / "memory.max"
    container.call("update", "--memory", str(32 << 20), container.id)
    assert int(file.read_text()) == 32 << 20
    resources = json.dumps({"memory": {"limit": 40 << 20, "swap": 64 << 20}})
    container.call("update", "--resources=-", container.id, input=resources)
    assert int(file.read_text()) == 40 << 20


def test_pause_and_resume(make: Making) -> None:
    container = make(shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")).start()
    container.until("3\n")
    container.call("pause", container.id)
    assert json.loads(container.call("state", container.id).stdout)["status"] == "paused"
    before = container.output()
    refused = container.call("exec", container.id, "true", check=False)
    assert refused.returncode != 0
    assert "paused" in refused.stderr
    assert container.output() == before
    container.call("resume", container.id)
    eventually(lambda: len(container.output()) > len(before), what="output after resume")
    assert json.loads(container.call("state", container.id).stdout)["status"] == "running"


# exec, ps, state


def test_exec_has_its_own_output_and_status(make: Making) -> None:
    container = make(shell("echo up; sleep 1000")).start()
    container.until("up")
    code = "echo out; echo err >&2; exit 42"
    done = container.call("exec", container.id, "sh", "-c", code, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 42)
    killed = container.call("exec", container.id, "sh", "-c", "kill -KILL $$", check=False)
    assert killed.returncode == 137
    missing = container.call("exec", container.id, "no-such-thing", check=False)
    assert missing.returncode == 255
    assert "executable file" in missing.stderr and "not found in $PATH" in missing.stderr


def test_exec_reads_its_stdin(make: Making) -> None:
    container = make(shell("echo up; sleep 1000")).start()
    container.until("up")
    done = container.call("exec", container.id, "sh", "-c", "cat; echo end", input="a\nb\n")
    assert done.stdout == "a\nb\nend\n"


def test_exec_takes_environment_directory_user_and_capabilities(make: Making) -> None:
    look = "echo $A $(pwd) $(id -u) $(id -g); grep CapBnd /proc/self/status"
    container = make(shell("echo up; sleep 1000")).start()
    container.until("up")
    done = container.call(
        # crun takes nothing else then, so that PATH is named, too.
        *("exec", "--env", "A=b", "--env", "PATH=/usr/bin:/bin"),
        *("--cwd", "/tmp", "--user", "7:8", "--cap", "CAP_KILL"),
        *(container.id, "sh", "-c", look),
    )
    assert done.stdout.splitlines()[0] == "b /tmp 7 8"
    assert int(done.stdout.split()[-1], 16) & 1 << 5


def test_a_detached_exec_returns_at_once_with_its_pid(make: Making) -> None:
    container = make(shell("echo up; sleep 1000")).start()
    container.until("up")
    pid_file = container.bundle / "x.pid"
    subprocess.run(
        container.host.command(
            *container.words("exec", "--detach", "--pid-file", str(pid_file)),
            *(container.id, "sh", "-c", "sleep 0.3; exit 11"),
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    _, status = os.waitpid(int(pid_file.read_text()), 0)
    assert os.waitstatus_to_exitcode(status) == 11


def test_ps_lists_every_process(make: Making) -> None:
    container = make(shell("echo up; sleep 1000 & wait")).start()
    container.until("up")
    # The shell's child is a shell, too, until it has become what it is to be.
    sleeper = eventually(
        lambda: [p for p in map(str, _everybody(container)) if _command(p) == "sleep"],
        what="the process in the background",
    )
    commands = sorted(_command(str(pid)) for pid in _everybody(container))
    assert len(sleeper) == 1
    assert commands == sorted(["sh", "sleep", *make.by_kind([], managed=["init", "init"])])


def _everybody(container: Container) -> list[int]:
    found = json.loads(container.call("ps", "--format", "json", container.id).stdout)
    return [int(pid) for pid in found]


def _command(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_state_tells_pid_and_status(make: Making) -> None:
    container = make(shell("exit 0"))
    container.create()
    created = json.loads(container.call("state", container.id).stdout)
    assert (created["status"], created["pid"]) == ("created", container.pid)
    container.call("start", container.id)
    container.wait()
    ended = json.loads(container.call("state", container.id).stdout)
    assert (ended["status"], ended["pid"]) == ("stopped", 0)


# Standard streams


def test_stdin_is_read_to_its_end(make: Making) -> None:
    container = make(shell("cat; echo end"))
    done = container.host.call(
        *container.words("run", "--bundle", str(container.bundle), container.id),
        input="one\ntwo\n",
    )
    assert done.stdout == "one\ntwo\nend\n"
    forget_foreground(container)


def test_run_in_the_foreground_has_the_applications_status(make: Making) -> None:
    container = make(shell("echo out; echo err >&2; exit 17"))
    done = container.host.call(
        *container.words("run", "--bundle", str(container.bundle), container.id),
        check=False,
        input="",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 17)
    forget_foreground(container)


def forget_foreground(container: Container) -> None:
    """runc removes what it ran in the foreground by itself; nobody calls `delete`."""
    assert container.call("state", container.id, check=False).returncode != 0


def test_what_ran_in_the_foreground_can_be_made_again(make: Making) -> None:
    container = make(shell("echo once; [ ! -e /tmp/stay ] && exit 0"))
    words = container.words("run", "--bundle", str(container.bundle), container.id)
    for _ in range(2):
        assert container.host.call(*words, input="").stdout == "once\n"
    again = make.host.container(
        {**spec(["sleep", "1000"]), "annotations": container.config()["annotations"]},
        runtime=container.runtime,
        has_pipes=True,
    )
    again.id = container.id
    make.made.append(again)
    again.start()
    if make.is_managed:
        assert make.host.ask("sleep", again.id)["status"]["state"] == "asleep"
        assert again.call("exec", again.id, "echo", "awake").stdout == "awake\n"


def test_closed_output(make: Making) -> None:
    container = make(shell("echo one; exec >&- 2>&-; sleep 1000"), has_pipes=True).start()
    container.until("one")
    assert container.output() == "one\n"
    if not make.is_managed:
        # Nobody else writes: the engine's reader sees the end.
        for pump in container._pumps:
            pump.wait(DEADLINE_SECONDS)
    else:
        # The inits keep it for the wake.
        assert all(pump.poll() is None for pump in container._pumps)


# Removal


def test_forced_delete_of_a_running_container(make: Making) -> None:
    container = make(shell("trap '' TERM; echo up; sleep 1000 & wait; sleep 1000")).start()
    container.until("up")
    container.call("delete", "--force", container.id)
    assert container.wait() == 137
    assert container.call("state", container.id, check=False).returncode == 1
    container.call("delete", "--force", container.id)  # engines do so twice


def test_forced_delete_of_an_unknown_id(make: Making) -> None:
    container = make(shell("true"))
    done = container.call("delete", "--force", "nobody-knows", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    refused = container.call("delete", "nobody-knows", check=False)
    assert refused.returncode == 1
    assert make.by_lower(runc="does not exist", crun="No such file") in refused.stderr


def test_delete_after_a_crash(make: Making) -> None:
    container = make(shell("echo up; sleep 1000")).start()
    container.until("up")
    os.kill(container.pid, signal.SIGKILL)  # as the kernel may
    assert container.wait() == 137
    container.call("delete", "--force", container.id)
    assert container.call("state", container.id, check=False).returncode == 1


def test_a_container_that_was_created_and_never_started(make: Making) -> None:
    container = make(shell("echo never"))
    container.create()
    container.call("delete", "--force", container.id)
    container.wait()
    assert container.output() == ""


def test_an_id_can_be_used_again(make: Making) -> None:
    container = make(shell("exit 3"))
    assert container.run() == 3
    container.call("delete", container.id)
    container.status = None
    assert container.run() == 3
    # Engines may forget `delete` after a crash of theirs.
    refused = container.create(check=False)
    assert refused == 1
    assert "already" in container.said() or "exists" in container.said()


def test_an_id_whose_end_we_never_heard_of_can_be_used_again(make: Making) -> None:
    container = make(shell("echo up; exec sleep 1000"), has_pipes=True).start()
    container.until("up")
    if make.is_managed:
        assert make.host.ask("status", container.id)["containers"]["main"]["init_pid"]
    ours, container.runtime = container.runtime, RUNTIMES[make.lower]
    container.call("delete", "--force", container.id)
    container.wait()
    container.runtime, container.status = ours, None
    container.start()
    container.until("up")
    if make.is_managed:
        assert make.host.ask("sleep", container.id)["status"]["state"] == "asleep"
    assert container.call("exec", container.id, "echo", "awake").stdout == "awake\n"


def test_a_second_create_with_a_living_id_changes_nothing(make: Making) -> None:
    container = make(shell("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")).start()
    container.until("up")
    pid, output = container.pid, container.stdout
    records = make.host.run_directory / "containers"
    before = [file.read_text() for file in records.glob("*")]
    container.stdout = container.bundle / "second"
    assert container.create(check=False) == 1
    assert [file.read_text() for file in records.glob("*")] == before
    container.stdout, container.pid = output, pid
    assert container.call("exec", container.id, "echo", "lives").stdout == "lives\n"
    container.kill("TERM")
    assert container.wait() == 5


# What the application finds


def usual() -> Spec:
    return spec([*python(LOOK), "one", "two words", ""])


def restricted() -> Spec:
    config = spec([*python(LOOK), "-x"], uid=1000, is_restricted=True, env=["A=1", "GODEBUG=x=1"])
    config["process"]["user"].update(additionalGids=[7, 8], umask=0o27)
    config["process"]["cwd"] = "/tmp"
    config["process"]["oomScoreAdj"] = 500
    config["process"]["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    config["linux"]["seccomp"] = {
        **RUNTIME_DEFAULT,
        "syscalls": [
            {
                "action": "SCMP_ACT_ALLOW",
                "names": [*RUNTIME_DEFAULT["syscalls"][0]["names"], "sched_getscheduler"],
            }
        ],
    }
    return config


def powerful() -> Spec:
    config = spec(python(LOOK))
    held = ["CAP_NET_ADMIN", "CAP_SYS_CHROOT", "CAP_SETPCAP"]
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    config["process"]["capabilities"] = dict.fromkeys(names, held)
    return config


def seen(hosts: Hosts, kind: str, config: Spec) -> dict[str, Any]:
    making = Making(hosts(plain(kind)), kind)
    with closing(making):
        container = making(config)
        assert container.run() == 0, container.said()
        found = dict(json.loads(container.output()))
    found["cgroup"] = [line.replace(container.id, "ID") for line in found["cgroup"]]
    return found


@pytest.mark.parametrize("kind", kinds(UNMANAGED, MANAGED))
@pytest.mark.parametrize("config", [usual, restricted, powerful])
def test_an_application_finds_what_it_finds_under_runc(
    hosts: Hosts, kind: str, config: Callable[[], Spec]
) -> None:
    lower, ours = seen(hosts, plain(kind), config()), seen(hosts, kind, config())
    assert (without_decisions(ours, lower) if kind.endswith(f"-{MANAGED}") else ours) == lower


def test_passed_descriptors_reach_the_application(make: Making) -> None:
    container = make(shell("cat <&3; ls /proc/self/fd"))
    reader, writer = os.pipe()
    os.write(writer, b"passed\n")
    os.close(writer)
    os.set_inheritable(reader, True)
    words = container.words("create", "--preserve-fds", "1", "--bundle", str(container.bundle))
    words += ["--pid-file", str(container.bundle / "p"), container.id]
    with open(container.stdout, "wb") as out:
        subprocess.run(
            ["bash", "-c", f'exec "$@" 3<&{reader}', "-", *container.host.command(*words)],
            pass_fds=[reader],
            stdin=subprocess.DEVNULL,
            stdout=out,
            check=True,
            timeout=DEADLINE_SECONDS,
        )
    os.close(reader)
    container.pid = int((container.bundle / "p").read_text())
    container.call("start", container.id)
    assert container.wait() == 0
    assert container.output().startswith("passed\n")


def test_orphans_go_to_pid_1(make: Making) -> None:
    code = (
        "import os, time\n"
        "if not os.fork():\n"
        " if not os.fork():\n"
        "  while os.getppid() != PARENT: time.sleep(.01)\n"
        "  print('mine', flush=True); os._exit(0)\n"
        " os._exit(0)\n"
        "os.wait()\n"
        "while True: time.sleep(1)"
    )
    # Under runc the application is PID 1 and must reap them; managed, the inner init does.
    parent = make.by_kind("1", managed="os.getsid(0)")
    container = make(spec(python(code.replace("PARENT", parent)))).start()
    container.until("mine")


def test_hooks_run_with_the_engines_pid(make: Making) -> None:
    container = make(shell("echo up; sleep 1000"))
    config = container.config()
    directory = container.bundle
    config["hooks"] = {
        name: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {directory}/{name}"]}]
        for name in ("createRuntime", "poststart", "poststop")
    }
    (directory / "config.json").write_text(json.dumps(config))
    container.start()
    for name in ("createRuntime", "poststart"):
        # crun runs the latter beside the application that has begun.
        said = eventually(functools.partial(_told, directory / name), what=name)
        state = json.loads(said)
        assert (state["id"], state["pid"]) == (container.id, container.pid)
    container.call("delete", "--force", container.id)
    container.wait()
    assert json.loads((directory / "poststop").read_text())["id"] == container.id


def _told(file: Path) -> str:
    """Return what a hook has written of its state, once that is all of it."""
    text = file.read_text() if file.exists() else ""
    return text if text.rstrip().endswith("}") else ""


def test_readonly_and_masked_paths_hold(make: Making) -> None:
    code = "echo x > /proc/sys/kernel/domainname; cat /proc/kcore | wc -c; touch /x"
    container = make(shell(code))
    assert container.run() == 1
    assert container.output() == "0\n"
    assert container.stderr.read_text().count("Read-only file system") == 2


def test_a_setuid_program_and_no_new_privileges(make: Making) -> None:
    config = shell("grep NoNewPrivs /proc/self/status | tr -d '\\t'; su -c id nobody", uid=1000)
    config["process"]["noNewPrivileges"] = True
    container = make(config)
    assert container.run() != 0
    assert container.output() == "NoNewPrivs:1\n"
