"""A node gets the notice that its machine ends: until all of its pods lie in the object store.

From the notice, which the daemon has yet to hear of, to the last manifest, which makes a checkpoint
of what was sent. Beside it the same bytes, uploaded plainly from the same node. The machine does
not end, and the notice is long enough for everybody: what is measured is how long it takes, and who
does not fit is for the tests. Replacements come when all is over: on one host they would take the
processor of the node that is left, which on a cloud is another one.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from architect.daemon.evacuation.evacuation import AHEAD_SECONDS
from bench import bucket, conditions, figures, fleet, herd
from bench.clock import Clock
from bench.errors import BenchError
from bench.figures import Result, Spread
from bench.herd import Herd, HerdSpec, Member
from bench.plan import SpotScenario
from bench.stage import REQUEST_SECONDS, Stage
from lab import commands, object_store, spot
from lab.node import Node

NOTICE_SECONDS: Final = AHEAD_SECONDS - 20
"""As long as may be: there is time for everybody, and what is farther away is waited for."""
SAFE_SECONDS: Final = 600.0
PLAIN_SECONDS: Final = 600.0
LOOK_SECONDS: Final = 1.0
"""Between two looks at the store's disk; when a manifest was written is told by its file."""
QUIET_SECONDS: Final = 15.0
"""After the pods have come, or moved: what was sent for the last time is being deleted, too."""
DATA: Final = f"{object_store.DATA}/{object_store.BUCKET}"


@dataclass(kw_only=True)
class _Run:
    stage: Stage
    herds: Sequence[Herd]
    safe: list[float] = field(default_factory=list)
    """Seconds."""
    first: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Of what was saved the last time."""

    def members(self) -> list[Member]:
        """Return all pods, once they are ready."""
        return [member for made in self.herds for member in made.members()]

    def once(self, number: int) -> None:
        """Save all pods once and upload as much plainly, by turns in which is first."""
        node = self.stage.cluster.node(self.members()[0].node)
        if is_first := bool(number % 2):
            self._beside(node)
        self._save()
        if not is_first:
            self._beside(node)

    def warm_up(self, sizes: Mapping[int, int]) -> None:
        """Upload as much plainly as will be saved: memory that a virtual machine has never used
        has to be fetched from its host, once, and it would be the first run that waits for it.
        """
        self.sizes = [mebibytes << 20 for mebibytes, count in sizes.items() for _ in range(count)]
        self._beside(self.stage.cluster.node(self.members()[0].node))
        self.plain.clear()

    def _beside(self, node: Node) -> None:
        time.sleep(QUIET_SECONDS)
        self.plain.append(self._uploaded_plainly(node))

    def _save(self) -> None:
        old = self.members()
        (name,) = {member.node for member in old}
        source = self.stage.cluster.node(name)
        before = self._identities(old)
        with self._spot_machine(source) as service:
            herd.nowhere(self.stage.cluster)
            time.sleep(QUIET_SECONDS)
            asked = time.time()
            service.notice(NOTICE_SECONDS)
            times = self._committed({member.uid for member in old})
            self.first.append(min(times) - asked)
            self.safe.append(max(times) - asked)
            self.sizes = [self._size(member) for member in old]
            service.withdraw()
        target = next(n for n in self.stage.cluster.nodes if n.name != name)
        herd.only(self.stage.cluster, target.name)
        if (after := self._identities(self.members())) != before:
            raise BenchError(f"{len(before - after)} of {len(old)} pods came without their memory")

    @contextmanager
    def _spot_machine(self, node: Node) -> Iterator[spot.Metadata]:
        with spot.metadata(node.machine, "aws") as service:
            spot.become_known(self.stage.cluster, node, "aws")
            yield service
            self._wait_until_unmarked(node)

    def _wait_until_unmarked(self, node: Node) -> None:
        deadline = time.monotonic() + REQUEST_SECONDS
        path = f"/api/v1/nodes/{node.name}"
        while self.stage.cluster.api.get(path)["spec"].get("unschedulable"):
            if time.monotonic() > deadline:
                raise BenchError(f"{node.name} is cordoned though its notice was withdrawn")
            time.sleep(LOOK_SECONDS)

    def _committed(self, uids: set[str]) -> list[float]:
        """Return when each pod's manifest was written, once all are, in Unix seconds."""
        deadline = time.monotonic() + SAFE_SECONDS
        find = f"find {DATA} -name manifest.json -printf '%T@ %p\\n'"
        while True:
            said = self.stage.cluster.plane.machine.exec(["sh", "-c", find])
            found = committed(said, uids)
            if len(found) == len(uids):
                return list(found.values())
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{len(found)} of {len(uids)} pods lie in the object store after "
                    f"{SAFE_SECONDS:g} s\n{self.herds[0].diagnosis()}"
                )
            time.sleep(LOOK_SECONDS)

    def _size(self, member: Member) -> int:
        return int(self.herds[0].checkpoint(member)["status"]["bytes"])

    def _identities(self, members: Sequence[Member]) -> set[str]:
        found = {self._identity(member) for member in members}
        if len(found) != len(members):
            raise BenchError(f"{len(members)} pods have {len(found)} identities")
        return found

    def _identity(self, member: Member) -> str:
        url = f"http://{member.address}:{fleet.PORT}/"
        words = ["curl", "-fsS", "--retry", "20", "--retry-connrefused", "-m", "60", url]
        return str(json.loads(self.stage.cluster.in_control_plane(words))["identity"])

    def _uploaded_plainly(self, node: Node) -> float:
        work = Path(tempfile.mkdtemp(prefix="bench-plain-", dir=self.stage.cluster.settings.state))
        try:
            said = commands.run(
                node.machine.in_network(
                    *(sys.executable, "-m", "bench.plainstore", work),
                    *(object_store.ENDPOINT, object_store.REGION, object_store.BUCKET),
                    *map(str, self.sizes),
                ),
                env=bucket.environment(),
                timeout_seconds=PLAIN_SECONDS,
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)
            self.stage.cluster.plane.machine.exec(["rm", "-rf", f"{DATA}/bench"])
        return float(json.loads(said)["seconds"])


def committed(said: str, uids: set[str]) -> dict[str, float]:
    """Return when the manifest of each of *uids* was written, by what ``find`` says."""
    found: dict[str, float] = {}
    for line in said.splitlines():
        at, _, path = line.partition(" ")
        for uid in uids.intersection(path.split("/")):
            found[uid] = max(found.get(uid, 0.0), float(at))
    return found


def measure(stage: Stage, scenario: SpotScenario, clock: Clock) -> list[Result]:
    """Run the scenario. Raises BenchError, LabError, ArchitectError, OSError."""
    if len(stage.cluster.nodes) < 2:
        raise BenchError("one node: there is nowhere to go on")
    load = conditions.Load()
    with ExitStack() as stack:
        stack.enter_context(herd.places(stage.cluster))
        herd.only(stage.cluster, stage.node.name)
        herds = [
            stack.enter_context(
                herd.running(
                    stage.cluster,
                    HerdSpec(name=f"spot-{size}", count=count, mebibytes=size),
                )
            )[0]
            for size, count in scenario.sizes.items()
        ]
        run = _Run(stage=stage, herds=herds)
        run.warm_up(scenario.sizes)
        for number in range(scenario.runs):
            run.once(number)
            stage.cluster.progress.say(
                f"  {scenario.name}: {number + 1} of {scenario.runs}{figures.so_far(run.safe, 's')}"
            )
            if clock.is_over:
                break
    return results(run, stage, scenario, load)


def results(run: _Run, stage: Stage, scenario: SpotScenario, load: conditions.Load) -> list[Result]:
    """Return what was measured."""
    gibibytes = sum(run.sizes) / (1 << 30)
    count = sum(scenario.sizes.values())
    said = conditions.line(
        stage.host,
        load,
        notes=(
            f"{count} pods of {min(scenario.sizes)} MiB to {max(scenario.sizes)} MiB of random "
            f"memory, {gibibytes:.2f} GiB saved in all",
            "from the notice at the metadata service, which is asked every 2 s, to the last "
            "manifest on the store's disk; replacements come after that",
            "versitygw on the same host, over http",
            "plain copy: as many files of the same sizes, all at once by awscrt in parts of 8 MiB, "
            "no encryption, no hash; by turns in which is first, after one that is not counted",
        ),
    )
    made = {
        "spot.notice_to_safe.4GiB": (
            run.safe,
            {"until the first one is safe": Spread.of(run.first)},
            {"plain copy of the same bytes": Spread.of(run.plain)},
        ),
        "spot.ratio": ([s / p for s, p in zip(run.safe, run.plain, strict=True)], {}, {}),
    }
    found = []
    for quantity in scenario.quantities:
        values, parts, beside = made[quantity.name]
        found.append(
            Result(
                name=quantity.name,
                unit=quantity.unit,
                spread=Spread.of(values),
                goal=quantity.goal,
                parts=parts,
                baseline=beside,
                conditions=said,
                wanted=scenario.runs,
            )
        )
    return found
