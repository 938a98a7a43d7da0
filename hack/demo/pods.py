"""One application of the demonstration as the cluster sees it: its pod, label, memory, reasons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from architect.api import names
from demo import network
from demo.errors import DemoError
from lab import errors as lab_errors
from lab import waiting
from lab.cluster import Cluster
from lab.node import Node

READY_SECONDS: Final = 180.0
SERVICE_SECONDS: Final = 180.0
ASLEEP_SECONDS: Final = 180.0
EXPLAIN_AFTER_SECONDS: Final = 20.0
RUNTIME: Final = names.CURRENT / "bin" / "architect-runtime"


@dataclass(frozen=True, kw_only=True)
class Application:
    """A Deployment of one pod; its container, label ``app`` and Service have its name."""

    cluster: Cluster
    namespace: str
    name: str

    def kubectl(self, *words: str, timeout_seconds: float = 60) -> str:
        """Run kubectl in the application's namespace."""
        return self.cluster.kubectl("-n", self.namespace, *words, timeout_seconds=timeout_seconds)

    def pod(self) -> dict[str, Any]:
        """Return its one pod. Raises DemoError if there is none or more than one."""
        found = json.loads(self.kubectl("get", "pods", "-l", f"app={self.name}", "-o", "json"))
        living = [p for p in found["items"] if "deletionTimestamp" not in p["metadata"]]
        if len(living) != 1:
            raise DemoError(f"{self.name}: {len(living)} pods instead of one")
        return dict(living[0])

    def service(self) -> dict[str, Any]:
        """Return its Service's spec."""
        return dict(json.loads(self.kubectl("get", "service", self.name, "-o", "json"))["spec"])

    def node(self) -> Node:
        """Return the node it runs on."""
        return self.cluster.node(self.pod()["spec"]["nodeName"])

    def fingerprint(self) -> dict[str, object]:
        """Return what a new or restarted pod would have otherwise."""
        pod = self.pod()
        return {
            "pod": pod["metadata"]["uid"],
            "pod IP": pod["status"]["podIP"],
            "restarts": restarts(pod),
        }

    def wait_until_ready(self) -> None:
        """Return once its pod is Ready and managed."""
        waiting.until(
            self._is_ready,
            what=f"{self.name} is ready",
            timeout_seconds=READY_SECONDS,
            interval_seconds=0.5,
            last_seen=self.diagnosis,
        )
        asked = self.pod()["spec"].get("runtimeClassName")
        if asked != names.RUNTIME_CLASS:
            raise DemoError(
                f"{self.name}: runtime class {asked} instead of {names.RUNTIME_CLASS}: the webhook "
                f"did not see its creation\n{self.diagnosis()}"
            )

    def wait_for_service(self) -> None:
        """Return once its Service leads to it; kube-proxy is later than a pod's readiness."""
        spec = self.service()
        inside = self.cluster.plane.machine.network
        ports = [int(p["port"]) for p in spec["ports"] if p.get("protocol", "TCP") == "TCP"]

        def answers() -> bool:
            try:
                for port in ports:
                    network.tcp(inside, spec["clusterIP"], port).close()
            except OSError:
                return False
            return True

        waiting.until(
            answers,
            what=f"the Service of {self.name} leads to it",
            timeout_seconds=SERVICE_SECONDS,
            last_seen=self.diagnosis,
        )

    def wait_for_label(
        self, wanted: str, *, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        """Return once the status label has *wanted*; say from time to time what keeps it.

        *meanwhile* is done again and again until then.
        """
        deadline = time.monotonic() + ASLEEP_SECONDS
        explain_at = time.monotonic() + EXPLAIN_AFTER_SECONDS
        while (seen := self.label()) != wanted:
            now = time.monotonic()
            if now >= deadline:
                raise DemoError(
                    f"{self.name}: label {seen} instead of {wanted} after {ASLEEP_SECONDS:g} s\n"
                    + self.diagnosis()
                )
            if now >= explain_at:
                explain_at = now + EXPLAIN_AFTER_SECONDS
                self.cluster.progress.say(f"  {self.name} is still {seen}: {self.why()}")
            meanwhile()
            time.sleep(0.2)

    def stay_asleep(self, seconds: float) -> None:
        """Let it sleep on for *seconds*. Raises DemoError if it wakes or is not Ready then."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            seen = self.label()
            if seen != names.STATUS_SCALED_DOWN or not self._is_ready():
                raise DemoError(
                    f"{self.name}: {seen} though nobody asked for it\n{self.diagnosis()}"
                )
            time.sleep(0.5)

    def label(self) -> str | None:
        """Return its status label."""
        labels: dict[str, str] = self.pod()["metadata"].get("labels", {})
        return labels.get(names.STATUS_LABEL_PREFIX + self.name)

    def condition(self) -> str:
        """Return the pod condition that says whether and why it sleeps, as one line."""
        for each in self.pod()["status"].get("conditions", []):
            if each["type"] == names.CONDITION_ASLEEP:
                return f"{each['status']} ({each['reason']}): {each.get('message', '')}"
        return "not set"

    def why(self) -> str:
        """Return what the runtime on its node says about it, without the API server's help."""
        pod = f"{self.namespace}/{self.pod()['metadata']['name']}"
        try:
            return self.node().exec([RUNTIME, "why", pod]).strip()
        except lab_errors.LabError as error:
            return str(error)

    def memory_bytes(self) -> int:
        """Return its container's working set, as kubelet computes it, from the cgroup itself."""
        pod = self.pod()
        container = container_id(pod, self.name)
        node = self.cluster.node(pod["spec"]["nodeName"])
        said = node.exec(["find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{container}*"])
        directory = memory_cgroup(said.split())
        if directory is None:
            raise DemoError(f"{self.name}: no memory cgroup of {container} on {node.name}")
        # The file has one of two names: cgroup version 1 or 2.
        text = node.exec(
            [
                *(
                    "sh",
                    "-c",
                    'cd "$0"; cat memory.usage_in_bytes memory.current memory.stat 2>&-;:',
                ),
                directory,
            ]
        )
        return working_set(text)

    def image_bytes(self) -> int:
        """Return what its memory image takes on the node's disk."""
        path = names.PODS / self.pod()["metadata"]["uid"]
        return int(self.node().exec(["du", "-sk", path]).split()[0]) * 1024

    def diagnosis(self) -> str:
        """Return what a person would look at first."""
        said = [f"condition {names.CONDITION_ASLEEP}: ", f"{RUNTIME} why: "]
        for at, ask in enumerate((self.condition, self.why)):
            try:
                said[at] += ask()
            except (DemoError, lab_errors.LabError) as error:
                said[at] += str(error)
        for words in (
            ("get", "pods", "-o", "wide", "-L", names.STATUS_LABEL_PREFIX + self.name),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", f"app={self.name}", "--tail=20"),
        ):
            try:
                said.append(self.kubectl(*words).strip())
            except lab_errors.LabError as error:
                said.append(str(error))
        try:
            log = self.node().exec(["tail", "-n", "25", names.RUN / "keeper.log"])
            said.append(f"keeper of {self.node().name}:\n{log.strip()}")
        except (DemoError, lab_errors.LabError) as error:
            said.append(str(error))
        return "\n".join(said)

    def _is_ready(self) -> bool:
        try:
            conditions = self.pod()["status"].get("conditions", [])
        except DemoError:
            return False  # the Deployment's controller has not made it yet
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def restarts(pod: dict[str, Any]) -> int:
    """Return how often its containers were started again."""
    return sum(int(s["restartCount"]) for s in pod["status"].get("containerStatuses", []))


def container_id(pod: dict[str, Any], name: str) -> str:
    """Return the engine's id of one container, without the engine's name."""
    for status in pod["status"].get("containerStatuses", []):
        if status["name"] == name and status.get("containerID"):
            return str(status["containerID"]).rpartition("//")[2]
    raise DemoError(f"{name}: no container of that name runs")


def memory_cgroup(directories: Iterable[str]) -> str | None:
    """Return the outermost of *directories* that accounts memory: version 1's, else version 2's."""
    by_length = sorted(directories, key=len)
    first = [d for d in by_length if d.startswith("/sys/fs/cgroup/memory/")]
    return next(iter(first or by_length), None)


def working_set(text: str) -> int:
    """Return use without inactive file pages, from the files of a memory cgroup in one text.

    The first line is the use. Version 1 has ``total_`` names for the whole subtree.
    """
    first, *lines = text.split("\n")
    counters = dict(line.split() for line in lines if line.count(" ") == 1)
    inactive = counters.get("total_inactive_file", counters.get("inactive_file", "0"))
    return max(int(first) - int(inactive), 0)
