"""Whether somebody else may do something, by the API server's own word."""

from __future__ import annotations

from dataclasses import dataclass

from architect.kube.api import Api, JsonObject
from architect.kube.resources import SUBJECT_ACCESS_REVIEWS, ObjectRef


@dataclass(frozen=True, kw_only=True)
class Question:
    """Whether *user*, who is in *groups*, may do *verb* to one object."""

    user: str
    groups: tuple[str, ...]
    verb: str
    target: ObjectRef


def of_service_account(namespace: str, account: str, *, verb: str, target: ObjectRef) -> Question:
    """Return the question about a ServiceAccount, with the groups that every one is in."""
    return Question(
        user=f"system:serviceaccount:{namespace}:{account}",
        groups=(
            "system:serviceaccounts",
            f"system:serviceaccounts:{namespace}",
            "system:authenticated",
        ),
        verb=verb,
        target=target,
    )


def review_of(question: Question) -> JsonObject:
    """Return the object that asks."""
    target = question.target
    attributes = {
        "group": target.resource.group,
        "version": target.resource.version,
        "resource": target.resource.plural,
        "verb": question.verb,
        "name": target.name,
    }
    if target.namespace:
        attributes["namespace"] = target.namespace
    return {
        "apiVersion": SUBJECT_ACCESS_REVIEWS.api_version,
        "kind": SUBJECT_ACCESS_REVIEWS.kind,
        "spec": {
            "user": question.user,
            "groups": list(question.groups),
            "resourceAttributes": attributes,
        },
    }


def is_allowed(api: Api, question: Question) -> bool:
    """Ask. What is not allowed in so many words is not allowed. Raises as :class:`Api` does."""
    ref = ObjectRef(resource=SUBJECT_ACCESS_REVIEWS, name=question.user)
    status = api.create(ref, review_of(question)).get("status") or {}
    return status.get("allowed") is True and status.get("denied") is not True
