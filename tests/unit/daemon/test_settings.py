"""What the daemon can be told, read from flags and environment."""

from __future__ import annotations

import pytest

from architect.core.errors import ConfigError
from architect.daemon import settings


def test_the_object_store_is_read_from_flags_or_environment() -> None:
    found = settings.parse(
        ["--store-bucket", "pods", "--store-path-style", "true"],
        environment={"ARCHITECT_STORE_ENDPOINT": "http://s3.example:9000"},
    )
    assert (found.store_bucket, found.store_endpoint) == ("pods", "http://s3.example:9000")
    assert found.store_path_style is True
    assert settings.parse([], environment={}).store_path_style is False


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("store_bucket", "Pods"),
        ("store_endpoint", "s3.example"),
        ("store_region", ""),
        ("store_prefix", "../x"),
        ("store_path_style", "maybe"),
    ],
)
def test_a_wrong_object_store_is_named_with_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: '{text}' is not \w+"):
        settings.parse([f"--{name.replace('_', '-')}={text}"], environment={})
