"""What the demonstration tells of a node that is taken back, and when it fails."""

from __future__ import annotations

from typing import Any

import pytest

from demo import spotstory
from demo.errors import DemoError, ProofFailed
from demo.spotstory import Account, Row

BEGAN = 1_700_000_000.0  # 2023-11-14T22:13:20Z
BEFORE = {"identity": "one", "visits": 3, "digest": "d"}


def checkpoint(*conditions: dict[str, str]) -> dict[str, Any]:
    return {"status": {"conditions": list(conditions)}}


def said(kind: str, at: str, status: str = "True", reason: str = "") -> dict[str, str]:
    return {
        "type": kind,
        "status": status,
        "reason": reason or kind,
        "lastTransitionTime": f"2023-11-14T22:13:{at}Z",
    }


def row(**fields: Any) -> Row:
    given: dict[str, Any] = {
        "pod": "cart-1",
        "priority": 0,
        "planned": "saved by 9 s",
        "account": Account(captured=3.0, stored=5.0),
        "went_on": 12.0,
        "before": BEFORE,
        "after": BEFORE,
        **fields,
    }
    return Row(**given)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, Account()),
        ({}, Account()),
        (
            checkpoint(said("Captured", "24"), said("Stored", "29")),
            Account(captured=4.0, stored=9.0),
        ),
        (
            checkpoint(said("Captured", "24", "False", "TooLarge")),
            Account(refused="TooLarge"),
        ),
        (checkpoint(said("Captured", "24", "Unknown", "Capturing")), Account()),
        (checkpoint(said("Captured", "24"), said("Stored", "26", "Unknown")), Account(captured=4)),
        (checkpoint(said("Captured", "19")), Account(captured=0.0)),
    ],
    ids=["none", "new", "stored", "refused", "under way", "being sent", "whole seconds"],
)
def test_an_account_is_what_the_checkpoint_says(found: Any, expected: Account) -> None:
    assert Account.read(found, began=BEGAN) == expected


def test_a_plan_is_told_in_a_word() -> None:
    assert spotstory.planned({"verdict": "saved", "bySeconds": 9.4}) == "saved by 9 s"
    assert spotstory.planned({"verdict": "stored"}) == "is there"
    told = spotstory.planned({"verdict": "misfit", "reason": "TooLarge"})
    assert told == "does not fit: TooLarge"


def test_a_moment_counts_what_is_not_nothing() -> None:
    counts = dict.fromkeys(spotstory.COUNTED, 0)
    assert spotstory.moment(99.6, counts, 8) == "T-100 s: of 8 pods nothing is said yet"
    counts |= {"stored": 2, "captured": 3}
    assert spotstory.moment(-4, counts, 8) == "T+4 s: of 8 pods 3 captured, 2 stored"


def test_who_went_on_has_all_of_its_memory() -> None:
    row().check()
    for after in ({**BEFORE, "visits": 2}, {**BEFORE, "digest": "x"}, {"identity": "two"}, {}):
        with pytest.raises(ProofFailed, match="cart-1"):
            row(after=after).check()


def test_what_lay_in_the_store_before_its_pod_went_on_did() -> None:
    earlier = Account(captured=3.0, stored=5.0)
    assert Account(captured=3.0).after(earlier) == earlier
    assert Account(stored=4.0).after(Account()) == Account(stored=4.0)
    assert Account(refused="TooLarge").after(Account()) == Account(refused="TooLarge")


def test_who_was_refused_began_anew() -> None:
    refused = Account(refused="TooLarge")
    row(account=refused, after={"identity": "two", "visits": 0}).check()
    with pytest.raises(ProofFailed, match="has its memory"):
        row(account=refused).check()


def test_a_promise_before_the_notice_is_kept() -> None:
    refused = Account(refused="TooLarge")
    spotstory.kept([row(), row(planned="does not fit: TooLarge", account=refused)])
    with pytest.raises(DemoError, match="cart-1"):
        spotstory.kept([row(account=refused)])


def test_the_table_has_the_plan_beside_what_happened() -> None:
    lost = row(
        pod="model-1",
        priority=-10,
        planned="does not fit: TooLarge",
        account=Account(refused="TooLarge"),
        went_on=None,
        after={"identity": "two", "visits": 0},
    )
    assert spotstory.table([row(), lost]).splitlines() == [
        "pod      priority  plan                    captured  stored  answers again  visits",
        "-------  --------  ----------------------  --------  ------  -------------  ------------",
        "cart-1   0         saved by 9 s            +3 s      +5 s    +12 s          3 -> 3",
        "model-1  -10       does not fit: TooLarge  TooLarge  –       –              3 -> 0, anew",
    ]
