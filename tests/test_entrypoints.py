"""What OpenTelemetry loads: nothing escapes from it, whatever happens."""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from otel_aimon import entrypoints, runtime
from otel_aimon.core import guard
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS, AimonInstrumentor, SklearnInstrumentor
from otel_aimon.instrumentation import loader
from tests.support.scripts import run

ENTRY_POINTS = [
    each
    for each in metadata.entry_points(group="opentelemetry_instrumentor")
    if each.name.startswith("aimon")
]

STATE = """
    import json, sys, threading
    from otel_aimon import runtime
    from otel_aimon.instrumentation import loader, registry
    running = runtime.current()
    print(json.dumps({
        "running": running is not None,
        "processor": bool(running and not running._wants_processor),
        "armed": loader.armed(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "frameworks": sorted({f.name for f in registry.FRAMEWORKS} & set(sys.modules)),
        "hooks": sorted(m for m in sys.modules if m.startswith("otel_aimon.instrumentation.")),
        "registered": "otel_aimon" in str(getattr(sys.modules.get("wrapt.importer"), "_post_import_hooks", "")),
    }))
"""
TABLE = [
    "otel_aimon.instrumentation.hooks",
    "otel_aimon.instrumentation.loader",
    "otel_aimon.instrumentation.registry",
]


@pytest.fixture(autouse=True)
def _uninstrumented() -> Any:
    yield
    for cls in (*FRAMEWORK_INSTRUMENTORS.values(), AimonInstrumentor):
        cls().uninstrument()
    runtime.stop()


def test_each_can_be_loaded_and_used_alone() -> None:
    for each in ENTRY_POINTS:
        instrumentor = each.load()()
        instrumentor.instrument(skip_dep_check=True)
        assert instrumentor.is_instrumented_by_opentelemetry
        assert runtime.current() is not None
        instrumentor.uninstrument()
        runtime.stop()


def test_repetition_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        AimonInstrumentor().instrument()
        SklearnInstrumentor().instrument()
    assert loader.armed() == ["sklearn"]
    for _ in range(2):
        SklearnInstrumentor().uninstrument()
        AimonInstrumentor().uninstrument()
    assert loader.armed() == []
    assert runtime.current() is None
    assert caplog.records == []


@pytest.mark.parametrize("direction", ["instrument", "uninstrument"])
@pytest.mark.parametrize("cls", [AimonInstrumentor, SklearnInstrumentor])
def test_nothing_escapes(
    cls: Any, direction: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(guard, "RERAISE", False)
    monkeypatch.setattr(guard, "_swallowed", guard._Swallowed())

    def broken(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError

    if direction == "uninstrument":
        cls().instrument()
    with monkeypatch.context() as patched:
        patched.setattr(cls, f"_{direction}", broken)
        getattr(cls(), direction)()
    assert guard.swallowed_count() == 1
    assert f"the entry point {cls.entry_point}" in caplog.text


def test_unknown_options_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    SklearnInstrumentor().instrument(batch=3)
    (record,) = caplog.records
    assert "unknown option batch of aimon_sklearn" in record.getMessage()


def test_our_instrumentors_need_no_package() -> None:
    for cls in (*FRAMEWORK_INSTRUMENTORS.values(), AimonInstrumentor):
        assert cls().instrumentation_dependencies() == ()


def test_the_file_of_the_sdk_is_the_runtimes_section() -> None:
    assert AimonInstrumentor.entry_point == entrypoints.FILE_SECTION == "aimon"


class TestUnderOpentelemetryInstrument:
    """Real processes: the distro configures the SDK, then loads every entry point."""

    def test_everything(self, tmp_path: Path) -> None:
        found = run(tmp_path, STATE, instrument=True)
        assert found["running"]
        assert found["processor"]
        assert found["armed"] == sorted(FRAMEWORK_INSTRUMENTORS)
        assert found["frameworks"] == []
        assert found["hooks"] == TABLE
        assert "aimon" not in found["threads"]

    def test_some_disabled(self, tmp_path: Path) -> None:
        env = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "aimon_torch, aimon_sklearn"}
        found = run(tmp_path, STATE, instrument=True, env=env)
        assert found["armed"] == sorted(set(FRAMEWORK_INSTRUMENTORS) - {"torch", "sklearn"})

    def test_the_processor_disabled(self, tmp_path: Path) -> None:
        env = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "aimon"}
        found = run(tmp_path, STATE, instrument=True, env=env)
        assert found["running"]
        assert not found["processor"] or "aimon" not in found["threads"]
        assert found["armed"] == sorted(FRAMEWORK_INSTRUMENTORS)

    @pytest.mark.parametrize(
        "env",
        [
            {"OTEL_SDK_DISABLED": "true"},
            {"OTEL_SDK_DISABLED": " TRUE "},
            {"OTEL_AIMON_ENABLED": "false"},
            {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
        ],
        ids=str,
    )
    def test_disabled_it_touches_nothing(self, tmp_path: Path, env: dict[str, str]) -> None:
        found = run(tmp_path, STATE, instrument=True, env=env)
        assert not found["running"]
        assert found["armed"] == []
        assert found["frameworks"] == []
        assert found["hooks"] == TABLE
        assert not found["registered"]
        assert "aimon" not in found["threads"]
