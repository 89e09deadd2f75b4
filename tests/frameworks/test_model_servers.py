"""Each model server that is installed: all hooks find their places, and every original is put back."""

from __future__ import annotations

import importlib
import inspect
import logging
from typing import Any

import pytest

from otel_aimon.instrumentation import loader
from otel_aimon.instrumentation.registry import BY_NAME
from tests.support.telemetry import Telemetry

SERVERS = ("litserve", "bentoml", "ray_serve", "kserve", "mlserver")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=SERVERS)
def modules(request: pytest.FixtureRequest) -> tuple[str, list[Any]]:
    """A server's name, and the modules of it that are hooked."""
    framework = BY_NAME[request.param]
    pytest.importorskip(framework.distribution, reason="the servers have environments of their own")
    return request.param, [importlib.import_module(module) for module, _ in framework.hooks]


def contents(modules: list[Any]) -> dict[str, Any]:
    """What the modules and their classes hold."""
    found: dict[str, Any] = {}
    for module in modules:
        for name, value in vars(module).items():
            found[f"{module.__name__}.{name}"] = value
            if inspect.isclass(value) and value.__module__ == module.__name__:
                found |= {f"{module.__name__}.{name}.{key}": each for key, each in vars(value).items()}
    return found


def test_every_original_is_put_back(modules: tuple[str, list[Any]], caplog: pytest.LogCaptureFixture) -> None:
    name, hooked = modules
    before = contents(hooked)
    with caplog.at_level(logging.WARNING, logger="otel_aimon"), Telemetry():
        assert loader.is_armed(name)
        during = contents(hooked)
        changed = [key for key in before if during[key] is not before[key]]
    after = contents(hooked)
    assert changed
    assert [key for key in before if after[key] is not before[key]] == []
    assert [record.getMessage() for record in caplog.records if "stays without" in record.getMessage()] == []


def test_signatures_stay(modules: tuple[str, list[Any]]) -> None:
    _, hooked = modules
    before = contents(hooked)
    with Telemetry():
        during = contents(hooked)
        for key, value in before.items():
            if during[key] is not value and inspect.isfunction(value):
                assert inspect.signature(during[key]) == inspect.signature(value)
                assert inspect.iscoroutinefunction(during[key]) == inspect.iscoroutinefunction(value)
