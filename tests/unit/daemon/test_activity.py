from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy, Policy, Probe, ProbeKind, WakeOn
from architect.daemon import activity
from architect.daemon.activity import PodTrack, Verdict
from architect.daemon.observation import Connection, ExecSession, Observation, Source, Syn
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind

THRESHOLD = 0.02


def follow(
    pod: ManagedPod, seen: list[Observation], *, now_unix: float = 1e9
) -> tuple[PodTrack | None, Verdict]:
    track: PodTrack | None = None
    for observation in seen:
        track = activity.advance(track, observation, pod, cpu_threshold=THRESHOLD)
    return track, activity.judge(track, pod, now=seen[-1].now, now_unix=now_unix)


def kinds(verdict: Verdict) -> set[Kind]:
    return {r.kind for r in verdict.reasons}


def test_a_silent_pod_is_idle_after_its_idle_time_and_not_before(make: Any) -> None:
    pod = make.pod()
    _, before = follow(pod, [make.observation(t) for t in (0, 30, 59.9)])
    assert kinds(before) == {Kind.JUST_AWAKE}
    assert before.idle_in_seconds == pytest.approx(0.1)
    _, after = follow(pod, [make.observation(t) for t in (0, 30, 60.1)])
    assert after.is_idle
    assert after.idle_since == 0


def test_packets_begin_the_idle_time_again_and_are_counted(make: Any) -> None:
    seen = [make.observation(0), make.observation(50, packets=3), make.observation(70, packets=3)]
    _, verdict = follow(make.pod(), seen)
    assert [str(r) for r in verdict.reasons] == ["app: 3 packets 20s ago"]
    assert verdict.idle_in_seconds == pytest.approx(40)


CLIENT = Source(seconds_ago=3.0, address="10.244.1.7", port=8080)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"last_source": CLIENT}, "12 packets, last from 10.244.1.7 to port 8080"),
        (
            {"last_source": replace(CLIENT, address="fd00::7", sources=3)},
            "12 packets, last from fd00::7 to port 8080 (one of 3 sources)",
        ),
        ({"local_packets": 12}, "12 packets from inside the pod"),
        # Who spoke long ago did not speak now.
        ({"local_packets": 12, "last_source": CLIENT}, "12 packets from inside the pod"),
        (
            {"local_packets": 5, "last_source": CLIENT},
            "12 packets (5 from inside the pod), last from 10.244.1.7 to port 8080",
        ),
        ({"last_source": replace(CLIENT, seconds_ago=11)}, "12 packets"),
        ({"local_packets": 5}, "12 packets (5 from inside the pod)"),
        # An older keeper, and the look after it gave way to one that counts these apart.
        ({}, "12 packets"),
        ({"local_packets": 900}, "12 packets"),
    ],
)
def test_packets_are_told_with_their_last_source(
    make: Any, fields: dict[str, Any], text: str
) -> None:
    seen = [
        make.observation(0, packets=1000),
        make.observation(10, packets=1012, **fields),
        make.observation(14, packets=1012, **fields),
    ]
    _, verdict = follow(make.pod(), seen)
    assert f"app: {text} 4s ago" in [str(r) for r in verdict.reasons]


def test_local_packets_are_counted_since_the_last_look(make: Any) -> None:
    seen = [
        make.observation(0, packets=1000, local_packets=400),
        make.observation(10, packets=1003, local_packets=403),
        make.observation(20, packets=7, local_packets=6),
    ]
    assert "app: 3 packets from inside the pod 0ms ago" in map(
        str, follow(make.pod(), seen[:2])[1].reasons
    )
    # Rules made anew.
    assert "app: 7 packets (6 from inside the pod) 0ms ago" in map(
        str, follow(make.pod(), seen)[1].reasons
    )


def test_a_counter_that_began_anew_counts_from_zero(make: Any) -> None:
    pod = make.pod()
    quiet = [
        make.observation(0, packets=90),
        make.observation(30, packets=0),
        make.observation(61, packets=0),
    ]
    assert follow(pod, quiet)[1].is_idle
    busy = [
        make.observation(0, packets=90),
        make.observation(50, packets=2),
        make.observation(61, packets=2),
    ]
    assert "2 packets" in str(follow(pod, busy)[1].reasons[0])


def test_a_new_connection_from_a_node_counts_from_when_it_came(make: Any) -> None:
    syn = Syn(seconds_ago=7.0, source="10.0.0.7:41230", port=8080)
    seen = [make.observation(0), make.observation(100, last_real_syn=syn)]
    _, verdict = follow(make.pod(), seen)
    assert str(verdict.reasons[0]) == "app: connection from 10.0.0.7:41230 to port 8080 7s ago"
    assert verdict.idle_since == 93


def test_an_open_connection_keeps_only_connections_awake(make: Any) -> None:
    old = (
        Connection(local="10.1.0.2:8080", remote="10.0.0.7:41230", idle_seconds=5000),
        Connection(local="10.1.0.2:8080", remote="10.0.0.8:1", idle_seconds=9000),
    )
    seen = [make.observation(t, connections=old, listening_tcp=frozenset({8080})) for t in (0, 100)]
    assert follow(make.pod(), seen)[1].is_idle
    policy = make.policy(app=ContainerPolicy(idle_seconds=60, wake_on=WakeOn.CONNECTIONS))
    _, verdict = follow(make.pod(policy=policy), seen)
    text = "app: 2 established connections, last from 10.0.0.7:41230"
    assert [str(r) for r in verdict.reasons] == [text]
    assert verdict.idle_in_seconds is None


def test_shadow_ports_and_connections_that_the_pod_opened_itself_do_not_count(make: Any) -> None:
    policy = make.policy(
        app=ContainerPolicy(idle_seconds=60, wake_on=WakeOn.CONNECTIONS, shadow_ports=(9090,))
    )
    connections = (
        Connection(local="10.1.0.2:9090", remote="10.0.0.9:1", idle_seconds=0),
        Connection(local="10.1.0.2:40000", remote="10.0.0.5:5432", idle_seconds=0),
    )
    syn = Syn(seconds_ago=0.0, source="10.0.0.9:1", port=9090)
    seen = [
        make.observation(
            t,
            connections=connections,
            last_real_syn=syn,
            listening_tcp=frozenset({8080, 9090}),
        )
        for t in (0, 100)
    ]
    assert follow(make.pod(policy=policy), seen)[1].is_idle


def test_traffic_does_not_count_where_only_exec_wakes(make: Any) -> None:
    policy = make.policy(app=ContainerPolicy(idle_seconds=60, wake_on=WakeOn.EXEC))
    seen = [make.observation(0), make.observation(100, packets=500)]
    assert follow(make.pod(policy=policy), seen)[1].is_idle


def test_an_exec_session_counts_and_an_exec_probe_does_not(make: Any) -> None:
    probe = Probe(kind=ProbeKind.EXEC, argv=("sh", "-c", "true"))
    policy = make.policy(app=ContainerPolicy(idle_seconds=60, probes=(probe,)))
    pod = make.pod(policy=policy)
    probing = ExecSession(pid=430, command="sh -c true", container="app", argv=probe.argv)
    shell = ExecSession(pid=431, command="sh", container="app", argv=("sh",))
    seen = [make.observation(0), make.observation(100, exec_sessions=(probing,))]
    assert follow(pod, seen)[1].is_idle
    seen = [make.observation(0), make.observation(100, exec_sessions=(probing, shell))]
    assert "exec session: sh (pid 431)" in str(follow(pod, seen)[1].reasons[0])


def test_cpu_above_the_threshold_counts_and_below_does_not(make: Any) -> None:
    pod = make.pod()
    at_work = [make.observation(t, cpu={"app": t * 0.12}) for t in range(0, 100, 6)]
    _, verdict = follow(pod, at_work)
    assert str(verdict.reasons[0]).startswith("app: cpu 12% of a core (threshold 2%)")
    ticking = [make.observation(t, cpu={"app": t * 0.01}) for t in range(0, 100, 6)]
    assert follow(pod, ticking)[1].is_idle


def test_one_short_burst_of_cpu_is_averaged_away(make: Any) -> None:
    pod = make.pod()
    burst = [make.observation(t, cpu={"app": 0.1 if t >= 60 else 0.0}) for t in range(0, 101, 5)]
    assert follow(pod, burst)[1].is_idle


def test_warm_up_and_never_and_readiness_are_told(make: Any) -> None:
    policy = make.policy(app=ContainerPolicy(idle_seconds=10, warmup_seconds=100))
    seen = [make.observation(t, started=1000.0) for t in (0, 20)]
    _, verdict = follow(make.pod(policy=policy), seen, now_unix=1060.0)
    assert [str(r) for r in verdict.reasons] == ["app: warm-up: 40s left"]
    never = make.pod(policy=make.policy(app=ContainerPolicy(idle_seconds=None)))
    assert [str(r) for r in follow(never, seen)[1].reasons] == ["app: idle: never"]
    assert not activity.wants_sleep(never)
    status = {"containerStatuses": [{"name": "app", "ready": False, "state": {"running": {}}}]}
    assert Kind.NOT_READY in kinds(follow(make.pod(status=status), seen)[1])


def test_a_clock_that_jumped_back_never_lengthens_the_warm_up(make: Any) -> None:
    policy = make.policy(app=ContainerPolicy(idle_seconds=10, warmup_seconds=100))
    seen = [make.observation(t, started=5e9) for t in (0, 20)]
    _, verdict = follow(make.pod(policy=policy), seen, now_unix=1060.0)
    assert verdict.idle_in_seconds == 100


def test_a_wake_and_a_restart_give_the_whole_idle_time_back(make: Any) -> None:
    pod = make.pod()
    woke = [
        make.observation(0),
        make.observation(61, state=PodState.ASLEEP),
        make.observation(100),
        make.observation(150),
    ]
    assert kinds(follow(pod, woke)[1]) == {Kind.JUST_AWAKE}
    restarted = [make.observation(0, started=1), make.observation(100, started=90)]
    assert Kind.JUST_AWAKE in kinds(follow(pod, restarted)[1])


def test_a_pod_sleeps_when_each_container_was_idle_for_its_own_time(make: Any) -> None:
    policy = make.policy(
        app=ContainerPolicy(idle_seconds=10), side=ContainerPolicy(idle_seconds=60)
    )
    pod = make.pod(policy=policy)
    both = {"app": 0.0, "side": 0.0}
    _, verdict = follow(pod, [make.observation(t, cpu=both) for t in (0, 20)])
    assert {r.container for r in verdict.reasons} == {"side"}
    assert follow(pod, [make.observation(t, cpu=both) for t in (0, 61)])[1].is_idle


def test_a_terminating_or_debugged_pod_is_never_idle(make: Any) -> None:
    seen = [make.observation(t) for t in (0, 100)]
    gone = make.pod(deletionTimestamp="2026-01-01T00:00:00Z")
    assert kinds(follow(gone, seen)[1]) == {Kind.TERMINATING}
    status = {"ephemeralContainerStatuses": [{"name": "dbg", "state": {"running": {}}}]}
    assert Kind.DEBUG in kinds(follow(make.pod(status=status), seen)[1])


def test_the_keepers_clock_beginning_anew_starts_a_new_track(make: Any) -> None:
    _, verdict = follow(make.pod(), [make.observation(1000), make.observation(3)])
    assert kinds(verdict) == {Kind.JUST_AWAKE}


@pytest.mark.parametrize(("idle", "expected"), [(1, 1.0), (60, 6.0), (3600, 15.0), (None, 15.0)])
def test_a_pod_is_looked_at_ten_times_in_its_idle_time(
    make: Any, idle: float | None, expected: float
) -> None:
    pod = make.pod(policy=make.policy(app=ContainerPolicy(idle_seconds=idle)))
    assert activity.sampling_seconds(pod, shortest=1.0, longest=15.0) == expected


# Properties

steps = st.lists(
    st.tuples(
        st.floats(min_value=0.5, max_value=30),
        st.integers(min_value=0, max_value=5),
        st.floats(min_value=0, max_value=2),
        st.booleans(),
    ),
    min_size=1,
    max_size=20,
)


def observations(
    make: Any, script: list[tuple[float, int, float, bool]]
) -> tuple[list[Observation], float]:
    """Return a history and the time of its last activity."""
    now, packets, cpu, last = 0.0, 0, 0.0, 0.0
    seen = [make.observation(0.0)]
    for delay, more, used, shell in script:
        now, packets, cpu = now + delay, packets + more, cpu + used
        sessions = (ExecSession(pid=1, command="sh", container="app", argv=("sh",)),)
        seen.append(
            make.observation(
                now, packets=packets, cpu={"app": cpu}, exec_sessions=sessions if shell else ()
            )
        )
        if more or shell:
            last = now
    return seen, last


@given(script=steps, idle=st.floats(min_value=1, max_value=120))
def test_no_pod_sleeps_within_its_idle_time_after_an_activity(
    make: Any, script: list[tuple[float, int, float, bool]], idle: float
) -> None:
    pod = make.pod(policy=Policy(containers={"app": ContainerPolicy(idle_seconds=idle)}))
    seen, last = observations(make, script)
    _, verdict = follow(pod, seen)
    if verdict.is_idle:
        assert seen[-1].now - last >= idle - 1e-6
    else:
        assert all(str(r) for r in verdict.reasons)


@given(script=steps, idle=st.floats(min_value=2, max_value=120))
def test_every_pod_sleeps_once_it_was_silent_for_long_enough(
    make: Any, script: list[tuple[float, int, float, bool]], idle: float
) -> None:
    pod = make.pod(policy=Policy(containers={"app": ContainerPolicy(idle_seconds=idle)}))
    seen, _ = observations(make, script)
    silent = replace(seen[-1], exec_sessions=())
    later = [
        replace(silent, now=silent.now + s)
        # One window for the CPU to calm down, then the idle time.
        for s in (
            1.0,
            activity.CPU_WINDOW_SECONDS + 1.5,
            activity.CPU_WINDOW_SECONDS * 2 + idle + 3,
        )
    ]
    assert follow(pod, [*seen, *later])[1].is_idle


@given(script=steps, at=st.integers(min_value=0, max_value=19))
def test_more_activity_never_makes_a_pod_sleep_sooner(
    make: Any, script: list[tuple[float, int, float, bool]], at: int
) -> None:
    pod = make.pod()
    busier = list(script)
    delay, packets, cpu, _ = busier[at % len(busier)]
    busier[at % len(busier)] = (delay, packets + 1, cpu, True)
    _, less = follow(pod, observations(make, script)[0])
    _, more = follow(pod, observations(make, busier)[0])
    assert not (more.is_idle and not less.is_idle)
    assert more.idle_since >= less.idle_since


@given(
    counters=st.lists(st.integers(min_value=0, max_value=100), min_size=2, max_size=10),
    cpu=st.lists(st.floats(min_value=0, max_value=100), min_size=10, max_size=10),
)
def test_counters_that_jump_anywhere_never_break_the_judgement(
    make: Any, counters: list[int], cpu: list[float]
) -> None:
    seen = [
        make.observation(t * 5.0, packets=n, cpu={"app": c})
        for t, (n, c) in enumerate(zip(counters, cpu, strict=False))
    ]
    _, verdict = follow(make.pod(), seen)
    assert verdict.idle_in_seconds is None or verdict.idle_in_seconds >= 0
