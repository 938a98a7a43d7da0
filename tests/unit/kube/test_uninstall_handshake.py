from __future__ import annotations

from architect.api import names
from architect.kube import uninstall


def node(name, done=None):
    annotations = {} if done is None else {names.UNINSTALLED: done}
    return {"metadata": {"name": name, "annotations": annotations}}


def test_an_answer_to_an_earlier_uninstall_is_none():
    found = uninstall.progress(
        [node("a", "t2"), node("b", "t1"), node("c")], among=frozenset("abc"), token="t2"
    )
    assert (found.done, found.waiting) == (("a",), ("b", "c"))


def test_nodes_without_a_daemon_and_nodes_that_left_are_not_waited_for():
    found = uninstall.progress([node("a")], among=frozenset({"gone"}), token="t")
    assert (found.done, found.waiting) == ((), ())


def test_what_is_asked_for_stands_on_the_daemon_set():
    assert uninstall.requested({"metadata": {"annotations": {names.UNINSTALL: "t"}}}) == "t"
    assert uninstall.requested({"metadata": {}}) == ""
