"""Settings of a key management service, and its refusals by name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from architect.core.errors import ConfigError, Rejected, Unavailable
from architect.operator.__main__ import settings_of
from architect.operator.kms import errors
from architect.operator.kms.aws import key_in
from architect.operator.kms.seal import PLAIN, Keeper
from architect.operator.kms.service import OpensOnly, SecretAlone
from architect.operator.kms.settings import KmsSettings
from architect.operator.run import key_service
from support.keyservices import MemoryService

ARN = "arn:aws:kms:eu-west-2:111122223333:key/bc436485-5092-42b8-92a3-0aa8b93536dc"
GIVEN = {"kms-provider": "aws", "kms-key-id": "alias/architect", "kms-cluster": "blue"}


def read(**changes: str) -> KmsSettings | None:
    given = GIVEN | {name.replace("_", "-"): value for name, value in changes.items()}
    argv = [f"--{name}={value}" for name, value in given.items()]
    return settings_of(argv, {})[1].kms


def test_there_is_none_unless_it_is_asked_for() -> None:
    assert settings_of([], {})[1].kms is None
    assert read(kms_provider="") is None


def test_the_region_is_the_keys_or_the_stores() -> None:
    def region(**changes: str) -> str:
        found = read(**changes)
        assert found is not None
        return found.region

    assert region(store_region="eu-north-1") == "eu-north-1"
    assert region(store_region="eu-north-1", kms_region="eu-west-1") == "eu-west-1"
    assert region(store_region="eu-north-1", kms_key_id=ARN) == "eu-west-2"


def test_everything_is_read() -> None:
    assert read(
        kms_key_id=ARN,
        kms_endpoint="https://kms.example:8443",
        kms_ca_file="/ca",
        kms_credentials_file="/credentials",
        kms_unseal="true",
    ) == KmsSettings(
        key_id=ARN,
        cluster="blue",
        region="eu-west-2",
        endpoint="https://kms.example:8443",
        ca_file="/ca",
        credentials_file="/credentials",
        unseal=True,
    )


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("kms-provider", "gcp"), ("kms-key-id", ""), ("kms-key-id", "alias/"),
        ("kms-key-id", "alias/a b"), ("kms-key-id", ARN.replace("kms", "s3")),
        ("kms-key-id", "x" * 200), ("kms-cluster", ""), ("kms-cluster", "-a"),
        ("kms-cluster", "a b"), ("kms-cluster", "x" * 200), ("kms-region", "a b"),
        ("kms-endpoint", "kms.example"), ("kms-endpoint", "https://kms.example/path"),
        ("kms-ca-file", "ca.crt"), ("kms-credentials-file", "credentials"), ("kms-unseal", "yes"),
    ],
)  # fmt: skip
def test_a_wrong_value_names_the_flag(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--{flag}"):
        read(**{flag: value})


def test_a_region_that_is_not_the_keys_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--kms-region.*the region in the key's ARN"):
        read(kms_key_id=ARN, kms_region="eu-west-1")


def test_an_authority_for_an_endpoint_without_certificates_is_refused() -> None:
    with pytest.raises(ConfigError, match="--kms-ca-file"):
        read(kms_endpoint="http://kms.example", kms_ca_file="/ca")


@pytest.mark.parametrize(
    ("status", "code", "message", "reason"),
    [
        (400, "AccessDeniedException", "User … is not authorized", errors.ACCESS_DENIED),
        (400, "DisabledException", f"{ARN} is disabled.", errors.KEY_DISABLED),
        (400, "KMSInvalidStateException", f"{ARN} is pending deletion.",
         errors.KEY_PENDING_DELETION),
        (400, "KMSInvalidStateException", f"{ARN} is pending import.", errors.KEY_UNUSABLE),
        (400, "NotFoundException", "Key does not exist", errors.KEY_MISSING),
        (400, "IncorrectKeyException", "", errors.WRONG_KEY),
        (400, "InvalidCiphertextException", "", errors.DAMAGED),
        (400, "InvalidKeyUsageException", "", errors.WRONG_KIND),
        (400, "UnrecognizedClientException", "", errors.WRONG_CREDENTIALS),
        (400, "SomethingNewException", "", "KmsSomethingNewException"),
        (404, "404", "", "KmsStatus404"),
        (0, "", "", "KmsStatus0"),
    ],
)  # fmt: skip
def test_a_refusal_has_a_name(status: int, code: str, message: str, reason: str) -> None:
    error = errors.named(status, code, message, what="do it")
    assert isinstance(error, Rejected)
    assert error.reason == reason
    assert str(error).startswith(f"cannot do it: {status or ''}".rstrip())
    assert message in str(error)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ThrottlingException"), (400, "LimitExceededException"),
        (500, "KMSInternalException"),
        (500, "KeyUnavailableException"), (503, "DependencyTimeoutException"), (429, ""), (502, ""),
        (400, "ExpiredTokenException"),
    ],
)  # fmt: skip
def test_what_passes_is_tried_again(status: int, code: str) -> None:
    error = errors.named(status, code, "x" * 5000, what="do it")
    assert isinstance(error, Unavailable)
    assert error.delay_seconds == errors.RETRY_SECONDS
    assert len(str(error)) < 700


@pytest.mark.parametrize(
    ("arn", "here"),
    [
        (ARN, ARN),
        (ARN.replace("key/", "key/mrk-"), ARN.replace("key/", "key/mrk-").replace("-2:", "-9:")),
        ("alias/mrk-a", "alias/mrk-a"),
        ("whatever", "whatever"),
    ],
)
def test_a_key_of_several_regions_is_asked_for_here(arn: str, here: str) -> None:
    assert key_in("eu-west-9", arn) == here


def test_who_does_not_use_it_does_without_the_library() -> None:
    code = (
        "import sys\n"
        "from architect.operator.kms.aws import Aws\n"
        "from architect.operator.kms.settings import KmsSettings\n"
        "Aws(KmsSettings(key_id='a', cluster='b', region='c'))\n"
        "sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_that_is_printed_has_a_data_key() -> None:
    made: Any = MemoryService().make({})
    assert repr(made.plain) not in repr(made)


def test_who_seals_is_what_is_set() -> None:
    assert isinstance(key_service(None), SecretAlone)
    found = read()
    assert found is not None
    assert key_service(found).keeper == Keeper(provider="aws", key="alias/architect")
    back = key_service(dataclasses.replace(found, unseal=True))
    assert isinstance(back, OpensOnly)
    assert back.keeper == PLAIN
