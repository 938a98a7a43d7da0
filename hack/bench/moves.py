"""One pod is evicted and goes on on another node: until its first reply, and how that comes about.

All clocks are the host's one: the nodes are machines of the same kernel. What Architect does is
told by the keepers of both nodes and by the directories in which it is done; what Kubernetes does
by the API server, when it tells a watch. A successor without its predecessor's memory ends the
measure.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from architect.api import names
from architect.api.keeper import Event
from bench import conditions, figures, fleet, herd, plan, processes
from bench.accounting import Peak
from bench.appearing import PARTIAL, Watch
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.herd import Herd, HerdSpec, Member
from bench.keeper import Keeper
from bench.plan import MoveScenario
from bench.podwatch import PodWatch
from bench.processes import inside
from bench.remote import Remote
from bench.stage import REQUEST_SECONDS, Stage
from bench.timeline import Move
from lab.node import Node

OLD_PAUSE_SECONDS: Final = 0.02
"""Between two questions to the pod that leaves: how exactly its last answer is known."""
NEW_PAUSE_SECONDS: Final = 0.05
SUCCESSOR_SECONDS: Final = 120.0
QUIET_SECONDS: Final = 2.0
"""Between two runs: labels, events and removals of the last one are load, too."""
LABEL_SECONDS: Final = 0.5
"""For the scheduler to hear which node takes pods now."""
MEGABYTE: Final = 1_000_000
OWN: Final = ("freeze", "copy", "restore")

Values = defaultdict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node with what tells about it."""

    node: Node
    keeper: Keeper
    agent: Remote
    daemon: Peak


@dataclass(kw_only=True)
class _Run:
    """One scenario at work."""

    stage: Stage
    scenario: MoveScenario
    places: dict[str, Place]
    moves: list[Move] = field(default_factory=list)
    plain_copy: list[float] = field(default_factory=list)
    """Seconds, one for each move."""
    unmanaged: Values = field(default_factory=lambda: defaultdict(list))

    def step(self, number: int, ours: tuple[Herd, str], plain: tuple[Herd, str]) -> None:
        """Move the pod once; beside it the same bytes, and now and then the pod without us."""
        acts: list[Callable[[], None]] = [partial(self._move_and_copy, *ours)]
        if number % self.scenario.baseline_every == 0:
            acts.append(partial(self._replace, *plain))
        for act in plan.rotated(acts, number // self.scenario.baseline_every):
            act()
            time.sleep(QUIET_SECONDS)

    def warm_up(self, made: Herd) -> None:
        """Move there and back: every node has done it once, and has the directories for it."""
        for _ in self.places:
            (old,) = made.members()
            self._lead_away(old)
            made.evict([old])

    def _lead_away(self, old: Member) -> Place:
        """Let the successor come to another node; return which."""
        target = next(place for name, place in self.places.items() if name != old.node)
        herd.only(self.stage.cluster, target.node.name)
        time.sleep(LABEL_SECONDS)
        return target

    def _move_and_copy(self, made: Herd, service: str) -> None:
        (old,) = made.members()
        source = self.places[old.node]
        target = self._lead_away(old)
        before = self._ask(old.address)
        with ExitStack() as stack:
            stack.callback(self._client, "unfollow")
            pods = PodWatch(
                self.stage.cluster.api, namespace=fleet.NAMESPACE, label=made.spec.label
            )
            stack.callback(pods.close)
            saved = stack.enter_context(Watch(_directory(source, names.CHECKPOINTS)))
            came = stack.enter_context(Watch(_directory(target, names.ARRIVALS)))
            self._follow("old", old.address, known=old.name, pause=OLD_PAUSE_SECONDS)
            self._follow("service", service, known=old.name, pause=NEW_PAUSE_SECONDS)
            time.sleep(10 * NEW_PAUSE_SECONDS)
            for place in (source, target):
                place.daemon.take()
            asked = time.time()
            made.evict([old])
            new = self._successor(pods, made)
            own = self._answer("new", of=made)
            through = self._answer("service", of=made)
            for answer in (own, through):
                if answer["identity"] != before["identity"] or answer["host"] != new.name:
                    raise BenchError(
                        f"pod {new.name} on {new.node} came without the memory of {old.name}: it "
                        f"answers {answer}, before that it was {before}\n{made.diagnosis()}"
                    )
            if new.node != target.node.name:
                raise BenchError(f"pod {new.name} came to {new.node}, not to {target.node.name}")
            last_old = self._client("followed", name="old", seconds=0)["last_known"]
            if last_old is None:
                raise BenchError(f"pod {old.name} gave no answer before it was evicted")
            pods.wait(lambda: {new.uid}, "ready", seconds=SUCCESSOR_SECONDS)
            counted = self._counted()
            slept = source.keeper.told(Event.SLEPT, old.uid, since=asked)
            woke = target.keeper.told(Event.WOKE, new.uid, since=asked)
            size = int(made.checkpoint(old)["status"]["bytes"])
            self.moves.append(
                Move(
                    asked=asked,
                    last_old=float(last_old["at"]),
                    slept=slept["at"],
                    sleep_steps=slept["steps"],
                    saved=saved.at(old.uid),
                    copy_began=came.at(new.uid + PARTIAL),
                    copied=came.at(new.uid),
                    woke=woke["at"],
                    wake_steps=woke["steps"],
                    created=pods.when(new.uid, "created"),
                    scheduled=pods.when(new.uid, "scheduled"),
                    address=pods.when(new.uid, "address"),
                    ready=pods.when(new.uid, "ready"),
                    first_own=own["at"],
                    first_service=through["at"],
                    size=size,
                    asked_service=counted["asked"],
                    failed_service=counted["failed"],
                    daemon_bytes={
                        "of the node that is left": source.daemon.take(),
                        "of the node that is come to": target.daemon.take(),
                    },
                )
            )
        made.members()
        time.sleep(QUIET_SECONDS)
        self.plain_copy.append(plain_copy(source, target, size))

    def _replace(self, made: Herd, service: str) -> None:
        """Delete the unmanaged pod; note when its replacement first answers, without its memory."""
        (old,) = made.members()
        self._lead_away(old)
        with ExitStack() as stack:
            stack.callback(self._client, "unfollow")
            pods = PodWatch(
                self.stage.cluster.api, namespace=fleet.NAMESPACE, label=made.spec.label
            )
            stack.callback(pods.close)
            self._follow("service", service, known=old.name, pause=NEW_PAUSE_SECONDS)
            asked = time.time()
            made.remove([old])
            self._successor(pods, made)
            for name, what in (("new", "at its address"), ("service", "through the Service")):
                answer = self._answer(name, of=made)
                self.unmanaged[f"unmanaged pod deleted: its replacement, {what}"].append(
                    (answer["at"] - asked) * 1000
                )
            self.unmanaged["unmanaged pod deleted: failed"].append(self._counted()["failed"])
        made.members()

    def _successor(self, pods: PodWatch, made: Herd) -> Member:
        """Return the one new pod as soon as its address is told, and begin to ask it."""
        try:
            (uid,) = pods.wait(lambda: set(pods.newcomers()), "address", seconds=SUCCESSOR_SECONDS)
        except BenchError as error:
            raise BenchError(f"{error}\n{made.diagnosis()}") from error
        pod = pods.newcomers()[uid]
        new = Member(
            name=pod["metadata"]["name"],
            uid=uid,
            node=pod["spec"]["nodeName"],
            address=pod["status"]["podIP"],
        )
        self._follow("new", new.address, known="", pause=NEW_PAUSE_SECONDS)
        return new

    def _follow(self, name: str, address: str, *, known: str, pause: float) -> None:
        self._client(
            "follow",
            **{"name": name, "address": address, "port": fleet.PORT, "path": "/"},
            known=known,
            pause_seconds=pause,
        )

    def _answer(self, name: str, *, of: Herd) -> dict[str, Any]:
        found = self._client("followed", name=name, seconds=SUCCESSOR_SECONDS)["first"]
        if found is None:
            raise BenchError(
                f"{name}: no answer of a successor within {SUCCESSOR_SECONDS:g} s\n{of.diagnosis()}"
            )
        return dict(found)

    def _counted(self) -> dict[str, int]:
        return self._client("counted", name="service", seconds=REQUEST_SECONDS)

    def _ask(self, address: str) -> dict[str, Any]:
        self._follow("before", address, known="", pause=NEW_PAUSE_SECONDS)
        found = self._client("followed", name="before", seconds=REQUEST_SECONDS)["first"]
        if found is None:
            raise BenchError(f"{address} does not answer before the move")
        return dict(found)

    def _client(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.stage.client.call(
            op, timeout_seconds=SUCCESSOR_SECONDS + REQUEST_SECONDS, **arguments
        )

    def results(self, load: conditions.Load) -> list[Result]:
        """Return what was measured."""
        said = conditions.line(self.stage.host, load, notes=self._notes())
        made = {
            f"migration.first_reply.{self.scenario.mebibytes}MB": self._first_reply,
            f"migration.first_reply.{self.scenario.mebibytes}MB.service": self._through_service,
            f"migration.own.{self.scenario.mebibytes}MB": self._own,
            f"migration.freeze.{self.scenario.mebibytes}MB": self._freeze,
            f"migration.failed_requests.{self.scenario.mebibytes}MB": self._failed_requests,
            f"daemon.memory.{self.scenario.mebibytes}MB": self._daemon_memory,
            f"migration.copy.ratio.{self.scenario.mebibytes}MB": self._ratio,
        }
        found = []
        for quantity in self.scenario.quantities:
            values, parts, baseline = made[quantity.name]()
            found.append(
                Result(
                    name=quantity.name,
                    unit=quantity.unit,
                    spread=Spread.of(values),
                    goal=quantity.goal,
                    at_least=quantity.at_least,
                    parts=spreads(parts),
                    baseline=spreads(baseline),
                    conditions=said,
                    wanted=self.scenario.runs,
                )
            )
        return found

    def _first_reply(self) -> tuple[list[float], Values, Values]:
        values = [(m.first_own - m.asked) * 1000 for m in self.moves]
        parts = gathered([m.reply_parts_ms() | m.kubernetes_ms() for m in self.moves])
        return values, parts, self._beside("at its address")

    def _through_service(self) -> tuple[list[float], Values, Values]:
        values = [(m.first_service - m.asked) * 1000 for m in self.moves]
        parts = gathered([m.service_parts_ms() for m in self.moves])
        return values, parts, self._beside("through the Service")

    def _beside(self, what: str) -> Values:
        return defaultdict(list, {k: v for k, v in self.unmanaged.items() if k.endswith(what)})

    def _own(self) -> tuple[list[float], Values, Values]:
        own = [m.own_ms() for m in self.moves]
        copies: Values = defaultdict(list)
        copies["plain copy of the same bytes"] = [seconds * 1000 for seconds in self.plain_copy]
        parts = [each | m.freeze_steps_ms() for each, m in zip(own, self.moves, strict=True)]
        return [sum(each.values()) for each in own], gathered(parts), copies

    def _freeze(self) -> tuple[list[float], Values, Values]:
        values = [(m.first - m.last_old) * 1000 for m in self.moves]
        return values, gathered([m.freeze_parts_ms() for m in self.moves]), defaultdict(list)

    def _failed_requests(self) -> tuple[list[float], Values, Values]:
        values = [float(m.failed_service) for m in self.moves]
        parts = gathered([{"of so many": float(m.asked_service)} for m in self.moves])
        return values, parts, self._beside("failed")

    def _daemon_memory(self) -> tuple[list[float], Values, Values]:
        held = [{k: v / MEGABYTE for k, v in m.daemon_bytes.items()} for m in self.moves]
        return [max(each.values()) for each in held], gathered(held), defaultdict(list)

    def _ratio(self) -> tuple[list[float], Values, Values]:
        pairs = list(zip(self.plain_copy, self.moves, strict=False))
        ratios = [plain / (move.copied - move.copy_began) for plain, move in pairs]
        return ratios, defaultdict(list), defaultdict(list)

    def _notes(self) -> tuple[str, ...]:
        size = sum(m.size for m in self.moves) / len(self.moves) / (1 << 20)
        return (
            f"{self.scenario.mebibytes} MiB of random memory in a Python HTTP server of a "
            f"Deployment, a probe every {herd.PROBE_SECONDS} s",
            f"{size:.0f} MiB saved on average",
            "evicted through the eviction API, by turns from each of two nodes of one host",
            f"client in the network of {self.stage.client_place}; a question every "
            f"{OLD_PAUSE_SECONDS * 1000:.0f} ms to the old pod's address and every "
            f"{NEW_PAUSE_SECONDS * 1000:.0f} ms to the new one's and the Service's",
            "plain copy: sendfile over one connection between the nodes, after each move",
        )


def _directory(place: Place, path: Path) -> Path:
    return inside(place.node.machine, path)


def plain_copy(source: Place, target: Place, size: int) -> float:
    """Copy *size* bytes between the nodes by plain means; return the seconds."""
    offer = source.agent.call("offer", timeout_seconds=REQUEST_SECONDS, size=size)
    address = source.node.addresses.v4
    answer = target.agent.call(
        "fetch", timeout_seconds=REQUEST_SECONDS, address=address, port=offer["port"], size=size
    )
    return float(answer["seconds"])


@contextmanager
def opened(stage: Stage) -> Iterator[dict[str, Place]]:
    """Give the two nodes between which pods move. Raises BenchError if there is only one."""
    others = [node for node in stage.cluster.nodes if node.name != stage.node.name]
    if not others:
        raise BenchError("one node: there is nowhere to move to")
    with ExitStack() as stack, herd.places(stage.cluster):
        found = {}
        for node in (stage.node, others[0]):
            agent = stage.in_node
            if node is not stage.node:
                stack.callback(processes.forget, node.machine)
                agent = processes.agent(node.machine, logs=stage.logs)
                stack.callback(agent.close)
            keeper = Keeper(node.machine)
            stack.callback(keeper.close)
            daemon = Peak(inside(node.machine, "/proc"), "architect.daemon")
            found[node.name] = Place(node=node, keeper=keeper, agent=agent, daemon=daemon)
        herd.only(stage.cluster, stage.node.name)
        yield found


def measure(stage: Stage, scenario: MoveScenario, clock: Clock) -> list[Result]:
    """Run one scenario. Raises BenchError, LabError, ArchitectError, OSError."""
    load = conditions.Load()
    name = f"move-{scenario.mebibytes}"
    ours = HerdSpec(name=name, count=1, mebibytes=scenario.mebibytes)
    plain = HerdSpec(name=f"{name}-plain", count=1, mebibytes=scenario.mebibytes, is_managed=False)
    with (
        opened(stage) as places,
        herd.running(stage.cluster, ours) as managed,
        herd.running(stage.cluster, plain) as unmanaged,
    ):
        run = _Run(stage=stage, scenario=scenario, places=places)
        run.warm_up(managed[0])
        for number in range(scenario.runs):
            run.step(number, managed, unmanaged)
            so_far = [(m.first_own - m.asked) * 1000 for m in run.moves]
            stage.cluster.progress.say(
                f"  {scenario.name}: {len(run.moves)} of {scenario.runs}"
                f"{figures.so_far(so_far, 'ms')}"
            )
            if clock.is_over:
                break
        return run.results(load)


def gathered(rows: list[dict[str, float]]) -> Values:
    """Return the values of each part over all rows."""
    found: Values = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            found[name].append(value)
    return found


def spreads(values: Values) -> dict[str, Spread]:
    """Return the spread of each part."""
    return {name: Spread.of(found) for name, found in values.items()}
