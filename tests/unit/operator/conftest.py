"""The operator's parts, before an API server in memory."""

from __future__ import annotations

import pytest

from architect.kube.api import Api
from architect.kube.events import Recorder
from architect.operator.apply import Applier
from architect.operator.metrics import Metrics
from architect.operator.registrar import Registrar
from architect.operator.sweep import Sweeper
from architect.operator.unmanaged import UnmanagedPods
from support.memoryserver import MemoryServer


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def api(server: MemoryServer) -> Api:
    return Api(server, field_manager="architect-operator")


@pytest.fixture
def numbers():
    return Metrics()


@pytest.fixture
def applier(api, numbers):
    recorder = Recorder(api, component="operator", instance="o")
    return Applier(api, recorder, numbers, tell=recorder.record)


@pytest.fixture
def unmanaged(applier, numbers):
    return UnmanagedPods(applier, numbers)


@pytest.fixture
def registrar(api, applier, numbers):
    return Registrar(api, applier, numbers, has_store=False)


@pytest.fixture
def sweeper(api, applier, numbers, unmanaged, registrar):
    return Sweeper(
        api, applier, numbers, unmanaged, registrar,
        daemon_namespace="architect", daemon_selector="x=y",
    )  # fmt: skip
