from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import cache as cache_module
from lab import commands, errors, leftovers, pruning
from lab.cache import Cache, Entry, hold, superseded


def test_an_artefact_is_built_once(tmp_path: Path) -> None:
    builds: list[Path] = []

    def build(directory: Path) -> None:
        builds.append(directory)
        (directory / "file").write_text("content")

    cache = Cache(tmp_path)
    first = cache.artefact("thing", version="1", recipe=["a"], build=build)
    second = cache.artefact("thing", version="1", recipe=["a"], build=build)
    assert first == second
    assert (first / "file").read_text() == "content"
    assert len(builds) == 1


def test_another_recipe_is_another_artefact(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    one = cache.artefact("thing", version="1", recipe=["a"], build=lambda directory: None)
    other = cache.artefact("thing", version="1", recipe=["b"], build=lambda directory: None)
    assert one != other


def test_a_build_that_fails_leaves_nothing_half_made(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").write_text("")
        raise errors.LabError("no")

    cache = Cache(tmp_path)
    with pytest.raises(errors.LabError):
        cache.artefact("thing", version="1", recipe=[], build=fail)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_what_a_killed_build_left_is_not_part_of_the_next_one(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    key = cache.artefact("thing", version="1", recipe=[], build=lambda directory: None).name
    (tmp_path / key).rmdir()
    rubbish = tmp_path / ".building" / key / "half"
    rubbish.parent.mkdir(parents=True)
    rubbish.write_text("")
    built = cache.artefact("thing", version="1", recipe=[], build=lambda directory: None)
    assert list(built.iterdir()) == []


def test_a_lock_that_is_held_is_waited_for_only_so_long(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        hold(lock, timeout_seconds=1),
        pytest.raises(errors.LabError, match="held by another"),
        hold(lock, timeout_seconds=0),
    ):
        raise AssertionError("two hold the lock")


def test_the_programs_of_a_killed_build_end_before_its_directory_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    key = cache.artefact("thing", version="1", recipe=[], build=lambda directory: None).name
    (tmp_path / key).rmdir()
    left = tmp_path / ".building" / f"{key}@killed"
    left.mkdir()
    with subprocess.Popen(
        ["sleep", "infinity"], env={commands.BUILD_VARIABLE: str(left)}, start_new_session=True
    ) as program:
        # Its descriptors are closed, which is what Popen waits for, before it has its environment.
        while commands.BUILD_VARIABLE not in Path(f"/proc/{program.pid}/environ").read_text():
            time.sleep(0.01)
        # It becomes a zombie of ours: the process that was killed would not have been there.
        cache.artefact("thing", version="1", recipe=[], build=lambda directory: None)
        assert program.wait(60) == -signal.SIGKILL
    assert list((tmp_path / ".building").iterdir()) == []


def test_programs_of_a_build_are_marked_with_their_directory(tmp_path: Path) -> None:
    said: list[str] = []

    def build(directory: Path) -> None:
        said.extend([commands.run(["sh", "-c", "echo $ARCHITECT_BUILD"]).strip(), str(directory)])

    Cache(tmp_path).artefact("thing", version="1", recipe=[], build=build)
    assert said[0] == said[1]
    assert commands.run(["sh", "-c", "echo $ARCHITECT_BUILD"]).strip() != said[0]


MOUNTS = """\
25 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
40 25 254:0 /etc/ssl /cache/.building/a@1/run/ssl ro shared:1 - ext4 /dev/vda rw
41 40 0:50 / /cache/.building/a@1/run/ssl/with\\040space rw - tmpfs tmpfs rw
42 25 0:51 / /cache/.building/a@12 rw - tmpfs tmpfs rw
43 25 0:52 / /lab/root rw - overlay overlay rw,lowerdir=/cache/node-root-1-aaaaaaaaaaaa/root
44 25 254:0 /cache/kubernetes-1-bbbbbbbbbbbb/bin /lab/bin ro - ext4 /dev/vda rw
"""


def test_what_is_mounted_below_a_directory_is_found_the_innermost_first() -> None:
    assert leftovers.mounts_below(Path("/cache/.building/a@1"), MOUNTS) == [
        Path("/cache/.building/a@1/run/ssl/with space"),
        Path("/cache/.building/a@1/run/ssl"),
    ]


@pytest.mark.parametrize(
    ("key", "is_mounted"),
    [
        ("node-root-1-aaaaaaaaaaaa", True),
        ("kubernetes-1-bbbbbbbbbbbb", True),
        ("kubernetes-1-bbbbbbbbbbb", False),
        ("root-1-aaaaaaaaaaaa", False),
    ],
)
def test_an_artefact_below_a_machine_is_known_to_be_in_use(key: str, is_mounted: bool) -> None:
    assert leftovers.mentions(MOUNTS, Path("/cache", key)) is is_mounted


def entry(key: str, used: float) -> Entry:
    return Entry(key=key, used=used)


def test_a_later_artefact_of_the_same_name_and_version_replaces_an_earlier_one() -> None:
    old, other, new = entry("a-1-000000000000", 1), entry("b-1-0", 2), entry("a-1-111111111111", 3)
    assert superseded([old, other, new]) == [old]


def test_what_a_checkout_has_no_use_for_is_stale() -> None:
    entries = [
        entry("kubernetes-v1.35-000000000000", 0),
        entry("image-demo-1-000000000000", 1),
        entry("image-demo-1-111111111111", 2),
        entry("kubernetes-v1.36-000000000000", 3),
        entry("helm-v4-000000000000", 9000),
        entry("helm-v4-111111111111", 9001),
    ]
    found = pruning.stale(
        entries,
        names={"kubernetes", "helm"},
        keys={"kubernetes-v1.36-000000000000", "helm-v4-111111111111"},
        now=10000,
    )
    # The earlier helm was used a moment ago, and nobody knows whether the demonstration's later
    # image is of use.
    assert [each.key for each in found] == [
        "kubernetes-v1.35-000000000000",
        "image-demo-1-000000000000",
    ]


def test_every_artefact_of_this_checkout_is_known_without_building_any(tmp_path: Path) -> None:
    wanted = pruning.wanted_by_checkout(tmp_path)
    assert {"kubernetes", "node-root", "helm", "image-architect-daemon"} <= wanted.names
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_in_use_is_not_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    target = cache.artefact("thing", version="1", recipe=[], build=lambda directory: None)
    (found,) = cache.entries()
    with cache.lock(target.name):
        assert not cache.remove(found)
    os.utime(target, (1, 1))
    assert not cache.remove(found)
    assert target.is_dir()
    (found,) = cache.entries()
    assert cache.remove(found)
    assert cache.entries() == []


def test_room_is_made_by_removing_replaced_artefacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path)
    old = cache.artefact("thing", version="1", recipe=["a"], build=lambda directory: None)
    new = cache.artefact("thing", version="1", recipe=["b"], build=lambda directory: None)
    other = cache.artefact("other", version="1", recipe=[], build=lambda directory: None)
    for number, path in enumerate((old, new, other)):
        os.utime(path, (number, number))
    monkeypatch.setattr(cache_module, "ROOM_BYTES", 1 << 62)
    cache.artefact("last", version="1", recipe=[], build=lambda directory: None)
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


@pytest.mark.parametrize("is_deaf", [False, True], ids=["", "main thread hears nothing"])
def test_an_interrupt_ends_the_builds_of_all_threads(tmp_path: Path, is_deaf: bool) -> None:
    # Between its last look and its wait, a signal does not end the main thread's wait either.
    deafen = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])" if is_deaf else "pass"
    script = (
        "import concurrent.futures, os, pathlib, signal, sys\n"
        "from lab import __main__, commands, cache, errors\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "def dispatch(arguments):\n"
        f"    {deafen}\n"
        "    def build(directory):\n"
        "        commands.run(['sh', '-c', f'kill -TERM {os.getpid()}; sleep 600'],"
        " timeout_seconds=600)\n"
        "    def work():\n"
        "        try:\n"
        "            cache.Cache(root).artefact('x', version='1', recipe=[], build=build)\n"
        "        except errors.CommandFailed as error:\n"
        "            print('ended:', error)\n"
        "    with concurrent.futures.ThreadPoolExecutor() as pool:\n"
        "        pool.submit(work).result()\n"
        "os.geteuid = lambda: 0\n"
        "__main__.dispatch = dispatch\n"
        "sys.exit(__main__.main(['status']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert "killed by SIGKILL" in done.stdout
    assert list((tmp_path / ".building").iterdir()) == []
