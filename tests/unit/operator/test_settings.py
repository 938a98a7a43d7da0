from __future__ import annotations

import dataclasses

import pytest

from architect.core.errors import ConfigError
from architect.objectstore.settings import StoreSettings
from architect.operator import settings as reading
from architect.operator.__main__ import main, parser, settings_of


def test_every_setting_has_a_flag():
    text = parser().format_help()
    for item in dataclasses.fields(reading.OperatorSettings):
        assert "--" + item.name.replace("_", "-") in text


def test_flags_win_over_the_environment():
    _, found = settings_of(["--namespace", "a"], {"POD_NAMESPACE": "b", "POD_NAME": "p"})
    assert (found.namespace, found.identity) == ("a", "p")


def test_the_pods_names_are_the_defaults():
    command, found = settings_of([], {"POD_NAMESPACE": "b", "POD_NAME": "p"})
    assert (command, found.namespace, found.identity) == ("run", "b", "p")


def test_durations_are_numbers_or_go_durations():
    _, found = settings_of(["--sweep-interval-seconds", "2m", "--lease-seconds", "20"], {})
    assert (found.sweep_interval_seconds, found.lease_seconds) == (120, 20)


def test_the_object_store_is_read():
    _, found = settings_of(["--store-bucket", "pods", "--store-path-style", "false"], {})
    assert found.store == StoreSettings(bucket="pods", is_path_style=False)
    _, found = settings_of([], {})
    assert found.store is None


@pytest.mark.parametrize(
    "argv",
    [
        ["--lease-seconds", "soon"],
        ["--lease-seconds", "1"],
        ["--address", "8081"],
        ["--address", "x:99999"],
        ["--uninstall-on-timeout", "maybe"],
        ["--log-level", "LOUD"],
        ["--sweep-interval-seconds", "0"],
        ["--store-bucket", "Pods"],
        ["--store-endpoint", "s3.example", "--store-bucket", "pods"],
        ["--store-region", "", "--store-bucket", "pods"],
        ["--store-prefix", "/pods", "--store-bucket", "pods"],
        ["--store-path-style", "maybe", "--store-bucket", "pods"],
    ],
)
def test_a_wrong_value_names_the_flag(argv):
    with pytest.raises(ConfigError, match=argv[0]):
        settings_of(argv, {})


def test_a_wrong_setting_ends_with_status_two(capsys):
    assert main(["--address", "nowhere"]) == 2
    assert "architect-operator: --address" in capsys.readouterr().err


def test_a_missing_kubeconfig_ends_with_status_two(capsys, tmp_path):
    assert main(["--kubeconfig", str(tmp_path / "none")]) == 2
    assert "cannot find the API server" in capsys.readouterr().err
