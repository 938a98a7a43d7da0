"""What is told of a node that is taken back: a line for each moment, a row for each pod. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.errors import DemoError, ProofFailed
from demo.story import State, prove

COUNTED = ("captured", "stored", "will start anew", "go on elsewhere")


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a Checkpoint says of the pod that is saved by it."""

    captured: float | None = None
    """When, in seconds from the notice; None: not, or not yet."""
    stored: float | None = None
    refused: str = ""
    """Why the pod is not saved; empty: it is, or will be."""

    @classmethod
    def read(cls, checkpoint: Mapping[str, Any] | None, *, began: float) -> Account:
        """Return what it says; *began*: when the notice was given, in Unix seconds."""
        said = {
            c["type"]: c for c in ((checkpoint or {}).get("status") or {}).get("conditions", [])
        }
        captured = said.get("Captured", {})
        refused = str(captured.get("reason")) if captured.get("status") == "False" else ""
        return cls(
            captured=_when(captured, began),
            stored=_when(said.get("Stored", {}), began),
            refused=refused,
        )

    def after(self, earlier: Account) -> Account:
        """Return what is known now: what lies in the store no more, since its pod went on, did."""
        return Account(
            captured=earlier.captured if self.captured is None else self.captured,
            stored=earlier.stored if self.stored is None else self.stored,
            refused=self.refused,
        )


def _when(condition: Mapping[str, Any], began: float) -> float | None:
    if condition.get("status") != "True":
        return None
    at = datetime.datetime.fromisoformat(str(condition["lastTransitionTime"])).timestamp()
    return max(0.0, at - began)


def planned(pod: Mapping[str, Any]) -> str:
    """Return what a plan (``/spot/plan``) says of a pod, for the table."""
    if pod["verdict"] == "misfit":
        return f"does not fit: {pod['reason']}"
    return "is there" if pod["verdict"] == "stored" else f"saved by {pod['bySeconds']:.0f} s"


def moment(left_seconds: float, counts: Mapping[str, int], pods: int) -> str:
    """Return the line of one moment; *left_seconds* are below 0 once the machine is gone."""
    sign = "-" if left_seconds >= 0 else "+"
    said = ", ".join(f"{counts[what]} {what}" for what in COUNTED if counts[what])
    return f"T{sign}{abs(left_seconds):.0f} s: of {pods} pods {said or 'nothing is said yet'}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one pod."""

    pod: str
    priority: int
    planned: str
    account: Account
    went_on: float | None
    """First answer of the pod that came after it, in seconds from the notice."""
    before: State
    after: State

    @property
    def has_its_memory(self) -> bool:
        """Whether the pod after it is the one before it."""
        return self.before.get("identity") == self.after.get("identity")

    def check(self) -> None:
        """Raise ProofFailed unless it went on with all of its memory, or it was said that not."""
        if self.account.refused:
            if self.has_its_memory:
                raise ProofFailed(f"{self.pod}: not to be saved, and it has its memory")
            return
        prove(self.pod, "after its machine is gone", expected=self.before, seen=self.after)


def kept(rows: Sequence[Row]) -> None:
    """Raise DemoError unless who was said to be saved before the notice has been."""
    broken = [r.pod for r in rows if r.planned.startswith("saved") and r.account.refused]
    if broken:
        raise DemoError(f"the plan said that they would be saved: {', '.join(broken)}")


def table(rows: Sequence[Row]) -> str:
    """Return the plan beside what happened, a line for each pod."""
    heads = ("pod", "priority", "plan", "captured", "stored", "answers again", "visits")
    cells = [heads]
    for row in rows:
        became = (
            f"{row.before.get('visits')} -> {row.after.get('visits')}"
            if row.has_its_memory
            else f"{row.before.get('visits')} -> {row.after.get('visits')}, anew"
        )
        account = row.account
        cells.append(
            (
                row.pod,
                str(row.priority),
                row.planned,
                account.refused or _seconds(account.captured),
                "–" if account.refused else _seconds(account.stored),
                _seconds(row.went_on),
                became,
            )
        )
    widths = [max(len(line[at]) for line in cells) for at in range(len(heads))]
    lines = [
        "  ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"+{value:.0f} s"
