"""What the daemon can be told, read from flags and environment."""

from __future__ import annotations

import pytest

from architect.core.errors import ConfigError
from architect.daemon import settings
from architect.objectstore.settings import StoreSettings


def test_the_object_store_is_read_from_flags_or_environment() -> None:
    found = settings.parse(
        ["--store-bucket", "pods", "--store-path-style", "false"],
        environment={"ARCHITECT_STORE_ENDPOINT": "http://s3.example:9000"},
    ).store
    assert found == StoreSettings(
        bucket="pods", endpoint="http://s3.example:9000", is_path_style=False
    )
    assert settings.parse([], environment={}).store is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("store_bucket", "Pods"),
        ("store_endpoint", "s3.example"),
        ("store_region", ""),
        ("store_prefix", "../x"),
        ("store_path_style", "maybe"),
        ("store_default", "tape"),
        ("store_ca_file", "ca.pem"),
    ],
)
def test_a_wrong_object_store_is_named_with_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: '{text}' is not \w+"):
        settings.parse(
            ["--store-bucket=pods", f"--{name.replace('_', '-')}={text}"], environment={}
        )
