"""A grace period of two minutes, by the application's own clock: all of it, and no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from lab.cluster import Cluster
from support import truth
from support.patience import patient
from support.truth import KEPT, Plan, Subject, Trio, container
from support.workloads import eventually

pytestmark = [pytest.mark.timeout(900), pytest.mark.long]

GRACE_SECONDS: Final = 120
ENOUGH_SECONDS: Final = 100
"""Longer than any time that kubelet, engine or Architect could take for one of its own: Kubernetes'
default is 30 s, a wake's and a save's deadlines are below."""
ALLOWED_SECONDS: Final = GRACE_SECONDS + round(patient(60))
NOTE: Final = "/dev/termination-log"
HANDLER: Final = f"""
import os, signal, sys, time
name, enough = sys.argv[1], float(sys.argv[2])
def end(*_):
    note = os.open({NOTE!r}, os.O_WRONLY)
    begun = time.monotonic()
    while True:
        used = time.monotonic() - begun
        # In one call, as long each time: whenever it is killed, one of them is there whole.
        os.pwrite(note, b'used %3d s' % min(used, enough), 0)
        if used >= enough: os._exit(7)
        time.sleep(0.5)
signal.signal(signal.SIGTERM, end)
open('/go/' + name, 'w').close()
while True: signal.pause()
"""


def _ends(name: str, *, enough: int) -> list[str]:
    return [*truth.python(HANDLER), name, str(enough)]


PLANS: Final = {
    "graced": Plan(
        containers=[
            container("ends", _ends("ends", enough=ENOUGH_SECONDS)),
            container("stays", _ends("stays", enough=999)),
        ],
        spec={"terminationGracePeriodSeconds": GRACE_SECONDS},
        metadata=KEPT,
    )
}


@pytest.fixture(scope="module")
def ending(architect: Cluster, theme: str) -> Iterator[Trio]:
    with truth.running(architect, theme, PLANS) as made:
        trio = made["graced"]
        trio.each(_have_handlers)
        trio.sleep()
        trio.each(truth.delete)
        yield trio


def _have_handlers(pod: Subject) -> None:
    eventually(
        lambda: set(pod.run("ends", "ls", "/go").split()) >= {"ends", "stays"},
        what=f"both of {pod.name} handle their signal",
    )


@truth.behaviour(f"a SIGTERM handler that takes {ENOUGH_SECONDS} of {GRACE_SECONDS} s has them all")
def test_who_takes_long_ends_by_itself(ending: Trio) -> None:
    seen = ending.each(Subject.ending, "ends")
    message = f"used {ENOUGH_SECONDS} s"
    truth.check(seen, {"exitCode": 7, "reason": "Error", "message": message})


@truth.behaviour(f"SIGKILL at the end of {GRACE_SECONDS} s, and not before")
def test_who_takes_longer_is_killed_then(ending: Trio) -> None:
    seen = ending.each(Subject.ending, "stays")
    truth.check({kind: told["exitCode"] for kind, told in seen.items()}, 137)
    for kind, told in seen.items():
        used = re.fullmatch(r"used +(\d+) s", told["message"])
        assert used is not None, (kind, told)
        # Who slept is woken first, in the same grace period.
        assert ENOUGH_SECONDS < int(used[1]) <= ALLOWED_SECONDS, (kind, told)
