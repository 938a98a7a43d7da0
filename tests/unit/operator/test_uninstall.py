from __future__ import annotations

import pytest

from architect.api import names
from architect.core.errors import Unavailable
from architect.kube.resources import DAEMON_SETS, NODES, PODS
from architect.operator import uninstall
from architect.operator.settings import OperatorSettings

SETTINGS = OperatorSettings(uninstall_timeout_seconds=20)
DAEMON_SET = DAEMON_SETS.path(namespace="architect", name="architect-daemon")


class Time:
    """A clock that moves when somebody sleeps; *steps* happen at each sleep, in order."""

    def __init__(self, *steps):
        self.now = 0.0
        self.steps = list(steps)

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.steps:
            self.steps.pop(0)()


@pytest.fixture
def cluster(server):
    server.put(DAEMON_SET, {"metadata": {"name": "architect-daemon"}})
    for name in ("n1", "n2", "control-plane"):
        server.put(NODES.path(name=name), {"metadata": {"name": name}})
    for name in ("n1", "n2"):
        server.put(
            PODS.path(namespace="architect", name=f"d-{name}"),
            {"metadata": {"name": f"d-{name}"}, "spec": {"nodeName": name}},
        )
    return server


def token(server):
    return server.objects[DAEMON_SET]["metadata"].get("annotations", {}).get(names.UNINSTALL)


def answer(server, *nodes):
    for name in nodes:
        path = NODES.path(name=name)
        value = server.objects[path]
        value["metadata"]["annotations"] = {names.UNINSTALLED: token(server)}
        server.put(path, value)


def run(api, time, settings=SETTINGS):
    uninstall.run(api, settings, clock=time, sleep=time.sleep)


def test_it_ends_when_every_node_with_a_daemon_has_answered(api, cluster):
    time = Time(lambda: answer(cluster, "n1"), lambda: answer(cluster, "n2"))
    run(api, time)
    assert time.now == 2 * uninstall.POLL_SECONDS
    assert token(cluster)


def test_an_answer_to_an_earlier_uninstall_does_not_count(api, cluster):
    for name in ("n1", "n2"):
        path = NODES.path(name=name)
        cluster.put(
            path, {"metadata": {"name": name, "annotations": {names.UNINSTALLED: "earlier"}}}
        )
    with pytest.raises(uninstall.Late):
        run(api, Time())


def test_a_second_run_goes_on_with_the_first_ones_announcement(api, cluster):
    value = cluster.objects[DAEMON_SET]
    value["metadata"]["annotations"] = {names.UNINSTALL: "t"}
    cluster.put(DAEMON_SET, value)
    answer(cluster, "n1", "n2")
    run(api, Time())
    assert token(cluster) == "t"


def test_after_the_time_out_it_is_called_off_and_the_late_are_named(api, cluster):
    time = Time(lambda: answer(cluster, "n1"))
    with pytest.raises(uninstall.Late, match="n2") as caught:
        run(api, time)
    assert "n1" not in str(caught.value)
    assert token(cluster) is None
    assert time.now <= 20 + uninstall.POLL_SECONDS


def test_by_setting_it_goes_on_after_the_time_out(api, cluster):
    settings = OperatorSettings(uninstall_timeout_seconds=20, uninstall_on_timeout="proceed")
    run(api, Time(), settings)
    assert token(cluster)


def test_without_a_daemon_set_there_is_nothing_to_do(api, server):
    run(api, time := Time())
    assert time.now == 0
    assert DAEMON_SET not in server.objects


def test_without_daemons_there_is_nobody_to_wait_for(api, server):
    server.put(DAEMON_SET, {"metadata": {"name": "architect-daemon"}})
    run(api, time := Time())
    assert time.now == 0
    assert token(server)


def test_an_api_server_that_restarts_is_waited_for(api, cluster):
    cluster.fail = lambda _: Unavailable("away")
    time = Time(
        lambda: setattr(cluster, "fail", lambda _: None), lambda: answer(cluster, "n1", "n2")
    )
    run(api, time)
    assert time.now == 2 * uninstall.POLL_SECONDS
    assert token(cluster)


def test_an_api_server_that_stays_away_ends_it_in_time(api, cluster):
    cluster.fail = lambda _: Unavailable("away")
    time = Time()
    with pytest.raises(Unavailable):
        run(api, time)
    assert time.now <= 20 + uninstall.POLL_SECONDS
