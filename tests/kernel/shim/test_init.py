"""PID 1 of managed containers, in real containers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from architect.shim import oci
from support.runtime import (
    ASLEEP,
    AWAKE,
    END,
    IDLE,
    START,
    Container,
    Page,
    children,
    eventually,
    python,
    spec,
)

Make = Callable[..., Container]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -SEGV $$", 139),
        ("kill -KILL $$", 137),
    ],
)
def test_the_container_ends_with_the_applications_status(
    make: Make, code: str, status: int
) -> None:
    assert make(spec(["sh", "-c", code], annotations=IDLE)).run() == status


def test_an_interpreter_that_is_missing_gives_127(make: Make) -> None:
    # The file itself exists and is executable, so only exec can find out.
    container = make(spec(["/tmp/script"], annotations=IDLE))
    script = container.bundle / "script"
    script.write_text("#!/nowhere\n")
    script.chmod(0o755)
    config = container.config()
    config["mounts"].append(
        {"destination": "/tmp/script", "type": "bind", "source": str(script), "options": ["bind"]}
    )
    (container.bundle / "config.json").write_text(json.dumps(config))
    assert container.run() == 127
    assert "No such file" in container.stderr.read_text()


def test_sigterm_reaches_the_application_which_ends_with_its_own_status(make: Make) -> None:
    code = (
        "import os,signal,time\n"
        "signal.signal(15, lambda *a: (print('term', flush=True), os._exit(7)))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(.05)"
    )
    container = make(spec(python(code), annotations=IDLE)).start()
    container.until("up")
    container.kill("SIGTERM")
    assert container.wait() == 7
    assert container.output().split() == ["up", "term"]


def test_every_signal_that_can_be_forwarded_arrives_once(make: Make) -> None:
    numbers = [n for n in range(1, 65) if n not in (9, 17, 19, 32, 33)]
    code = (
        "import os,signal,time\n"
        f"ns={numbers}\n"
        "for n in ns: signal.signal(n, lambda s, f: os.write(1, b'got %d\\n' % s))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(.05)"
    )
    container = make(spec(python(code), annotations=IDLE)).start()
    container.until("up")
    for number in numbers:
        container_pid = container.pid
        os.kill(container_pid, number)
        container.until(f"got {number}\n")
    assert container.output().count("got") == len(numbers)


def test_signals_to_pid_1_from_inside_reach_the_application(make: Make) -> None:
    code = "trap 'echo hup; exit 5' HUP; kill -HUP 1; while :; do sleep 0.1; done"
    container = make(spec(["sh", "-c", code], annotations=IDLE))
    assert container.run() == 5
    assert container.output() == "hup\n"


def test_a_signal_to_the_applications_group_does_not_end_its_init(make: Make) -> None:
    code = "trap 'echo term' TERM; kill -TERM 0; exit 4"
    container = make(spec(["sh", "-c", code], annotations=IDLE))
    assert container.run() == 4
    assert container.output() == "term\n"


def test_orphans_stay_in_the_tree_and_are_reaped(make: Make) -> None:
    code = (
        "import os,time\n"
        "inner = os.getppid()\n"
        "if not os.fork():\n"
        " if not os.fork():\n"
        "  while os.getppid() != inner: time.sleep(.01)\n"
        "  print('orphan of the inner init', inner > 1, flush=True); os._exit(0)\n"
        " os._exit(0)\n"
        "os.wait()\n"
        "while True: time.sleep(1)"
    )
    container = make(spec(python(code), annotations=IDLE)).start()
    container.until("orphan of the inner init True")
    (inner,) = children(container.pid)
    (application,) = eventually(
        lambda: (found := list(children(inner))) and len(found) == 1 and found,
        what="the orphan is reaped",
    )
    assert "python3" in Path(f"/proc/{application}/cmdline").read_text()


def test_the_inner_init_holds_nothing_but_stdio(make: Make) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    (inner,) = eventually(lambda: list(children(container.pid)), what="inner init")
    eventually(
        lambda: sorted(os.listdir(f"/proc/{inner}/fd")) == ["0", "1", "2"],
        what="descriptors of the inner init",
    )
    assert "memfd" not in Path(f"/proc/{inner}/maps").read_text()
    assert Page(container.pid).target
    assert sorted(os.listdir(f"/proc/{container.pid}/fd")) == ["0", "1", "2", "3"]
    assert "memfd:architect-init" in os.readlink(f"/proc/{container.pid}/fd/3")


def test_the_application_inherits_no_mask_no_descriptor_and_no_handler(make: Make) -> None:
    code = "grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/self/status; ls /proc/self/fd"
    ours = make(spec(["sh", "-c", code], annotations=IDLE))
    plain = make(spec(["sh", "-c", code]), lower="/usr/sbin/runc")
    assert ours.run() == plain.run() == 0
    assert ours.output() == plain.output()


def test_a_restricted_container_runs_and_is_controllable(make: Make) -> None:
    container = make(
        spec(["sleep", "1000"], annotations=IDLE, uid=1000, is_restricted=True)
    ).start()
    page = Page(container.pid)
    eventually(lambda: page.version == 1 and page.target, what="page")
    status = Path(f"/proc/{page.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Uid:\t1000\t1000" in status
    page.set(status=42, state=END)
    assert container.wait() == 42


def test_without_memfd_the_application_is_pid_1(make: Make) -> None:
    config = spec(["sh", "-c", "echo pid $$"], annotations=IDLE, uid=1000, is_restricted=True)
    rules = config["linux"]["seccomp"]["syscalls"]
    config["linux"]["seccomp"] = {
        **config["linux"]["seccomp"],
        "syscalls": [{**rules[0], "names": [n for n in rules[0]["names"] if n != "memfd_create"]}],
    }
    container = make(config)
    assert container.run() == 0
    assert container.output() == "pid 1\n"


def test_a_pids_limit_leaves_an_application_without_init_rather_than_none(make: Make) -> None:
    config = spec(["echo", "up"], annotations=IDLE)
    config["linux"]["resources"] = {"pids": {"limit": 1}}
    container = make(config)
    assert container.run() == 0
    assert container.output() == "up\n"


def test_while_asleep_the_end_of_the_tree_is_not_the_end_of_the_container(make: Make) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    page = Page(container.pid)
    (inner,) = eventually(lambda: list(children(container.pid)), what="inner init")
    page.set(state=ASLEEP)
    eventually(lambda: page.seen == ASLEEP, what="asleep is seen")
    os.kill(inner, signal.SIGKILL)
    eventually(lambda: page.reaped, what="the tree is reaped")
    assert page.status == 137
    assert Path(f"/proc/{container.pid}").exists()
    page.set(state=AWAKE)
    assert container.wait() == 137


def test_signals_wait_for_the_wake(make: Make) -> None:
    code = (
        "import os,signal,time\n"
        "for n in (1, 10, 40): signal.signal(n, lambda s, f: os.write(1, b'got %d\\n' % s))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(.05)"
    )
    container = make(spec(python(code), annotations=IDLE)).start()
    container.until("up")
    page = Page(container.pid)
    page.set(state=ASLEEP)
    eventually(lambda: page.seen == ASLEEP, what="asleep is seen")
    for number in (1, 10, 40):
        os.kill(container.pid, number)
    eventually(lambda: page.pending == 1 << 0 | 1 << 9 | 1 << 39, what="all pending")
    assert "got" not in container.output()
    page.set(state=AWAKE)
    for number in (1, 10, 40):
        container.until(f"got {number}\n")
    eventually(lambda: page.pending == 0, what="none is pending")


def make_hollow(container: Container, bundle: Path) -> None:
    """Rewrite config.json as ``create`` does when a checkpoint is on its way."""
    init = next(bundle.parent.glob("init/*/init"))
    config = oci.managed(
        container.config(),
        init=str(init),
        machine=os.uname().machine,
        denies_io_uring=True,
        is_hollow=True,
    )
    (container.bundle / "config.json").write_text(json.dumps(config))


def test_a_hollow_container_waits_and_takes_what_the_keeper_brings(
    make: Make, bundle: Path
) -> None:
    container = make(spec(["sh", "-c", "echo never"], annotations=IDLE))
    make_hollow(container, bundle)
    container.start()
    page = Page(container.pid)
    assert (page.hollow, page.state, page.target) == (1, ASLEEP, 0)
    assert list(children(container.pid)) == []
    # An orphan of an exec session becomes init's child, as a restored tree does.
    assert container.exec("sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 0") == 0
    (restored,) = eventually(lambda: list(children(container.pid)), what="a child of init")
    status = Path(f"/proc/{restored}/status").read_text()
    inside = int(next(x for x in status.splitlines() if x.startswith("NSpid")).split()[-1])
    page.set(target=inside, state=AWAKE)
    eventually(lambda: page.seen == AWAKE, what="awake is seen")
    container.kill("SIGTERM")
    assert container.wait() == 143
    assert container.output() == ""


def test_a_hollow_container_can_start_fresh(make: Make, bundle: Path) -> None:
    container = make(spec(["sh", "-c", "echo fresh; exit 6"], annotations=IDLE))
    make_hollow(container, bundle)
    container.start()
    page = Page(container.pid)
    page.set(state=START)
    assert container.wait() == 6
    assert container.output() == "fresh\n"


def test_a_second_tree_does_not_end_with_the_first_ones_status(make: Make) -> None:
    container = make(spec(["sleep", "1000"], annotations=IDLE)).start()
    page = Page(container.pid)
    (inner,) = eventually(lambda: list(children(container.pid)), what="inner init")
    page.set(state=ASLEEP)
    eventually(lambda: page.seen == ASLEEP, what="asleep is seen")
    os.kill(inner, signal.SIGKILL)
    eventually(lambda: page.reaped, what="the tree is reaped")
    page.set(state=START)
    eventually(lambda: page.seen == AWAKE and page.state == AWAKE, what="started again")
    container.kill("SIGTERM")
    assert container.wait() == 143
