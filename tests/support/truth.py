"""The same pods under plain runc, managed, and managed with a sleep in between.

What is seen of the pod under runc is the truth. Where another kind shows something else, that is a
mistake of ours or a decision, which the test names with :func:`behaviour`; ``docs/reliability.md``
has a table of them all.
"""

from __future__ import annotations

import enum
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from architect.api import names
from lab.cluster import Cluster
from support.patience import patient
from support.workloads import REQUEST_SECONDS, BarePod, code, eventually

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])

CODE: Final = "truth-code"
"""The ConfigMap with the applications."""
GO: Final = "/go/now"
"""A file for which applications wait: a pod falls asleep before it comes, and wakes by it."""
WAIT: Final = f"while [ ! -e {GO} ]; do sleep 0.5; done; "
PYTHON_WAIT: Final = f"import os, time\nwhile not os.path.exists({GO!r}): time.sleep(0.2)\n"


START_SECONDS: Final = patient(300.0)
"""For all pods of a module, which begin at once."""


class Kind(enum.StrEnum):
    """How a pod runs."""

    RUNC = "runc"
    MANAGED = "managed"
    SLEPT = "slept"
    """Managed, and put to sleep before what is looked at happens."""


ALL: Final = tuple(Kind)
AWAKE: Final = (Kind.RUNC, Kind.MANAGED)
"""Where there is nothing that a sleep could be in the middle of."""


SAME: Final = "same"


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """One row of the table."""

    what: str
    managed: str
    """``same``, or the decision by which it differs."""
    slept: str | None
    """The same across a sleep; None where nothing can be in the middle of it."""


def behaviour(
    what: str, *, managed: str = SAME, slept: str | None = SAME
) -> Callable[[Function], Function]:
    """Say what a test shows, as a row of the table in ``docs/reliability.md``."""

    def mark(function: Function) -> Function:
        rows: list[Behaviour] = getattr(function, "behaviours", [])
        rows.insert(0, Behaviour(what=what, managed=managed, slept=slept))
        function.behaviours = rows  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True, kw_only=True)
class Subject(BarePod):
    """One pod that is looked at."""

    kind: Kind

    def pod(self) -> dict[str, Any]:
        # Asked often and by several at once: without a kubectl for each time.
        return self.cluster.api.get(
            f"/api/v1/namespaces/{self.namespace}/pods/{self.name}",
            timeout_seconds=REQUEST_SECONDS,
        )

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Return container → status, of all kinds of containers."""
        status = self.pod()["status"]
        keys = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        return {one["name"]: one for key in keys for one in status.get(key) or ()}

    def status_of(self, container: str) -> dict[str, Any]:
        """Return the status of a container of whatever kind; empty while it has none."""
        return self.statuses().get(container, {})

    def ending(self, container: str) -> dict[str, Any]:
        """Wait for the end of a container; return how the API tells of it."""
        ended = eventually(
            lambda: self.status_of(container).get("state", {}).get("terminated"),
            what=f"{container} of {self.name} has ended",
        )
        return told(ended)

    def said(self, container: str, *words: str) -> list[str]:
        """Return the lines of a container's log."""
        return self.kubectl("logs", self.name, "-c", container, *words).splitlines()

    def until_said(self, container: str, line: str) -> list[str]:
        """Wait for a line in a container's log; return all of them."""
        found: list[str] = eventually(
            lambda: lines if line in (lines := self.said(container)) else None,
            what=f"{container} of {self.name} has said {line!r}",
        )
        return found

    def run(self, container: str, *words: str, input: str | None = None) -> str:
        """Run a command in a container, as ``kubectl exec`` does; return its output."""
        flags = ["-i"] if input is not None else []
        return self.kubectl("exec", *flags, self.name, "-c", container, "--", *words, input=input)

    @property
    def is_asleep(self) -> bool:
        """Whether it is managed and sleeps."""
        return self.kind is not Kind.RUNC and self.state() == "asleep"


def told(terminated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a terminated state says, without what is another's each time."""
    return {key: terminated[key] for key in ("exitCode", "reason", "message") if key in terminated}


@dataclass(frozen=True)
class Trio:
    """The same pod of every kind."""

    pods: Mapping[Kind, Subject]

    def each(self, look: Callable[..., T], *words: Any) -> dict[Kind, T]:
        """Return what ``look(pod, *words)`` sees of each of them, side by side."""
        jobs = [functools.partial(look, pod, *words) for pod in self.pods.values()]
        return dict(zip(self.pods, parallel(*jobs), strict=True))

    def sleep(self) -> None:
        """Put those to sleep that sleep in between."""
        if (slept := self.pods.get(Kind.SLEPT)) is not None:
            slept.sleep()

    def go(self, container: str) -> None:
        """Have the applications go on; who slept is awake then."""
        self.each(Subject.run, container, "touch", GO)

    def sleep_and_go(self, container: str) -> None:
        """Do both."""
        self.sleep()
        self.go(container)

    @property
    def slept(self) -> Subject:
        """The one that sleeps in between."""
        return self.pods[Kind.SLEPT]


def check(seen: Mapping[Kind, T], expected: T, **differs: T) -> None:
    """Fail unless each kind shows *expected*; *differs* has what a decision makes of it."""
    wanted = {kind: differs.get(kind.value, expected) for kind in seen}
    for kind, shown in seen.items():
        assert shown == wanted[kind], f"{kind}: {shown!r} instead of {wanted[kind]!r}: {seen}"


def alike(seen: Mapping[Kind, T]) -> T:
    """Fail unless each kind shows what the one under runc shows; return that."""
    check(seen, seen[Kind.RUNC])
    return seen[Kind.RUNC]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pod to be made of every kind."""

    containers: Sequence[Mapping[str, Any]]
    spec: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    annotations: Mapping[str, str] | None = None
    """Of every kind, besides the one that makes it managed."""
    kinds: Sequence[Kind] = ALL
    is_awaited: bool = True
    """Whether tests begin with pods that are ready."""

    def object(self, name: str, kind: Kind) -> dict[str, Any]:
        """Return the Pod."""
        annotations = dict(self.annotations or {})
        if kind is not Kind.RUNC:
            annotations[names.IDLE] = "1h"
        spec = dict(self.spec or {})
        volumes = [
            {"name": "code", "configMap": {"name": CODE}},
            {"name": "go", "emptyDir": {}},
            *spec.pop("volumes", ()),
        ]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"app": name},
                "annotations": annotations,
                **(self.metadata or {}),
            },
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "enableServiceLinks": False,
                "containers": list(self.containers),
                "volumes": volumes,
                **spec,
            },
        }


def container(name: str, command: str | Sequence[str], **more: Any) -> dict[str, Any]:
    """Return a container that runs a shell's code, or a command."""
    mounts = [{"name": "code", "mountPath": "/app"}, {"name": "go", "mountPath": "/go"}]
    return {
        "name": name,
        "image": "localhost/py:3",
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command] if isinstance(command, str) else list(command),
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}},
        **more,
        "volumeMounts": [*mounts, *more.get("volumeMounts", ())],
    }


def python(program: str) -> list[str]:
    """Return the command of a Python program that is the container's first process."""
    return ["python3", "-u", "-c", program]


@contextmanager
def running(
    cluster: Cluster,
    namespace: str,
    plans: Mapping[str, Plan],
    *,
    files: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Trio]]:
    """Make all pods of *plans* at once, and wait for them; they end with their namespace.

    *files* lie beside the applications' code.
    """
    made = {
        name: Trio(
            {
                kind: Subject(
                    cluster=cluster, namespace=namespace, name=f"{name}-{kind}", kind=kind
                )
                for kind in plan.kinds
            }
        )
        for name, plan in plans.items()
    }
    pods = [
        plan.object(pod.name, kind)
        for name, plan in plans.items()
        for kind, pod in made[name].pods.items()
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": [code(CODE, **(files or {})), *pods]}
    cluster.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(listed))
    try:
        for name, plan in plans.items():
            if plan.is_awaited:
                for pod in made[name].pods.values():
                    eventually(pod.is_ready, what=f"{pod.name} is ready", seconds=START_SECONDS)
        yield made
    finally:
        # Whatever waits for somebody to look at it.
        finalized = [
            pod
            for name, plan in plans.items()
            if "finalizers" in (plan.metadata or {})
            for pod in made[name].pods.values()
        ]
        for pod in finalized:
            release(pod)


FINALIZER: Final = "tests.architect.dev/look"
KEPT: Final = {"finalizers": [FINALIZER]}
"""Metadata of a pod whose object stays after its end."""


def release(pod: Subject) -> None:
    """Let the object of a pod that has :data:`KEPT` go."""
    if not pod.is_gone():
        patch(pod, {"metadata": {"finalizers": None}})


def patch(pod: Subject, change: Mapping[str, Any], *words: str) -> None:
    """Change the pod by a merge patch (``--subresource`` and the like in *words*)."""
    pod.kubectl("patch", "pod", pod.name, "--type=merge", "-p", json.dumps(change), *words)


def delete(pod: Subject, *words: str) -> None:
    """Delete the pod, and do not wait for its end."""
    pod.kubectl("delete", "pod", pod.name, "--wait=false", *words)


def parallel(*jobs: Callable[[], T]) -> list[T]:
    """Do all *jobs* side by side; return what they return, in order."""
    with futures.ThreadPoolExecutor(len(jobs)) as pool:
        return [job.result() for job in [pool.submit(job) for job in jobs]]


def for_all(trios: Iterable[Trio], do: Callable[[Trio], object]) -> None:
    """Do the same with several of them, side by side."""
    parallel(*(functools.partial(do, trio) for trio in trios))
