"""What counts as the same state, and how memory is read."""

from __future__ import annotations

import pytest

from demo import pods
from demo.counter import one_more_visit
from demo.errors import DemoError, ProofFailed
from demo.story import prove


def test_equal_state_is_accepted() -> None:
    prove("counter", "a request", expected={"visits": 3}, seen={"visits": 3})


@pytest.mark.parametrize("seen", [{"visits": 1, "digest": "a"}, {"visits": 3, "digest": "b"}])
def test_one_difference_is_enough_to_fail(seen: dict[str, object]) -> None:
    with pytest.raises(ProofFailed, match="instead of"):
        prove("counter", "a request", expected={"visits": 3, "digest": "a"}, seen=seen)


@pytest.mark.parametrize("seen", [{}, {"visits": 3, "more": 1}])
def test_a_missing_or_an_unexpected_value_fails(seen: dict[str, object]) -> None:
    with pytest.raises(ProofFailed):
        prove("counter", "a request", expected={"visits": 3}, seen=seen)


def test_the_working_set_leaves_inactive_files_out_on_version_1() -> None:
    stat = "cache 9\ninactive_file 1\ntotal_cache 50\ntotal_inactive_file 30\n"
    assert pods.working_set("100\n" + stat) == 70


def test_the_working_set_leaves_inactive_files_out_on_version_2() -> None:
    assert pods.working_set("100\nanon 60\ninactive_file 40\n") == 60


def test_version_1_is_read_where_memory_is_accounted() -> None:
    found = [
        "/sys/fs/cgroup/cpu/kubepods/podx/abc",
        "/sys/fs/cgroup/memory/kubepods/podx/abc/abc-below",
        "/sys/fs/cgroup/memory/kubepods/podx/abc",
    ]
    assert pods.memory_cgroup(found) == "/sys/fs/cgroup/memory/kubepods/podx/abc"


def test_version_2_has_one_directory() -> None:
    assert pods.memory_cgroup(["/sys/fs/cgroup/kubepods/podx/abc"]) is not None
    assert pods.memory_cgroup([]) is None


def test_the_engines_id_has_no_scheme() -> None:
    statuses = [{"name": "app", "containerID": "containerd://0123", "restartCount": 2}]
    pod = {"status": {"containerStatuses": statuses}}
    assert pods.container_id(pod, "app") == "0123"
    assert pods.restarts(pod) == 2
    with pytest.raises(DemoError, match="other"):
        pods.container_id(pod, "other")


def test_a_visit_is_the_only_thing_that_a_request_changes() -> None:
    assert one_more_visit({"visits": 3, "digest": "a"}) == {"visits": 4}
