"""The kinds of container that one question is put to: below which runtime, and by whom.

``runc`` is plain runc, ``runc-unmanaged`` ours with nothing to manage, ``runc-managed`` ours with
our init; ``runc-asleep`` is managed and asleep when the question comes. The same four with crun
below. What fails for the plain kind is wrong in the test; what differs for another is a decision
in docs/runtime.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from support.runtime import IDLE, Container, Host, Spec, build_bundle

RUNTIMES = {"runc": "/usr/sbin/runc", "crun": "/usr/bin/crun"}
PLAIN, UNMANAGED, MANAGED, ASLEEP = "plain", "unmanaged", "managed", "asleep"

T = TypeVar("T")


def kinds(*ways: str, crun: Collection[str] = (), long: Collection[str] = ()) -> list[Any]:
    """Return the parameters for *ways*, below each runtime.

    With crun only the ways that *crun* names are in every run, with runc all but those that *long*
    names; the rest is marked ``long``.
    """
    every_run = {"runc": set(ways) - set(long), "crun": set(crun)}
    return [
        pytest.param(
            _kind(lower, way), marks=() if way in every_run[lower] else (pytest.mark.long,)
        )
        for lower in RUNTIMES
        for way in ways
    ]


def _kind(lower: str, way: str) -> str:
    return lower if way == PLAIN else f"{lower}-{way}"


def plain(kind: str) -> str:
    """Return the kind that *kind* is compared with."""
    return kind.partition("-")[0]


def bundle_with(lower: str, directory: Path) -> Path:
    """Assemble a bundle in front of the runtime *lower*."""
    (directory / "runtime.conf").write_text(f"runc={RUNTIMES[lower]}\n")
    return build_bundle(directory)


def host_with(lower: str, directory: Path, bundle: Path) -> Host:
    """Return a host in which the runtime *lower* can work."""
    # crun refuses to where version 2 of cgroups has controllers beside version 1.
    return Host(directory, bundle=bundle, has_hybrid_cgroups=lower != "crun")


class Hosts:
    """A host in front of each lower runtime, made when it is first asked for."""

    def __init__(self, directory: Callable[[str], Path], bundles: Callable[[str], Path]) -> None:
        self._directory, self._bundles = directory, bundles
        self._made: dict[str, Host] = {}
        self._stack = ExitStack()

    def __call__(self, lower: str) -> Host:
        if lower not in self._made:
            host = host_with(lower, self._directory(lower), self._bundles(lower))
            self._stack.enter_context(closing(host))
            self._stack.callback(host.end_keeper)
            self._made[lower] = host
        return self._made[lower]

    def close(self) -> None:
        """End their keepers and namespaces."""
        self._stack.close()


class Making:
    """Makes containers of one kind on one host."""

    def __init__(self, host: Host, kind: str) -> None:
        self.host, self.kind = host, kind
        self.lower, _, way = kind.partition("-")
        self.way = way or PLAIN
        self.made: list[Container] = []

    def __call__(self, config: Spec, **options: Any) -> Container:
        annotations = dict(config.get("annotations") or {})
        if self.is_managed:
            annotations.update(IDLE)
        container = self.host.container(
            {**config, "annotations": annotations},
            runtime=self.program(),
            # Nothing else can be dumped.
            **{"has_pipes": self.way == ASLEEP, **options},
        )
        self.made.append(container)
        return container

    @property
    def is_plain(self) -> bool:
        return self.way == PLAIN

    @property
    def is_managed(self) -> bool:
        return self.way in (MANAGED, ASLEEP)

    def by_kind(self, usual: T, *, managed: T) -> T:
        """Return what is expected where the difference is a decision."""
        return managed if self.is_managed else usual

    def by_lower(self, *, runc: T, crun: T) -> T:
        """Return what is expected where the two runtimes differ by themselves."""
        return runc if self.lower == "runc" else crun

    def program(self) -> str:
        """Return what an engine would call."""
        if self.is_plain:
            return RUNTIMES[self.lower]
        return str(self.host.bundle / "bin/runc-architect")

    def settle(self, container: Container) -> None:
        """Have *container*, which runs, be as its kind says: asleep, or as it is."""
        if self.way == ASLEEP:
            self.host.runtime("sleep", container.id)
            self.is_still_asleep(container)

    def is_still_asleep(self, container: Container) -> None:
        """Nothing has woken it, if it is one that sleeps."""
        if self.way == ASLEEP:
            assert self.host.ask("status", container.id)["state"] == "asleep"

    def close(self) -> None:
        """Remove what was made; nothing that we wrote down may be left."""
        for container in reversed(self.made):
            container.remove()
        records = self.host.run_directory / "containers"
        assert not records.exists() or list(records.iterdir()) == []


class Pair(NamedTuple):
    """The plain runtime, and ours in front of it."""

    plain: Making
    ours: Making


def paired(hosts: Hosts, kind: str) -> Iterator[Pair]:
    """The body of a fixture ``pair``."""
    for lower in made(hosts, plain(kind)):
        for ours in made(hosts, kind):
            yield Pair(lower, ours)


def made(hosts: Hosts, kind: str) -> Iterator[Making]:
    """The body of a fixture ``make``."""
    with closing(Making(hosts(plain(kind)), kind)) as making:
        yield making
