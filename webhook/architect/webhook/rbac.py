"""What the webhook asks of the API where it makes its own certificates.

The chart's roles grant this and no more: a test compares.
"""

from __future__ import annotations

from typing import Final

from architect.kube.rbac import Rule
from architect.kube.resources import MUTATING_WEBHOOKS, SECRETS, VALIDATING_WEBHOOKS

RULES: Final = (
    Rule(resource=MUTATING_WEBHOOKS, verbs=("get", "patch"), names=("architect-webhook",)),
    Rule(resource=VALIDATING_WEBHOOKS, verbs=("get", "patch"), names=("architect-webhook",)),
    Rule(resource=SECRETS, verbs=("create",), is_local=True),
    Rule(resource=SECRETS, verbs=("get", "patch"), is_local=True, names=("architect-webhook-tls",)),
)
