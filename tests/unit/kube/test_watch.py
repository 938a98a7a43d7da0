from __future__ import annotations

import json
import random
import threading

import pytest

from architect.core.errors import Retryable, Unavailable
from architect.kube import errors
from architect.kube.resources import PODS
from architect.kube.watch import Backoff, Change, ChangeKind, Snapshot, Watcher, parse


def event(kind, version, name="a"):
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}}}


def listed(version, *names):
    return {
        "metadata": {"resourceVersion": str(version)},
        "items": [{"metadata": {"name": name}} for name in names],
    }


def take(watcher, count):
    found = []
    for item in watcher:
        found.append(item)
        if len(found) == count:
            watcher.stop()
    return found


def quick():
    return Backoff(first_seconds=0.01, max_seconds=0.02)


def names_of(items):
    return [
        tuple(o["metadata"]["name"] for o in i.objects)
        if isinstance(i, Snapshot)
        else (i.kind.value, i.object["metadata"]["name"])
        for i in items
    ]


def test_a_list_comes_first_and_then_each_change(server, api, reply):
    server.replies += [
        reply(body=listed(5, "a")),
        reply(lines=[event("MODIFIED", 6), event("DELETED", 7)]),
    ]
    found = take(Watcher(api, PODS, namespace="x"), 3)
    assert names_of(found) == [("a",), ("MODIFIED", "a"), ("DELETED", "a")]
    assert server.seen[1].query["resourceVersion"] == "5"
    assert server.seen[1].query["allowWatchBookmarks"] == "true"


def test_a_watch_that_ends_goes_on_from_the_last_bookmark(server, api, reply):
    server.replies += [
        reply(body=listed(5)),
        reply(lines=[event("BOOKMARK", 40)]),
        reply(lines=[event("ADDED", 41, "b")]),
    ]
    found = take(Watcher(api, PODS), 2)
    assert names_of(found) == [(), ("ADDED", "b")]
    assert server.seen[2].query["resourceVersion"] == "40"


def test_an_expired_version_lists_anew(server, api, reply):
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    server.replies += [
        reply(body=listed(5, "a")),
        reply(lines=[gone]),
        reply(body=listed(90, "b")),
    ]
    assert names_of(take(Watcher(api, PODS, backoff=quick()), 2)) == [("a",), ("b",)]


def test_a_failing_server_is_waited_out(server, api, reply):
    server.replies += [
        reply(status=503),
        reply(status=503),
        reply(body=listed(5, "a")),
    ]
    watcher = Watcher(api, PODS, backoff=quick())
    assert names_of(take(watcher, 1)) == [("a",)]


def test_a_refusal_ends_the_watch(server, api, reply):
    server.replies.append(reply(status=403))
    with pytest.raises(errors.Forbidden):
        take(Watcher(api, PODS), 1)


def test_stop_ends_a_watch_that_waits_for_the_server(server, api, reply):
    server.replies += [reply(body=listed(5)), reply(lines=[event("ADDED", 6)], holds=True)]
    watcher = Watcher(api, PODS)
    got_one = threading.Event()

    def follow():
        for item in watcher:
            if isinstance(item, Change):
                got_one.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert got_one.wait(60)
    watcher.stop()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"type":"ADDED"}', b'{"type":"NEW","object":{}}'])
def test_a_malformed_line_is_a_lost_connection(line):
    with pytest.raises(Unavailable):
        parse(line, resource=PODS)


def test_an_error_line_is_translated():
    line = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd"}}
    with pytest.raises(Retryable, match="etcd"):
        parse(json.dumps(line).encode(), resource=PODS)


def test_a_change_carries_its_version():
    change, version = parse(json.dumps(event("ADDED", 3)).encode(), resource=PODS)
    assert change is not None
    assert (change.kind, version) == (ChangeKind.ADDED, "3")


def test_delays_grow_to_a_bound_and_start_over():
    backoff = Backoff(first_seconds=1, max_seconds=4, random=random.Random(1))
    delays = [backoff.next() for _ in range(6)]
    assert all(0.5 <= d <= 4 for d in delays)
    assert max(delays[3:]) > 2 * min(delays[:1]) or delays[0] > 0.5
    backoff.reset()
    assert backoff.next() <= 1
