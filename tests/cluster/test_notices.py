"""What is announced about a node's machine is seen where people and alerts look."""

from __future__ import annotations

import json

import pytest

from architect.api import names
from lab.cluster import Cluster
from support.workloads import eventually

pytestmark = pytest.mark.concurrent

MARK = "ToBeDeletedByClusterAutoscaler"
"""Its effect here moves nobody."""


def events(cluster: Cluster, node: str) -> dict[str, str]:
    """Return reason to note of what our daemon said of *node* and the mark."""
    found = json.loads(cluster.kubectl("get", "events", "-A", "-o", "json"))["items"]
    return {
        event["reason"]: event["message"]
        for event in found
        if event["involvedObject"].get("kind") == "Node"
        and event["involvedObject"].get("name") == node
        and MARK in event.get("message", "")
    }


def test_what_cluster_autoscaler_marks_a_node_with_is_announced_and_withdrawn(
    architect: Cluster,
) -> None:
    node = architect.nodes[0].name
    architect.kubectl("taint", "node", node, f"{MARK}=1:PreferNoSchedule")
    try:
        told = eventually(
            lambda: events(architect, node).get(names.EVENT_NOTICE_APPEARED), what="an event"
        )
        assert told.startswith("interruption at a time that was not said (node: taint ToBeDeleted")
    finally:
        architect.kubectl("taint", "node", node, f"{MARK}-")
    eventually(
        lambda: names.EVENT_NOTICE_WITHDRAWN in events(architect, node), what="it is withdrawn"
    )
