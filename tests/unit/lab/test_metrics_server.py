from __future__ import annotations

import base64
from pathlib import Path

from cryptography import x509

from lab import addresses, control_plane, metrics_server
from lab.control_plane import ControlPlane
from lab.machine import Machine
from lab.pki import Authority
from lab.settings import Settings


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_its_certificate_is_for_the_service_by_which_the_api_server_calls_it(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    machine = Machine(control_plane.MACHINE, settings=Settings(state=tmp_path))
    ControlPlane(machine=machine)._issue(authority)
    registered = metrics_server.registration(authority.pair.certificate.read_bytes())["spec"]
    found = certificate(tmp_path / "metrics-server.crt")
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    service = registered["service"]
    assert f"{service['name']}.{service['namespace']}.svc" in names.get_values_for_type(
        x509.DNSName
    )
    signer = certificate(authority.pair.certificate)
    assert base64.b64decode(registered["caBundle"]) == authority.pair.certificate.read_bytes()
    found.verify_directly_issued_by(signer)


def test_who_passes_on_for_others_is_of_an_authority_of_its_own(tmp_path: Path) -> None:
    """Else any client of the API server could tell a server behind it that it is another one."""
    authority = Authority(tmp_path)
    machine = Machine(control_plane.MACHINE, settings=Settings(state=tmp_path))
    ControlPlane(machine=machine)._issue(authority)
    front = tmp_path / control_plane.FRONT_PROXY
    certificate(front / "client.crt").verify_directly_issued_by(certificate(front / "ca.crt"))
    assert (front / "ca.crt").read_bytes() != authority.pair.certificate.read_bytes()
    words = control_plane.api_services()["kube-apiserver"]
    pki = control_plane.PKI
    assert f"--requestheader-client-ca-file={pki}/{front.name}/ca.crt" in words
    assert f"--requestheader-allowed-names={control_plane.FRONT_PROXY}" in words


def test_its_service_leads_to_the_control_plane() -> None:
    by_kind = {one["kind"]: one for one in metrics_server.objects()}
    service, endpoints = by_kind["Service"], by_kind["EndpointSlice"]
    assert "selector" not in service["spec"]
    labels = endpoints["metadata"]["labels"]
    assert labels["kubernetes.io/service-name"] == service["metadata"]["name"]
    assert endpoints["ports"][0]["name"] == service["spec"]["ports"][0]["name"]
    assert endpoints["endpoints"][0]["addresses"] == [addresses.CONTROL_PLANE_V4]
    assert f"--secure-port={endpoints['ports'][0]['port']}" in metrics_server.command()
