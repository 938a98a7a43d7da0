"""Typed access to a pod as plain JSON values, and what its containers say about themselves.

Everything here takes a pod or a pod template (``metadata`` and ``spec``) as the API server sends
it. A field of another type than the API's raises FormatError with its path; absent fields are
empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from architect.api.policy import Probe, ProbeKind
from architect.core.annotation_values import AppContainer
from architect.core.errors import FormatError

PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")

FINISHED_PHASES: Final = ("Succeeded", "Failed")
"""Nothing of such a pod runs again; Kubernetes does not leave these phases."""

Object = Mapping[str, Any]


def fields(value: Any, path: str) -> Object:
    """Return *value* as an object; None is an empty one. Raises FormatError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FormatError(f"{path} is a {type(value).__name__}, not an object")
    return value


def items(value: Any, path: str) -> Sequence[Object]:
    """Return *value* as a list of objects; None is an empty one. Raises FormatError."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise FormatError(f"{path} is a {type(value).__name__}, not a list")
    return [fields(item, f"{path}[{index}]") for index, item in enumerate(value)]


def words(value: Any, path: str) -> Sequence[str]:
    """Return *value* as a list of strings; None is an empty one. Raises FormatError."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise FormatError(f"{path} is not a list of strings")
    return value


def texts(value: Any, path: str) -> Mapping[str, str]:
    """Return *value* as an object of strings. Raises FormatError."""
    found = fields(value, path)
    for key, text in found.items():
        if not isinstance(text, str):
            raise FormatError(f"{path}.{key} is a {type(text).__name__}, not a string")
    return found


def text(value: Any, path: str) -> str | None:
    """Return *value* as a string; the empty one is None, as in the API. Raises FormatError."""
    if value is not None and not isinstance(value, str):
        raise FormatError(f"{path} is a {type(value).__name__}, not a string")
    return value or None


def spec(pod: Object) -> Object:
    """Return the pod's spec."""
    return fields(pod.get("spec"), "spec")


def annotations_of(pod: Object) -> Mapping[str, str]:
    """Return the pod's annotations."""
    metadata = fields(pod.get("metadata"), "metadata")
    return texts(metadata.get("annotations"), "metadata.annotations")


def labels_of(pod: Object) -> Mapping[str, str]:
    """Return the pod's labels."""
    return texts(fields(pod.get("metadata"), "metadata").get("labels"), "metadata.labels")


def runtime_class(pod: Object) -> str | None:
    """Return the runtime class that the pod names."""
    return text(spec(pod).get("runtimeClassName"), "spec.runtimeClassName")


def containers(pod: Object) -> Sequence[tuple[str, Object]]:
    """Return name and spec of each app container."""
    found = []
    for index, container in enumerate(items(spec(pod).get("containers"), "spec.containers")):
        path = f"spec.containers[{index}].name"
        name = text(container.get("name"), path)
        if name is None:
            raise FormatError(f"{path} is empty")
        found.append((name, container))
    return found


def app_containers(pod: Object) -> tuple[AppContainer, ...]:
    """Return the app containers with the probes that kubelet sends to the pod."""
    return tuple(
        AppContainer(name=name, probes=probes(container)) for name, container in containers(pod)
    )


def probes(container: Object) -> tuple[Probe, ...]:
    """Return the probes of *container* that arrive in its pod, each once.

    A probe with a ``host`` goes elsewhere, and one with a port name that the container does not
    declare goes nowhere: both are left out.
    """
    found = (_probe(fields(container.get(key), key), container, key) for key in PROBES)
    return tuple(dict.fromkeys(probe for probe in found if probe is not None))


def port_number(value: Any, container: Object) -> int | None:
    """Return the number of a port that a probe gives by number or by the container's name."""
    if isinstance(value, str):
        for port in items(container.get("ports"), "ports"):
            if port.get("name") == value:
                value = port.get("containerPort")
                break
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        return None
    return value


def _probe(probe: Object, container: Object, path: str) -> Probe | None:
    if "exec" in probe:
        argv = fields(probe["exec"], f"{path}.exec").get("command")
        if not isinstance(argv, list) or not argv or not all(isinstance(a, str) for a in argv):
            return None
        return Probe(kind=ProbeKind.EXEC, argv=tuple(argv))
    if "httpGet" in probe:
        target = fields(probe["httpGet"], f"{path}.httpGet")
        secure = target.get("scheme") == "HTTPS"
        kind = ProbeKind.HTTPS if secure else ProbeKind.HTTP
    elif "tcpSocket" in probe:
        target, kind = fields(probe["tcpSocket"], f"{path}.tcpSocket"), ProbeKind.TCP
    elif "grpc" in probe:
        target, kind = fields(probe["grpc"], f"{path}.grpc"), ProbeKind.GRPC
    else:
        return None
    port = port_number(target.get("port"), container)
    if target.get("host") or port is None:
        return None
    return Probe(kind=kind, port=port)
