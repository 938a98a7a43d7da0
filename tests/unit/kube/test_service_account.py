"""A pod finds the API server by its ServiceAccount's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from architect.core.errors import ConfigError
from architect.kube import service_account

HERE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("one\n")
    (tmp_path / "ca.crt").write_text("pem")
    return tmp_path


def test_it_is_found(files: Path) -> None:
    found = service_account.find(HERE, directory=files)
    assert found.server == "https://10.96.0.1:443"
    assert found.ca_path == str(files / "ca.crt")
    assert found.token() == "one"


def test_an_address_of_ipv6_has_brackets(files: Path) -> None:
    found = service_account.find({**HERE, "KUBERNETES_SERVICE_HOST": "fd00::1"}, directory=files)
    assert found.server == "https://[fd00::1]:443"


def test_a_token_is_read_anew_after_a_minute(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = service_account.find(HERE, directory=files)
    (files / "token").write_text("two")
    assert found.token() == "one"
    monkeypatch.setattr(service_account, "FRESH_SECONDS", -1.0)
    assert found.token() == "two"


@pytest.mark.parametrize("how", ["empty", "gone"])
def test_a_token_that_is_being_replaced_leaves_the_old_one(
    files: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    found = service_account.find(HERE, directory=files)
    monkeypatch.setattr(service_account, "FRESH_SECONDS", -1.0)
    if how == "empty":
        (files / "token").write_text("")
    else:
        (files / "token").unlink()
    assert found.token() == "one"


@pytest.mark.parametrize(
    ("environment", "missing", "said"),
    [
        ({}, None, "KUBERNETES_SERVICE_HOST"),
        ({**HERE, "KUBERNETES_SERVICE_PORT": ""}, None, "KUBERNETES_SERVICE_PORT"),
        (HERE, "token", "token"),
        (HERE, "ca.crt", "ca.crt"),
    ],
)
def test_what_is_missing_is_named(
    files: Path, environment: dict[str, str], missing: str | None, said: str
) -> None:
    if missing:
        (files / missing).unlink()
    with pytest.raises(ConfigError, match=said) as caught:
        service_account.find(environment, directory=files)
    assert "--kubeconfig" in str(caught.value)


def test_the_large_library_is_left_alone() -> None:
    import subprocess
    import sys

    code = "import sys, architect.kube.api; sys.exit('kubernetes' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
