"""Whether a pod is idle, since when, and if not, why: by name and number.

A *track* is what is remembered of an awake pod; :func:`advance` adds one observation to it,
:func:`judge` says what it means now. Both are pure. All times are the keeper's monotonic seconds;
only of an older keeper a container's start is known by the wall clock alone.

What counts, per managed container (`docs/daemon.md` has the same as a table):

- packets to a listening port, counted by the pod's rules (``wake-on: packets`` or
  ``connections``). A count that grew between two looks counts as if it happened at the later one:
  a pod may sleep one sampling interval late, never early.
- a new connection from a node's address that is not one of kubelet's probes, and data on accepted
  connections, both at the time the kernel tells. Shadow ports are left out.
- an open connection, for ``wake-on: connections``.
- an exec session. Exec probes are told apart by their exact argv.
- CPU above a threshold, 2 % of a core by default, averaged over ten seconds (less for idle times
  below 20 s). Idle servers of the common runtimes stay below 1 % with their timers and garbage
  collection, and HTTP probes every ten seconds cost 0.05 %; a job at work is far above. Ten
  seconds: a single collection of 100 ms must not start the idle time again, a job that works 0.5 s
  every ten seconds must.

Nothing known counts as activity: a pod that is seen for the first time, that woke or whose
container started has its whole idle time before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from architect.api.keeper import PodState
from architect.api.policy import ContainerPolicy, ProbeKind, WakeOn
from architect.core import durations
from architect.daemon.observation import (
    Connection,
    ContainerUsage,
    ExecSession,
    Observation,
    port_of,
)
from architect.daemon.pods import ManagedPod
from architect.daemon.reasons import Kind, Reason

CPU_WINDOW_SECONDS: Final = 10.0
"""See the module's text."""

CPU_WINDOW_MIN_SECONDS: Final = 1.0
"""cgroup v1's cpuacct and v2's usage_usec are exact, but a shorter window sees single timers."""

SOURCE_SLACK_SECONDS: Final = 0.5
"""The kernel dates a source in ticks, and the keeper reads its clock before it reads the rules."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """The last activity of one kind."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class ContainerTrack:
    """What is remembered of one managed container."""

    started_unix: float
    started_at: float | None
    """None: an older keeper does not tell."""
    signals: Mapping[Kind, Signal]
    cpu_samples: tuple[tuple[float, float], ...]
    """``(now, cpu_seconds)``, oldest first, reaching back one window."""
    cpu_cores: float | None
    """The average over the window; None until it is known."""
    open_connections: tuple[Connection, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PodTrack:
    """What is remembered of one awake pod."""

    observed_at: float
    packets: int
    local_packets: int
    containers: Mapping[str, ContainerTrack]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a pod's activity means at one moment."""

    reasons: tuple[Reason, ...]
    """Why it is awake; empty: it may sleep."""

    idle_since: float
    """The last activity of any managed container."""

    @property
    def is_idle(self) -> bool:
        """Whether every managed container has been idle for its own time."""
        return not self.reasons

    @property
    def idle_in_seconds(self) -> float | None:
        """How long at least until the pod may sleep; None: not known."""
        if any(r.left_seconds is None for r in self.reasons):
            return None
        return max((r.left_seconds or 0.0 for r in self.reasons), default=0.0)


def advance(
    track: PodTrack | None, seen: Observation, pod: ManagedPod, *, cpu_threshold: float
) -> PodTrack | None:
    """Return *track* with *seen* added; None while the pod is not awake.

    An observation older than the track (the keeper's clock began anew with the machine) starts a
    new track.
    """
    if seen.state is not PodState.AWAKE:
        return None
    if track is not None and seen.now < track.observed_at:
        track = None
    shadow = frozenset(p for c in pod.policy.containers.values() for p in c.shadow_ports)
    accepted = tuple(c for c in seen.connections if _is_accepted(c, seen, shadow))
    arrived = _arrived(track, seen)
    containers: dict[str, ContainerTrack] = {}
    for name in pod.managed:
        usage = seen.containers.get(name)
        if usage is None:
            continue
        old = track.containers.get(name) if track else None
        if old is not None and _is_restarted(old, usage):
            old = None
        policy = pod.policy.containers[name]
        signals = (
            dict(old.signals) if old else {Kind.JUST_AWAKE: Signal(at=seen.now, text="seen awake")}
        )
        if policy.wake_on is not WakeOn.EXEC:
            signals |= _network(signals, seen, accepted, arrived=arrived, shadow=shadow)
        for session in seen.exec_sessions:
            if session.container in ("", name) and not _is_probe(session, policy):
                text = f"exec session: {session.command:.60} (pid {session.pid})"
                signals[Kind.EXEC] = Signal(at=seen.now, text=text)
        samples, cores = _cpu(old, seen.now, usage, window=_window(policy))
        if cores is not None and cores > cpu_threshold:
            text = f"cpu {_percent(cores)} of a core (threshold {_percent(cpu_threshold)})"
            signals[Kind.CPU] = Signal(at=seen.now, text=text)
        containers[name] = ContainerTrack(
            started_unix=usage.started_unix,
            started_at=None if usage.age_seconds is None else seen.now - usage.age_seconds,
            signals=MappingProxyType(signals),
            cpu_samples=samples,
            cpu_cores=cores,
            open_connections=accepted if policy.wake_on is WakeOn.CONNECTIONS else (),
        )
    return PodTrack(
        observed_at=seen.now,
        packets=seen.packets,
        local_packets=seen.local_packets,
        containers=MappingProxyType(containers),
    )


def judge(track: PodTrack | None, pod: ManagedPod, *, now: float, now_unix: float) -> Verdict:
    """Return what *track* means for *pod* at *now* (the keeper's clock).

    *now_unix* is used for an older keeper's containers alone.
    """
    reasons = list(pod_reasons(pod))
    idle_since = now if track is None else 0.0
    for name in pod.managed:
        policy = pod.policy.containers[name]
        known = track.containers.get(name) if track else None
        if policy.idle_seconds is None:
            continue
        if known is None:
            reasons.append(Reason(kind=Kind.NOT_RUNNING, text="not seen yet", container=name))
            continue
        idle_since = max([idle_since, *(s.at for s in known.signals.values())])
        reasons += _container_reasons(name, policy, known, now=now, now_unix=now_unix)
    return Verdict(reasons=tuple(reasons), idle_since=idle_since)


def pod_reasons(pod: ManagedPod) -> list[Reason]:
    """Return what keeps *pod* awake whatever its activity is."""
    reasons: list[Reason] = []
    if pod.is_terminating:
        reasons.append(Reason(kind=Kind.TERMINATING, text="the pod is being deleted"))
    if not pod.managed:
        reasons.append(Reason(kind=Kind.NOT_RUNNING, text="no managed container exists"))
    if pod.phase != "Running":
        reasons.append(Reason(kind=Kind.NOT_RUNNING, text=f"the pod is {pod.phase}"))
    if pod.is_gvisor:
        text = "it runs under gVisor: such a pod does not sleep"
        reasons.append(Reason(kind=Kind.GVISOR, text=text))
    for debugger in pod.debug_containers:
        reasons.append(Reason(kind=Kind.DEBUG, text=f"debug container {debugger} is running"))
    for name in pod.managed:
        container = pod.containers[name]
        if pod.policy.containers[name].idle_seconds is None and not pod.is_gvisor:
            reasons.append(Reason(kind=Kind.NEVER, text="idle: never", container=name))
        if not container.is_running:
            reasons.append(Reason(kind=Kind.NOT_RUNNING, text="is not running", container=name))
        elif not container.is_ready:
            reasons.append(
                Reason(kind=Kind.NOT_READY, text="not ready (a probe fails)", container=name)
            )
    return reasons


def wants_sleep(pod: ManagedPod) -> bool:
    """Whether *pod* may ever sleep by itself; if not, nobody needs to look at it."""
    return (
        not pod.is_gvisor
        and bool(pod.managed)
        and all(pod.policy.containers[n].idle_seconds is not None for n in pod.managed)
    )


def idle_seconds(pod: ManagedPod) -> float:
    """Return for how long the whole of *pod* has to be idle: its longest idle time."""
    times = [pod.policy.containers[n].idle_seconds for n in pod.managed]
    return max((t for t in times if t is not None), default=0.0)


def sampling_seconds(pod: ManagedPod, *, shortest: float, longest: float) -> float:
    """Return the time between two looks at *pod*: a tenth of its shortest idle time.

    A count that grew is dated to the later look, so a pod sleeps at most a tenth of its idle time
    late.
    """
    times = [pod.policy.containers[n].idle_seconds for n in pod.managed]
    idle = min((t for t in times if t is not None), default=longest * 10)
    return min(max(idle / 10, shortest), longest)


def _network(
    old: Mapping[Kind, Signal],
    seen: Observation,
    accepted: tuple[Connection, ...],
    *,
    arrived: str,
    shadow: frozenset[int],
) -> dict[Kind, Signal]:
    new: dict[Kind, Signal] = {}
    if arrived:
        new[Kind.PACKETS] = Signal(at=seen.now, text=arrived)
    syn = seen.last_real_syn
    if syn is not None and syn.port not in shadow:
        text = f"connection from {syn.source} to port {syn.port}"
        new[Kind.CONNECTION] = Signal(at=seen.now - syn.seconds_ago, text=text)
    if accepted:
        last = min(accepted, key=lambda c: c.idle_seconds)
        text = f"data on the connection from {last.remote}"
        new[Kind.DATA] = Signal(at=seen.now - last.idle_seconds, text=text)
    # A connection that has gone takes its time of last data with it: never go back.
    return {k: s for k, s in new.items() if k not in old or s.at >= old[k].at}


def _container_reasons(
    name: str, policy: ContainerPolicy, known: ContainerTrack, *, now: float, now_unix: float
) -> list[Reason]:
    assert policy.idle_seconds is not None
    reasons: list[Reason] = []
    if known.started_at is not None:
        age = now - known.started_at
    else:
        # The wall clock may jump; a warm-up never gets longer than it was meant.
        age = max(0.0, now_unix - known.started_unix)
    warm_up = policy.warmup_seconds - age
    if warm_up > 0:
        text = f"warm-up: {durations.render(warm_up)} left"
        reasons.append(Reason(kind=Kind.WARM_UP, text=text, left_seconds=warm_up, container=name))
    if known.open_connections:
        last = min(known.open_connections, key=lambda c: c.idle_seconds)
        count = _plural(len(known.open_connections), "established connection")
        reasons.append(
            Reason(
                kind=Kind.OPEN_CONNECTIONS,
                text=f"{count}, last from {last.remote}",
                container=name,
            )
        )
    if known.cpu_cores is None:
        reasons.append(
            Reason(
                kind=Kind.JUST_AWAKE,
                text="its CPU use is not known yet",
                left_seconds=CPU_WINDOW_MIN_SECONDS,
                container=name,
            )
        )
    for kind, signal in known.signals.items():
        left = signal.at + policy.idle_seconds - now
        if left > 0:
            ago = durations.render(max(0.0, now - signal.at))
            reasons.append(
                Reason(
                    kind=kind, text=f"{signal.text} {ago} ago", left_seconds=left, container=name
                )
            )
    return reasons


def _is_accepted(connection: Connection, seen: Observation, shadow: frozenset[int]) -> bool:
    """Whether the pod accepted it. Without a listener to tell by, it counts."""
    port = port_of(connection.local)
    return port not in shadow and (not seen.listening_tcp or port in seen.listening_tcp)


def _arrived(track: PodTrack | None, seen: Observation) -> str:
    """Say how many packets came since the last look, and from whom; empty if none did."""
    if track is None:
        return ""
    # Rules made anew count from zero, all counters at once.
    anew = seen.packets < track.packets
    packets = seen.packets - (0 if anew else track.packets)
    if packets <= 0:
        return ""
    inside = seen.local_packets - (0 if anew else track.local_packets)
    text = _plural(packets, "packet")
    if inside == packets:
        return f"{text} from inside the pod"
    # More than all there were: an older keeper, which did not tell, gave way to this one.
    if 0 < inside < packets:
        text += f" ({inside} from inside the pod)"
    last = seen.last_source
    if last is None or seen.now - last.seconds_ago < track.observed_at - SOURCE_SLACK_SECONDS:
        # An older keeper or kernel, or a source that was not noted: the one known is another.
        return text
    text += f", last from {last.address} to port {last.port}"
    return text + (f" (one of {last.sources} sources)" if last.sources > 1 else "")


def _is_restarted(old: ContainerTrack, usage: ContainerUsage) -> bool:
    return usage.started_unix != old.started_unix or usage.cpu_seconds < old.cpu_samples[-1][1]


def _is_probe(session: ExecSession, policy: ContainerPolicy) -> bool:
    """Whether kubelet's exec probe, known by its exact words, is what runs."""
    return any(p.kind is ProbeKind.EXEC and p.argv == session.argv for p in policy.probes)


def _window(policy: ContainerPolicy) -> float:
    """Return the time over which CPU is averaged: at most half the idle time."""
    half = CPU_WINDOW_SECONDS if policy.idle_seconds is None else policy.idle_seconds / 2
    return max(CPU_WINDOW_MIN_SECONDS, min(CPU_WINDOW_SECONDS, half))


def _cpu(
    old: ContainerTrack | None, now: float, usage: ContainerUsage, *, window: float
) -> tuple[tuple[tuple[float, float], ...], float | None]:
    """Return the samples to keep and the average over the window."""
    samples = (*(old.cpu_samples if old else ()), (now, usage.cpu_seconds))
    # Keep one sample at or before the window's begin, to reach over all of it.
    while len(samples) > 2 and samples[1][0] <= now - window:
        samples = samples[1:]
    begin, used = samples[0]
    if now - begin < CPU_WINDOW_MIN_SECONDS:
        return samples, old.cpu_cores if old else None
    return samples, (usage.cpu_seconds - used) / (now - begin)


def _percent(cores: float) -> str:
    return f"{cores * 100:.3g}%"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
