"""Turns, against a model that keeps a list of who came and looks at all of it each time."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from architect.daemon.moves.order import Order, Waiter
from support.tiers import IS_LONG

UIDS = st.sampled_from("abcdef")


class OrderMachine(RuleBasedStateMachine):
    @initialize(most=st.integers(1, 4))
    def a_node_begins(self, most: int) -> None:
        self.most = self.at_once = most
        self.order = Order(most)
        self.came: list[Waiter] = []
        self.turns: list[str] = []
        self.preferred: list[str] = []

    @rule(uid=UIDS)
    def somebody_comes(self, uid: str) -> None:
        self.came.append(self.order.come(uid))

    @rule(order=st.lists(UIDS, unique=True), at_once=st.none() | st.integers(1, 6))
    def others_are_preferred(self, order: list[str], at_once: int | None) -> None:
        self.order.prefer(order, at_once=at_once)
        self.preferred = order
        self.at_once = self.most if at_once is None else min(self.most, at_once)

    def expected(self) -> Waiter | None:
        """Whose turn it is, by the words of the documentation."""
        if len(self.turns) >= self.at_once:
            return None
        able = [waiter for waiter in self.came if waiter.uid not in self.turns]
        for uid in self.preferred:
            for waiter in able:
                if waiter.uid == uid:
                    return waiter
        return able[0] if able else None

    @precondition(lambda self: self.expected() is not None)
    @rule(is_wanted=st.sampled_from([True, True, True, False]))
    def the_next_one_is_served(self, is_wanted: bool) -> None:
        waiter = self.expected()
        assert waiter is not None
        assert self.order.is_next(waiter)
        self.order.leave(waiter, has_turn=is_wanted)
        self.came.remove(waiter)
        if is_wanted:
            self.turns.append(waiter.uid)

    @precondition(lambda self: self.came)
    @rule(data=st.data())
    def somebody_wants_it_no_more(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.came))
        self.order.leave(waiter, has_turn=False)
        self.came.remove(waiter)

    @precondition(lambda self: self.turns)
    @rule(data=st.data())
    def a_turn_ends(self, data: st.DataObject) -> None:
        uid = data.draw(st.sampled_from(self.turns))
        self.order.end(uid)
        self.turns.remove(uid)

    @invariant()
    def one_is_next_and_no_other(self) -> None:
        if not hasattr(self, "order"):
            return
        following = [waiter for waiter in self.came if self.order.is_next(waiter)]
        expected = self.expected()
        assert following == ([] if expected is None else [expected])
        assert self.order.held == set(self.turns)
        assert len(set(self.turns)) == len(self.turns) <= self.most


def test_turns_come_in_their_order_whoever_comes_and_goes() -> None:
    run_state_machine_as_test(
        OrderMachine,
        settings=settings(
            max_examples=2000 if IS_LONG else 200, stateful_step_count=40, deadline=None
        ),
    )
