"""What otel-aimon itself costs and drops."""

from __future__ import annotations

import pytest

import otel_aimon
from otel_aimon import runtime
from otel_aimon.core import guard
from otel_aimon.core.guard import swallow
from tests.support.telemetry import Telemetry


def readings(telemetry: Telemetry) -> dict[str, float]:
    """All self-monitoring values, which bear no attributes."""
    found: dict[str, float] = {}
    for name, points in telemetry.metrics().items():
        if name.startswith("aimon.selfmon."):
            (point,) = points
            assert point.attributes == {}
            assert point.value is not None
            found[name.removeprefix("aimon.selfmon.")] = point.value
    return found


def test_everything_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())
    with Telemetry(interval=60.0, max_models=1, queue_size=64) as telemetry:
        for number in range(3):
            with otel_aimon.inference("chat", f"m{number}"):
                pass
        swallow(ValueError(), "a test")
        first = readings(telemetry)
        assert first.pop("cpu.time") > 0
        assert first.pop("sampler.cpu.time") == 0
        assert first == {
            "observations": 3,
            "queue.depth": 0,
            "caller_drains": 0,
            "errors": 1,
            "models.overflow": 2,
        }
        running = runtime.current()
        assert running is not None
        with running.pipeline._lock:  # The thread cannot drain now; a caller on this one can.
            for _ in range(64):
                with otel_aimon.inference("chat", "m0"):
                    pass
        second = readings(telemetry)
        assert second["observations"] == 67
        assert second["caller_drains"] == 1


def test_in_a_fresh_process_all_are_zero(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())
    found = readings(telemetry)
    assert found.pop("cpu.time") >= 0
    assert set(found.values()) == {0}
