"""One of them as a program: ``python -m support.cloudmetadata aws 127.0.0.1 1338``.

Its URL is the first line of its output. Each line of its standard input is a command, answered by a
line; it ends with the input::

    notice [SECONDS]    announce the end of the machine; answered by its Unix time, or -
    recommend           announce that it is likely (aws)
    withdraw            take it back
    acknowledged        answered by the events that were acknowledged (azure)
    role NAME ACCESS_KEY SECRET_KEY SECONDS
                        give the machine a role, and credentials that live so long (aws)
"""

from __future__ import annotations

import sys
import time

from support.cloudmetadata.aws import Imds
from support.cloudmetadata.azure import AzureImds
from support.cloudmetadata.gcp import Gce

Double = Imds | Gce | AzureImds

CLOUDS: dict[str, type[Double]] = {"aws": Imds, "gcp": Gce, "azure": AzureImds}


def main() -> None:
    """Serve until the standard input ends."""
    cloud, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with CLOUDS[cloud](address, port) as server:
        print(server.url, flush=True)
        for line in sys.stdin:
            print(carry_out(server, line.split()), flush=True)


def carry_out(server: Double, words: list[str]) -> str:
    """Carry out one command and return its answer."""
    match (server, words):
        case (Imds(), ["notice", *rest]):
            return f"{server.interrupt(seconds=float(rest[0]) if rest else 120.0):.0f}"
        case (AzureImds(), ["notice", *rest]):
            return f"{server.announce(seconds=float(rest[0]) if rest else 30.0):.0f}"
        case (Gce(), ["notice", *_]):
            server.preempt()
        case (Imds(), ["recommend"]):
            server.recommend()
        case (AzureImds(), ["acknowledged"]):
            return " ".join(server.acknowledged) or "-"
        case (Imds(), ["role", name, access_key, secret_key, seconds]):
            server.give_role(name, _credentials(access_key, secret_key, float(seconds)))
        case (_, ["withdraw"]):
            server.withdraw()
        case _:
            return f"not understood: {' '.join(words)}"
    return "-"


def _credentials(access_key: str, secret_key: str, seconds: float) -> dict[str, str]:
    ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    return {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key,
        "SecretAccessKey": secret_key,
        "Token": "of-a-role",
        "Expiration": ends,
    }


if __name__ == "__main__":
    main()
