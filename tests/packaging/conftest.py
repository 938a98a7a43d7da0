"""helm, and the chart as it renders it: each set of values once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.rendering import Objects, Render, template


@pytest.fixture(scope="session")
def helm() -> Path:
    """helm from the cache of the development cluster, or from PATH."""
    cache = Path(os.environ.get("ARCHITECT_CACHE") or "/var/cache/architect")
    for path in sorted(cache.glob("helm-*/bin/helm"), reverse=True):
        return path
    if found := shutil.which("helm"):
        return Path(found)
    pytest.fail(f"helm is neither in {cache} nor in PATH: build it with `python -m lab build helm`")


@pytest.fixture(scope="session")
def render(helm: Path) -> Render:
    known: dict[str, Objects] = {}

    def rendered(values: dict[str, Any] | None = None, *, release: str = "architect") -> Objects:
        key = json.dumps([values, release], sort_keys=True)
        if key not in known:
            text = template(helm, values or {}, release=release)
            known[key] = [value for value in yaml.safe_load_all(text) if value]
        return known[key]

    return rendered
