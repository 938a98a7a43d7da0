"""What the daemon can be told, read from flags and environment."""

from __future__ import annotations

import pytest

from architect.core.errors import ConfigError
from architect.daemon import settings
from architect.daemon.settings import SpotProvider
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


def test_who_announces_interruptions_is_found_out_or_told() -> None:
    found = settings.parse([], environment={})
    assert (found.spot_provider, found.spot_endpoint) == (SpotProvider.AUTO, "")
    found = settings.parse(
        ["--spot-provider=gcp", "--spot-endpoint=http://127.0.0.1:8080"],
        environment={"ARCHITECT_SPOT_NOTICE_SECONDS": "150s"},
    )
    assert found.spot_provider is SpotProvider.GCP
    assert found.spot_endpoint == "http://127.0.0.1:8080"
    assert found.spot_notice_seconds == 150


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--spot-provider=oracle"], "spot_provider: 'oracle' is not auto, aws, gcp, azure, none"),
        (["--spot-endpoint=169.254.169.254"], "spot_endpoint: '169.254.169.254' is not http://"),
        (["--spot-endpoint=https://metadata"], "spot_endpoint: 'https://metadata' is not http://"),
        (["--spot-endpoint=http://a/b"], "spot_endpoint: 'http://a/b' is not http://"),
        (["--spot-endpoint=http://a", "--spot-provider=none"], "nobody would ask there"),
        (["--spot-notice-seconds=0"], "spot_notice_seconds must be 1 to 3600"),
        (["--spot-notice-seconds=soon"], "spot_notice_seconds: 'soon' is not seconds"),
    ],
)
def test_what_cannot_be_asked_is_named(flags: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        settings.parse(flags, environment={})
