"""Owners: which indexes a Job still wants."""

from __future__ import annotations

from typing import Any

import pytest

from architect.core.errors import FormatError
from architect.daemon import succession
from support.leaving import EXPECTED, Json, asked, owner, pod, reason

INDEX = "batch.kubernetes.io/job-completion-index"
TRACKED = ["batch.kubernetes.io/job-tracking"]


def of_job(index: int | None = 2, name: str = "a", **more: Any) -> Json:
    annotations = {} if index is None else {INDEX: str(index)}
    given = {"deleted": 5, "restartPolicy": "Never", "finalizers": TRACKED, **more}
    given["annotations"] = {**annotations, **given.get("annotations", {})}
    return pod(name, kind="Job", api="batch/v1", **given)


def job(status: Json | None = None, **spec: Any) -> Json:
    return owner(
        status, **{"completionMode": "Indexed", "completions": 5, "parallelism": 2, **spec}
    )


def test_an_index_that_is_not_finished_runs_again():
    assert reason(of_job(), job({"completedIndexes": "0,3-4"})) == EXPECTED


def test_a_job_that_is_not_indexed_is_told_by_name():
    assert reason(of_job(None), job(completionMode="NonIndexed")) == "JobNotIndexed"
    assert reason(of_job(None), job(completionMode=None)) == "JobNotIndexed"
    assert reason(of_job(None), job()) == "JobNotIndexed"


@pytest.mark.parametrize("kind", ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"])
def test_a_finished_job_runs_nothing(kind):
    status = {"conditions": [{"type": kind, "status": "True"}]}
    assert reason(of_job(), job(status)) == "JobFinished"
    status["conditions"][0]["status"] = "False"
    assert reason(of_job(), job(status)) == EXPECTED


def test_a_suspended_job_runs_nothing():
    assert reason(of_job(), job(suspend=True)) == "JobSuspended"


@pytest.mark.parametrize("indexes", ["2", "0,2", "1-3", "0-2,4", "2-2"])
def test_a_finished_index_does_not_run_again(indexes):
    assert reason(of_job(), job({"completedIndexes": indexes})) == "IndexFinished"
    assert reason(of_job(), job({"failedIndexes": indexes})) == "IndexFinished"


@pytest.mark.parametrize("indexes", ["", "1", "3-4", "0-1,3", "12,20-29"])
def test_other_indexes_may_be_finished(indexes):
    assert reason(of_job(), job({"completedIndexes": indexes})) == EXPECTED


@pytest.mark.parametrize("indexes", ["x", "1-", "1-x", "-1", "1,,x"])
def test_indexes_that_cannot_be_read_are_an_error(indexes):
    with pytest.raises(FormatError, match="cannot be read"):
        asked(of_job(4), job({"completedIndexes": indexes}))


def test_an_index_beyond_the_jobs_number_was_scaled_down():
    assert reason(of_job(5), job()) == "ScaledDown"


def test_a_job_that_runs_fewer_at_once_has_no_room():
    others = [of_job(0, "b", deleted=None), of_job(1, "c", deleted=None)]
    assert reason(of_job(), job(), *others[:1]) == EXPECTED
    assert reason(of_job(), job(), *others) == "ScaledDown"
    assert reason(of_job(), job(parallelism=0)) == "ScaledDown"
    assert reason(of_job(), job({"succeeded": 4}), *others[:1]) == "ScaledDown"


def test_a_replacement_with_the_index_is_one_and_an_older_pod_is_none():
    new = of_job(2, "b", deleted=None, created=5)
    old = of_job(2, "c", deleted=None, created=1)
    assert reason(of_job(), job(parallelism=1), new) == EXPECTED
    assert reason(of_job(), job(), old) == "DuplicateIndex"
    assert reason(of_job(), job(), old, new) == reason(of_job(), job(), new, old) == EXPECTED


def test_a_job_that_somebody_else_manages_is_not_known():
    assert reason(of_job(), job(managedBy="kueue.x-k8s.io/multikueue")) == "UnknownOwner"
    assert reason(of_job(), job(managedBy="kubernetes.io/job-controller")) == EXPECTED


def test_a_job_that_bears_no_failure_gives_up_when_its_pod_is_deleted():
    assert reason(of_job(), job(backoffLimit=0)) == "JobGivesUp"
    assert reason(of_job(), job({"failed": 1}, backoffLimit=1)) == "JobGivesUp"
    assert reason(of_job(), job({"failed": 1}, backoffLimit=2)) == EXPECTED
    assert reason(of_job(), job({"failed": 5})) == EXPECTED
    assert reason(of_job(), job({"failed": 6})) == "JobGivesUp"


def test_this_pods_own_failure_is_not_counted_twice():
    being_counted = {"failed": 0, "uncountedTerminatedPods": {"failed": ["uid-a"]}}
    assert reason(of_job(), job(being_counted, backoffLimit=1)) == EXPECTED
    of_others = {"failed": 0, "uncountedTerminatedPods": {"failed": ["uid-a", "uid-b"]}}
    assert reason(of_job(), job(of_others, backoffLimit=1)) == "JobGivesUp"
    assert reason(of_job(finalizers=[]), job({"failed": 1}, backoffLimit=1)) == EXPECTED


def test_an_index_has_a_number_of_failures_of_its_own():
    def failed(count: int) -> Json:
        return of_job(annotations={"batch.kubernetes.io/job-index-failure-count": str(count)})

    limited = job({"failed": 50}, backoffLimitPerIndex=1)
    assert reason(of_job(), limited) == EXPECTED
    assert reason(failed(0), limited) == EXPECTED
    assert reason(failed(1), limited) == "JobGivesUp"


def failure_policy(action: str) -> Json:
    pattern = {"type": "DisruptionTarget", "status": "True"}
    exits = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}
    return {"rules": [exits, {"action": action, "onPodConditions": [pattern]}]}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("Ignore", EXPECTED),
        ("Count", "JobGivesUp"),
        ("FailJob", "JobGivesUp"),
        ("FailIndex", "JobGivesUp"),
    ],
)
def test_a_failure_policy_says_what_a_disruption_is(action, expected):
    evicted = of_job(disrupted="EvictionByEvictionAPI")
    value = job(backoffLimit=0, podFailurePolicy=failure_policy(action))
    assert reason(evicted, value) == expected
    assert reason(of_job(), value) == "JobGivesUp"


@pytest.mark.parametrize(
    ("operator", "values", "action", "expected"),
    [
        ("In", [143], "FailJob", "JobGivesUp"),
        ("NotIn", [0, 42], "FailJob", "JobGivesUp"),
        ("NotIn", [143], "FailJob", EXPECTED),
        ("In", [42], "FailIndex", EXPECTED),
        ("In", [42, 143], "Ignore", EXPECTED),
    ],
)
def test_the_exit_code_of_a_saved_pod_counts_before_its_disruption(
    operator, values, action, expected
):
    exits = {"action": action, "onExitCodes": {"operator": operator, "values": values}}
    rules = failure_policy("Ignore")["rules"]
    value = job(backoffLimit=0, podFailurePolicy={"rules": [exits, *rules]})
    assert reason(of_job(disrupted="TerminationByKubelet"), value) == expected


def test_an_index_of_a_node_that_shuts_down_runs_again_by_the_same_rules():
    """Its pod is not deleted, and fails."""
    runs = of_job(deleted=None)
    beside = of_job(0, "b", deleted=None)
    assert reason(runs, job(), beside) == EXPECTED
    assert reason(runs, job(backoffLimit=0), beside) == "JobGivesUp"
    value = job(backoffLimit=0, podFailurePolicy=failure_policy("Ignore"))
    assert reason(runs, value, beside) == "JobGivesUp"
    assert reason(succession.shut_down(runs), value, beside) == EXPECTED
    assert reason(runs, job(parallelism=1), beside) == "ScaledDown"
