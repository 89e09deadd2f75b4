"""What other distributions may build on, and what happens to the frameworks that they add."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from otel_aimon import entrypoints, extension
from otel_aimon.core.guard import RERAISE
from otel_aimon.extension import Framework, Instrumentor
from otel_aimon.instrumentation import loader, registry
from tests.support.telemetry import Telemetry


def row(name: str) -> Framework:
    # Any module that is imported already does for a framework.
    return Framework(name, "Tiny", name, "1.0", (("wave", "hook_models"),), module="tests.test_extension")


def hook_models(hooks: extension.Hooks, module: Any) -> None:
    """Hook ``wave.open``, as a model that one might call."""

    def begin(_args: Any, _kwargs: Any) -> extension.Inference | None:
        series = hooks.recorder.series(hooks.framework, "open", "wave")
        return hooks.recorder.start(series, extension.Layer.MODEL)

    hooks.wrap(module, "open", lambda original: extension.observed(original, begin))


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    before = dict(registry.BY_NAME), dict(entrypoints.FRAMEWORK_INSTRUMENTORS)
    yield
    for table, rows in zip((registry.BY_NAME, entrypoints.FRAMEWORK_INSTRUMENTORS), before, strict=True):
        table.clear()
        table.update(rows)  # type: ignore[arg-type]


def test_the_names() -> None:
    assert extension.__all__ == [
        "Framework",
        "Hooks",
        "Inference",
        "Instrumentor",
        "Layer",
        "observed",
        "observed_async",
        "observed_stream",
        "quiet",
        "semconv",
    ]
    for name in extension.__all__:
        assert inspect.getdoc(getattr(extension, name)), name


def test_the_parameters_that_instrumentations_use() -> None:
    def parameters(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert parameters(extension.observed) == ["original", "begin", "finish", "streamed", "failed"]
    assert parameters(extension.observed_async) == ["original", "begin", "finish", "streamed", "failed"]
    assert parameters(extension.observed_stream) == ["original", "begin", "on_item"]
    assert parameters(extension.quiet) == ["original", "recorder"]
    assert parameters(extension.Hooks.wrap) == ["self", "owner", "name", "make", "parameters"]
    assert parameters(Framework) == [
        *("name", "title", "distribution", "oldest", "hooks", "records", "layer", "module", "checked"),
    ]


def test_a_framework_of_another_distribution_is_instrumented_with_ours() -> None:
    import wave

    class TinyInstrumentor(Instrumentor):
        row = row("tinywave")

    assert (TinyInstrumentor.framework, TinyInstrumentor.entry_point) == ("tinywave", "aimon_tinywave")
    assert TinyInstrumentor().instrumentation_dependencies() == ()
    original = wave.open
    with Telemetry(frameworks=("tinywave",)) as telemetry:
        assert loader.armed() == ["tinywave"]
        with pytest.raises(FileNotFoundError):
            wave.open("no such file")
        assert telemetry.counts() == {("tinywave", "wave", "open", "FileNotFoundError"): 1}
    assert wave.open is original


def test_its_instrumentor_alone() -> None:
    class TinyInstrumentor(Instrumentor):
        row = row("tinywave")

    with Telemetry(frameworks=("tinywave",)) as telemetry:
        TinyInstrumentor().uninstrument()
        assert loader.armed() == []
        TinyInstrumentor().instrument()
        assert loader.armed() == ["tinywave"]
        assert telemetry.spans() == []


def test_a_name_of_ours_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    class MyTorchInstrumentor(Instrumentor):
        row = row("torch")

    assert RERAISE
    assert [each.getMessage().split(" and ")[0] for each in caplog.records] == [
        "otel-aimon: otel_aimon instruments torch itself,"
    ]
    assert registry.BY_NAME["torch"].title == "PyTorch"
    assert entrypoints.FRAMEWORK_INSTRUMENTORS["torch"] is entrypoints.TorchInstrumentor
    with Telemetry():
        MyTorchInstrumentor().instrument()
        MyTorchInstrumentor().uninstrument()
        assert "" not in loader.armed()


def test_a_name_whose_entry_point_is_loaded_later_is_no_mistake(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    points = [EntryPoint("aimon_tinywave", "tinywave:Instrumentor", "opentelemetry_instrumentor")]
    monkeypatch.setattr(loader, "entry_points", lambda **_: points)
    with Telemetry(frameworks=("tinywave", "tinyvawe")):
        [record] = caplog.records
    assert record.getMessage().startswith("otel-aimon: unknown frameworks tinyvawe are ignored;")
