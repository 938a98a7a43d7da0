"""gVisor pods that are saved while they run, and pods that go on from what was saved."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from architect.api import names
from architect.core import wire
from architect.core.errors import Rejected, Unavailable
from support.runtime import DEADLINE_SECONDS, DaemonDouble, eventually

ANSWERS = names.RUN / "daemon.sock"
RUNTIME = "/opt/architect/current/bin/architect-runtime"
EMPTY_DIR = "/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/scratch"
SAVED = "/var/lib/architect/requests"


def policy(*names_: str, start_from: str | None = "warm", **more: Any) -> dict[str, Any]:
    containers: dict[str, Any] = {name: {} for name in names_ or ("web",)}
    fixed = {"version": 1, "migrate": "false", "start_from": start_from}
    return {**fixed, "containers": containers, **more}


class Saver:
    """Does what the daemon does with gVisor pods of one node, and stands in its place."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.root = Path(f"/proc/{node.machine.running_pid}/root")
        node.run("mkdir", "-p", str(names.RUN))
        self.daemon = DaemonDouble(self.root / str(names.RUN)[1:])

    def keeper(self) -> wire.Client:
        path = self.root / str(names.KEEPER_SOCKET)[1:]
        return wire.Client(path, timeout_seconds=DEADLINE_SECONDS)

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        with self.keeper() as client:
            return client.call(op, **arguments)

    def save(self, pod: Any) -> str:
        """Copy a running pod; return where the copy lies."""
        directory = f"{SAVED}/{pod.name}"
        with self.keeper() as client:
            client.call("copy", pod=pod.name, reason="test")
            self.pack(pod, directory)
            client.call("go_on", pod=pod.name)
        return directory

    def pack(self, pod: Any, directory: str) -> None:
        self.node.run("mkdir", "-p", directory)
        self.node.run(RUNTIME, "save-files", pod.name, "--into", directory)

    def bring(self, directory: str) -> None:
        """Have what was saved come for each pod that asks."""

        def arriving(asked: dict[str, Any]) -> dict[str, Any]:
            target = names.ARRIVALS / asked["pod"]
            if not (self.root / str(target)[1:]).exists():
                self.node.run("mkdir", "-p", str(names.ARRIVALS))
                self.node.run("cp", "-r", directory, str(target))
            return {"restore": self.has_come(asked["pod"])}

        self.daemon.answers["arriving"] = arriving

    def has_come(self, uid: str) -> bool:
        return (self.root / str(names.ARRIVALS)[1:] / uid / "sandbox/image").is_dir()

    def close(self) -> None:
        self.daemon.close()
        for directory in (SAVED, names.ARRIVALS, names.PODS):
            self.node.run("rm", "-rf", str(directory))


@pytest.fixture
def saver(node: Any) -> Iterator[Saver]:
    made = Saver(node)
    yield made
    made.close()


def test_several_pods_go_on_from_one_that_goes_on_itself(
    saver: Saver, new_pod: Callable[..., Any]
) -> None:
    saver.daemon.answers["arriving"] = {"restore": False, "reason": "NoPersistentCheckpoint"}
    old = new_pod(policy=policy("web", "side"))
    scratch = EMPTY_DIR.format(uid=old.name)
    saver.node.run("mkdir", "-p", scratch)
    mount = {"host_path": scratch, "container_path": "/scratch"}
    opt = {"host_path": "/opt", "container_path": "/opt", "readonly": True}
    journal = {"envs": [{"key": "JOURNAL", "value": "/scratch/journal"}], "mounts": [opt, mount]}
    old.server("web", **journal)
    old.server("side", port=9090)
    old.exec("web", "sh", "-c", "echo layer >/root/file; echo shared >/dev/shm/file")
    before = old.get("/digest")
    directory = saver.save(old)
    assert old.get()["count"] == before["count"] + 1, "it went on"
    saver.bring(directory)
    for _ in range(2):
        new = new_pod(policy=policy("web", "side"))
        target = EMPTY_DIR.format(uid=new.name)
        saver.node.run("mkdir", "-p", target)
        mount["host_path"] = target
        new.start("web", *new.SERVER, "8080", **journal)
        assert not new.answers(within_seconds=1), "it waits for the other one"
        new.start("side", *new.SERVER, "9090")
        eventually(new.answers, what="an answer of the one that goes on")
        after = new.get("/digest")
        assert (after["identity"], after["digest"]) == (before["identity"], before["digest"])
        assert after["host"] == new.name
        assert after["count"] > before["count"]
        assert new.get(port=9090)["host"] == new.name
        assert new.exec("web", "cat", "/root/file", "/dev/shm/file") == "layer\nshared"
        lines = saver.node.run("cat", f"{target}/journal").split()
        assert lines[::2] == [before["identity"]] * (len(lines) // 2)
        assert int(lines[-1]) == after["count"], "the file goes on where it was"
        assert not saver.has_come(new.name)
        assert new.stop("web") == 7, "its own handler"


@pytest.fixture
def saved(saver: Saver, new_pod: Callable[..., Any]) -> tuple[Any, str]:
    """A pod with a server, and where its copy lies."""
    old = new_pod(policy=policy(start_from=None))
    old.server("web")
    return old, saver.save(old)


def test_a_hook_runs_and_it_is_told_that_the_pod_goes_on(
    saver: Saver, saved: tuple[Any, str], new_pod: Callable[..., Any]
) -> None:
    old, directory = saved
    saver.bring(directory)
    hook = ["sh", "-c", "hostname >/root/hook; echo $TOLD"]
    wanted = policy(containers={"web": {"after_restore": hook}})
    with saver.keeper() as events:
        events.call("subscribe")
        new = new_pod(policy=wanted)
        new.server("web", envs=[{"key": "TOLD", "value": "of the new pod"}])
        told = until(events, "restored")
        ran = until(events, "hook")
    assert (told["pod"], told["namespace"], told["name"]) == (new.name, "default", new.name)
    assert (ran["container"], ran["status"], ran["message"]) == ("web", 0, "of the new pod")
    assert new.exec("web", "cat", "/root/hook") == new.name
    assert new.get()["identity"] == old.get()["identity"]


@pytest.mark.long
def test_one_that_went_on_is_saved_and_its_container_replaced_as_any_others(
    saver: Saver, saved: tuple[Any, str], new_pod: Callable[..., Any]
) -> None:
    old, directory = saved
    saver.bring(directory)
    second = new_pod(policy=policy())
    second.server("web")
    saver.bring(saver.save(second))
    third = new_pod(policy=policy())
    third.server("web")
    assert third.get()["identity"] == old.get()["identity"]
    assert third.stop("web") == 7
    third.node.crictl("rm", third.containers["web"])
    third.server("web")
    assert third.get()["identity"] != old.get()["identity"], "memory is used once"
    assert third.get()["host"] == third.name


@pytest.mark.parametrize("wish", ["fresh", pytest.param("retry", marks=pytest.mark.long)])
def test_an_image_that_is_damaged_ends_the_sandbox_and_the_policy_says_what_the_next_one_does(
    saver: Saver, saved: tuple[Any, str], new_pod: Callable[..., Any], wish: str
) -> None:
    old, directory = saved
    saver.bring(directory)
    state = f"{directory}/sandbox/image/checkpoint.img"
    saver.node.run("cp", state, f"{state}.good")
    saver.node.run("truncate", "--size", "40000", state)
    with saver.keeper() as events:
        events.call("subscribe")
        new = new_pod(policy=policy(on_restore_failure=wish))
        new.create("web", *new.SERVER, "8080")
        said = new.node.fails("crictl", "start", new.containers["web"])
        told = until(events, "wake-failed")
    assert "failed to load kernel" in said
    assert (told["pod"], told["reason"], told["policy"]) == (new.name, "RestoreFailed", wish)
    assert "failed to load kernel" in told["message"]
    eventually(lambda: new.inspect()["status"]["state"] == "SANDBOX_NOTREADY", what="its end")
    assert saver.has_come(new.name) is (wish == "retry")
    kept = f"{names.PODS}/{new.name}/sandbox"
    assert saver.node.run("sh", "-c", f"ls {kept} 2>/dev/null || true") == (
        "failed-1" if wish == "fresh" else ""
    )
    if wish == "fresh":
        whose = json.loads(saver.node.run("cat", f"{names.PODS}/{new.name}/pod.json"))
        assert (whose["namespace"], whose["name"]) == ("default", new.name)
    if wish == "retry":
        arrived = f"{names.ARRIVALS}/{new.name}/sandbox/image/checkpoint.img"
        saver.node.run("cp", f"{state}.good", arrived)
    new.run()
    new.server("web")
    assert (new.get()["identity"] == old.get()["identity"]) is (wish == "retry")


@pytest.mark.long
def test_another_command_than_the_saved_one_is_refused_by_name(
    saver: Saver, saved: tuple[Any, str], new_pod: Callable[..., Any]
) -> None:
    _, directory = saved
    saver.bring(directory)
    new = new_pod(policy=policy())
    new.create("web", "sleep", "1000")
    said = new.node.fails("crictl", "start", new.containers["web"])
    assert '\\"Args\\" does not match' in said


def test_a_container_with_another_image_is_not_created_in_a_sandbox_that_goes_on(
    saver: Saver, saved: tuple[Any, str], new_pod: Callable[..., Any]
) -> None:
    _, directory = saved
    saver.bring(directory)
    new = new_pod(policy=policy())
    saver.daemon.answers["arriving"] = {
        "restore": False,
        "reason": "ImageDiffers",
        "message": "it ran another one",
    }
    new.create("web", *new.SERVER, "8080")
    said = new.node.fails("crictl", "start", new.containers["web"])
    assert "ImageDiffers: it ran another one" in said
    eventually(lambda: new.inspect()["status"]["state"] == "SANDBOX_NOTREADY", what="its end")


@pytest.mark.long
def test_one_that_waits_for_the_rest_of_its_pod_can_be_ended(
    saver: Saver, new_pod: Callable[..., Any]
) -> None:
    saver.daemon.answers["arriving"] = {"restore": False}
    old = new_pod(policy=policy("web", "side"))
    old.server("web")
    old.start("side", "sleep", "1000")
    saver.bring(saver.save(old))
    new = new_pod(policy=policy("web", "side"))
    new.start("web", *new.SERVER, "8080")
    assert new.stop("web", grace_seconds=1) == 137
    new.run()  # as kubelet does where a sandbox has ended
    new.start("web", *new.SERVER, "8080")
    new.start("side", "sleep", "1000")
    assert new.get()["identity"] == old.get()["identity"]


def test_a_copy_that_nobody_ends_does_not_keep_the_pod_from_going_on(
    saver: Saver, pod_of_its_own: Any
) -> None:
    pod = pod_of_its_own
    with saver.keeper() as client:
        client.call("copy", pod=pod.name, reason="test")
        assert not pod.answers(within_seconds=1)
        with pytest.raises(Rejected, match="is being copied already"):
            saver.ask("copy", pod=pod.name, reason="test")
    eventually(pod.answers, what="an answer once who copied it is gone")
    with pytest.raises(Rejected) as caught:
        saver.ask("go_on", pod=pod.name)
    assert caught.value.reason == "NotCaptured"


def test_a_keeper_that_is_killed_while_a_pod_is_copied_lets_it_go_on(
    saver: Saver, pod_of_its_own: Any
) -> None:
    pod = pod_of_its_own
    with saver.keeper() as client:
        keeper = client.call("version")["pid"]
        client.call("copy", pod=pod.name, reason="test")
        saver.node.run("kill", "-9", str(keeper))
        eventually(pod.answers, what="an answer once another keeper is there")
        with pytest.raises(Unavailable):
            client.call("go_on", pod=pod.name)


@pytest.mark.long
def test_a_keeper_that_was_killed_before_the_pod_stood_still_copies_it_later(
    saver: Saver, pod_of_its_own: Any
) -> None:
    pod = pod_of_its_own
    note = f"/run/architect/gvisor/{pod.id}.json"
    saver.node.run("sed", "-i", 's/"is_paused": *false/"is_paused": true/', note)
    assert saver.ask("status", pod=pod.name)["status"]["state"] == "falling"
    with saver.keeper() as client:
        saver.node.run("kill", "-9", str(client.call("version")["pid"]))

    def is_awake() -> bool:
        with contextlib.suppress(Unavailable):
            return bool(saver.ask("status", pod=pod.name)["status"]["state"] == "awake")
        return False

    eventually(is_awake, what="another keeper lets it go on")
    with saver.keeper() as client:
        client.call("copy", pod=pod.name, reason="test")
        client.call("go_on", pod=pod.name)
    assert pod.answers()


@pytest.mark.long
def test_what_cannot_be_in_an_image_is_refused_by_name(
    saver: Saver, new_pod: Callable[..., Any]
) -> None:
    pod = new_pod(policy=policy("web", "side", start_from=None))
    pod.start("web", "sleep", "1000")
    refusals = [_refusal(saver, pod)]
    pod.start("side", "sh", "-c", "exec sleep 1000", tty=True, stdin=True)
    refusals.append(_refusal(saver, pod))
    pod.start("debug", "sleep", "1000")
    refusals.append(_refusal(saver, pod))
    assert refusals == [
        ("NotReady", "container side of pod default/POD does not run"),
        ("Terminal", "container side of pod default/POD has a terminal, which no image holds"),
        (
            "OtherContainers",
            "container debug of pod default/POD is not among side, web: a sandbox is saved as a "
            "whole",
        ),
    ]


WAITS = """
import socket, sys, time
kind = socket.SOCK_DGRAM if sys.argv[2] == "udp" else socket.SOCK_STREAM
waiting = socket.socket(socket.AF_INET, kind)
waiting.bind((sys.argv[1], 5353))
if kind == socket.SOCK_STREAM:
    waiting.listen()
print("bound", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_socket_that_waits_at_the_pods_own_address_is_refused_by_name(
    saver: Saver, new_pod: Callable[..., Any], kind: str
) -> None:
    """In another pod, which has another address, it would wait where nobody comes."""
    pod = new_pod(policy=policy("web", "side", start_from=None))
    pod.start("web", "python3", "-u", "-c", WAITS, pod.address, kind)
    pod.start("side", "python3", "-u", "-c", WAITS, "127.0.0.1", kind)
    both = ("web", "side")
    eventually(lambda: all("bound" in pod.log(name) for name in both), what="both sockets")
    assert _refusal(saver, pod) == (
        "OwnAddress",
        "pod default/POD has sockets that wait at its own address, where no other pod is: "
        f"{pod.address}:5353",
    )
    assert saver.ask("status", pod=pod.name)["status"]["state"] == "awake", "nothing stood still"


@pytest.mark.long
def test_one_that_cannot_tell_where_its_sockets_wait_is_saved(
    saver: Saver, new_pod: Callable[..., Any]
) -> None:
    """As one whose image has no ``cat``: here it is not in its path."""
    pod = new_pod(policy=policy(start_from=None))
    words = " ".join(pod.SERVER)
    nowhere = {"envs": [{"key": "PATH", "value": "/nowhere"}]}
    pod.start("web", "/bin/sh", "-c", f"PATH=/usr/local/bin:/usr/bin:/bin; {words} 8080", **nowhere)
    eventually(pod.answers, what="an answer")
    saver.save(pod)
    assert pod.answers()


def _refusal(saver: Saver, pod: Any) -> tuple[str, str]:
    with pytest.raises(Rejected) as caught:
        saver.ask("copy", pod=pod.name, reason="test")
    return caught.value.reason, caught.value.message.replace(pod.name, "POD")


def test_the_keeper_knows_the_pod_and_says_that_it_does_not_sleep(
    saver: Saver, pod_of_its_own: Any
) -> None:
    pod = pod_of_its_own
    (listed,) = (found for found in saver.ask("list")["pods"] if found["pod"] == pod.name)
    assert (listed["namespace"], listed["state"]) == ("default", "awake")
    assert listed["containers"]["web"]["id"] == pod.containers["web"]
    said = pod.node.run(RUNTIME, "why", f"default/{pod.name}")
    assert "such a pod does not sleep and does not move" in said
    with pytest.raises(Rejected) as caught:
        saver.ask("sleep", pod=pod.name)
    assert caught.value.reason == "Gvisor"


TALKS = """
import http.client, sys
server = http.client.HTTPConnection(sys.argv[1], 8080, timeout=60)
for _ in range(2):
    server.request("GET", "/")
    print(server.getresponse().read().decode().strip(), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.long
def test_connections_go_on_in_the_saved_pod_and_have_ended_in_the_others(
    saver: Saver, pod_of_its_own: Any, new_pod: Callable[..., Any]
) -> None:
    old = pod_of_its_own
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with saver.node.machine.popen(["python3", "-c", TALKS, old.address], **pipes) as client:
        first = json.loads(client.stdout.readline())
        saver.bring(saver.save(old))
        client.stdin.write("\n")
        assert json.loads(client.stdout.readline())["identity"] == first["identity"]
        client.stdin.write("\n")
    new = new_pod(policy=policy())
    new.server("web")
    assert new.get()["identity"] == first["identity"]
    assert _established(new) == 0


def _established(pod: Any) -> int:
    table = pod.exec("web", "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()
    return sum(line.split()[3:4] == ["01"] for line in table)


@pytest.mark.long
def test_an_open_file_that_the_new_pod_has_under_another_name_is_refused(
    saver: Saver, new_pod: Callable[..., Any]
) -> None:
    """As kubelet names what it writes for ConfigMaps, Secrets and tokens."""

    def mounted(name: str, at: str) -> dict[str, Any]:
        saver.node.run("mkdir", "-p", f"/etc/{name}")
        saver.node.write(f"/etc/{name}/{at}", "text")
        return {"mounts": [{"host_path": f"/etc/{name}", "container_path": "/etc/conf"}]}

    opening = "exec 3<$(echo /etc/conf/*); touch /root/is-open; exec sleep 1000"
    command = ("sh", "-c", opening)
    old = new_pod(policy=policy(start_from=None))
    old.start("web", *command, **mounted("conf-old", "before"))
    eventually(lambda: "is-open" in old.exec("web", "ls", "/root"), what="the file is open")
    saver.bring(saver.save(old))
    new = new_pod(policy=policy())
    new.create("web", *command, **mounted("conf-new", "after"))
    said = new.node.fails("crictl", "start", new.containers["web"])
    assert "RestoreFailed" in said
    assert "before" in said


@pytest.fixture
def pod_of_its_own(saver: Saver, new_pod: Callable[..., Any]) -> Any:
    pod = new_pod(policy=policy(start_from=None))
    pod.server("web")
    return pod


def until(events: wire.Client, kind: str) -> dict[str, Any]:
    """Return the next event of a kind."""
    while (told := events.receive()).get("event") != kind:
        pass
    return told
