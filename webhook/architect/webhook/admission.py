"""What is answered to an admission request. Pure: one request in, one answer out.

Pods are made what they must be (:mod:`architect.core.pods`); workloads that hold a pod template
are only looked at, so that a bad annotation is refused to the person who applies it, not to the
controller that creates the pods later.
"""

from __future__ import annotations

from typing import Any, Final

from architect.api import names
from architect.core import pods, podspec
from architect.core.annotation_values import AnnotationErrors
from architect.webhook import patch
from architect.webhook.review import Answer, Request

IGNORED: Final = "ignored"
"""Not opted in, or nothing that we look at."""
MANAGED: Final = "managed"
UNMANAGED: Final = "unmanaged"
"""Opted in, allowed, and not managed: the warning says why."""
REFUSED: Final = "refused"

RESULTS: Final = (IGNORED, MANAGED, UNMANAGED, REFUSED)


def mutate(request: Request, *, has_gvisor: bool = True) -> Answer:
    """Return the patch that makes a pod that is created what it must be.

    *has_gvisor*: this cluster has the runtime class of gVisor. Raises FormatError if the object is
    not what its kind says.
    """
    if request.kind != "Pod" or request.operation != "CREATE":
        return Answer(result=IGNORED)
    try:
        judgement = pods.judge(request.object, has_gvisor=has_gvisor)
    except AnnotationErrors as error:
        return Answer(result=REFUSED, message=_refusal(error))
    expected = pods.expected_pod(
        request.object,
        judgement.policy,
        runtime_class=judgement.reading.runtime_class,
        probe_ports=judgement.reading.probe_ports,
    )
    warnings = [*_obstacles(judgement), *judgement.warnings]
    if judgement.reading.policy is None and names.POLICY in podspec.annotations_of(request.object):
        warnings.append(f"{names.POLICY} is written by Architect alone and was removed")
    return Answer(
        result=_result(judgement),
        warnings=tuple(warnings),
        patch=patch.difference(request.object, expected),
    )


def validate(request: Request, *, has_gvisor: bool = True) -> Answer:
    """Return whether the pods of a workload could be created.

    An update that leaves the template's annotations and containers alone is never refused: a
    workload older than the webhook can be scaled and deleted. *has_gvisor* as above. Raises
    FormatError if the object is not what its kind says.
    """
    template = _template(request.object)
    if request.operation not in ("CREATE", "UPDATE") or template is None:
        return Answer(result=IGNORED)
    metadata = podspec.fields(request.object.get("metadata"), "metadata")
    if metadata.get("deletionTimestamp") is not None:
        return Answer(result=IGNORED)
    misplaced = [] if request.kind == "Pod" else _misplaced(request, template)
    try:
        judgement = pods.judge(template, has_gvisor=has_gvisor)
    except AnnotationErrors as error:
        if request.operation == "UPDATE" and _same(template, _template(request.old_object)):
            return Answer(result=UNMANAGED, warnings=(*misplaced, _refusal(error)))
        return Answer(result=REFUSED, message=_refusal(error))
    return Answer(
        result=_result(judgement),
        warnings=(*misplaced, *_obstacles(judgement), *judgement.warnings),
    )


def _template(workload: podspec.Object) -> podspec.Object | None:
    """Return the pod template that *workload* holds, wherever its kind has it."""
    if workload.get("kind") == "Pod":
        return workload
    if "template" in workload:  # PodTemplate
        return podspec.fields(workload["template"], "template")
    spec = podspec.fields(workload.get("spec"), "spec")
    if "jobTemplate" in spec:  # CronJob
        job = podspec.fields(spec["jobTemplate"], "spec.jobTemplate")
        spec = podspec.fields(job.get("spec"), "spec.jobTemplate.spec")
    if spec.get("template") is None:
        return None
    return podspec.fields(spec["template"], "spec.template")


def _same(template: podspec.Object, old: podspec.Object | None) -> bool:
    def relevant(found: podspec.Object) -> Any:
        return (
            podspec.annotations_of(found),
            [name for name, _ in podspec.containers(found)],
            podspec.runtime_class(found),
        )

    return old is not None and relevant(template) == relevant(old)


def _misplaced(request: Request, template: podspec.Object) -> list[str]:
    """Return a warning for annotations that stand on the workload and not on its pods."""
    written = podspec.annotations_of(request.object)
    effective = podspec.annotations_of(template)
    return [
        f"{key} on the {request.kind:.63} itself has no effect: it belongs to its pod template "
        "(spec.template.metadata.annotations)"
        for key in names.USER_ANNOTATIONS
        if key in written and key not in effective
    ]


def _result(judgement: pods.Judgement) -> str:
    if judgement.reading.policy is None:
        return IGNORED
    return UNMANAGED if judgement.obstacles else MANAGED


def _obstacles(judgement: pods.Judgement) -> list[str]:
    return [f"not managed by Architect ({o.reason}): {o.text}" for o in judgement.obstacles]


def _refusal(error: AnnotationErrors) -> str:
    if len(error.messages) == 1:
        return error.messages[0]
    return "; ".join(f"({number}) {text}" for number, text in enumerate(error.messages, 1))
