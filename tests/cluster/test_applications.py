"""Real applications under their real clients: each sleeps and wakes, or says why it does not.

What each is, and what must hold, is in ``hack/applications``, whose command writes
``docs/workloads.md`` from the same trials.
"""

from __future__ import annotations

import pytest

from applications import catalogue, trial
from applications.entry import Entry
from lab.cluster import Cluster

pytestmark = [pytest.mark.concurrent, pytest.mark.long]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "entry",
    [pytest.param(entry, id=entry.name) for entry in catalogue.ALL if entry.images],
)
def test_the_application_does_what_the_catalogue_says(
    architect: Cluster, theme: str, entry: Entry
) -> None:
    # It raises for whatever was lost, and for any other end than the expected one.
    row = trial.run(architect, entry, namespace=theme)
    assert row.result == str(entry.outcome)
