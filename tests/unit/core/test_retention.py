"""The least worth goes, what must stay stays, and no more goes than need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from architect.core import retention
from architect.core.retention import Held, Limit


def held(*given: tuple[str, int, int] | tuple[str, int, int, bool]) -> list[Held[str]]:
    return [
        Held(item=one[0], size=one[1], worth=one[2], may_go=len(one) < 4 or bool(one[-1]))
        for one in given
    ]


THREE = held(("a", 5, 1), ("b", 3, 2), ("c", 1, 3))


def test_without_a_limit_all_stay() -> None:
    assert retention.shrink(THREE, Limit()) == retention.Shrunk(gone=(), is_beyond=False)


def test_the_least_worth_goes_first_and_each_says_what_was_held() -> None:
    found = retention.shrink(reversed(THREE), Limit(count=1))
    assert [(g.item, g.count, g.size) for g in found.gone] == [("a", 3, 9), ("b", 2, 4)]
    assert not found.is_beyond
    assert [g.item for g in retention.shrink(THREE, Limit(size=4)).gone] == ["a"]


def test_nothing_at_all_is_a_limit_too() -> None:
    assert len(retention.shrink(THREE, Limit(size=0)).gone) == 3
    assert len(retention.shrink(THREE, Limit(count=0)).gone) == 3


def test_what_must_stay_is_passed_over_and_told() -> None:
    some = [*held(("a", 5, 1, False)), *THREE[1:]]
    found = retention.shrink(some, Limit(size=4))
    assert [g.item for g in found.gone] == ["b", "c"]
    assert found.is_beyond


LIMITS = st.none() | st.integers(0, 12)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=10),
    LIMITS,
    LIMITS,
)
def test_whatever_is_held(
    made: list[tuple[int, int, bool]], count: int | None, size: int | None
) -> None:
    limit = Limit(count=count, size=size)
    all_of = [
        Held(item=n, size=size_, worth=worth, may_go=may_go)
        for n, (size_, worth, may_go) in enumerate(made)
    ]
    found = retention.shrink(all_of, limit)
    gone = {end.item for end in found.gone}
    left = [one for one in all_of if one.item not in gone]

    def is_over(values: list[Held[int]]) -> bool:
        too_many = count is not None and len(values) > count
        return too_many or (size is not None and sum(v.size for v in values) > size)

    assert all(all_of[item].may_go for item in gone)
    assert found.is_beyond == is_over(left)
    if found.is_beyond:
        assert not any(one.may_go for one in left)
    if gone:
        last = found.gone[-1].item
        assert is_over([*left, all_of[last]]), "one went that need not have gone"
    # Asked again, nothing more goes.
    assert retention.shrink(left, limit).gone == ()
    worths = [all_of[end.item].worth for end in found.gone]
    assert worths == sorted(worths)
