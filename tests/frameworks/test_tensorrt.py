"""TensorRT's real Python bindings over libraries that compute nothing: each synchronous execution is one request."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import shutil
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

if importlib.util.find_spec("tensorrt_bindings") is None:
    pytest.skip("TensorRT's bindings are not installed", allow_module_level=True)
if shutil.which("gcc") is None:
    pytest.skip("no C compiler", allow_module_level=True)

import otel_aimon
from tests.frameworks.request_spans import request_span
from tests.support import tiny_tensorrt
from tests.support.telemetry import Telemetry

NAME = "tiny"
BUFFERS = [4096, 8192]
NOWHERE = [0, 8192]


@pytest.fixture(scope="module")
def bindings(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tensorrt.load(tmp_path_factory.mktemp("libraries"))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("tensorrt",)) as running:
        yield running


def span(*, error: str | None = None, parent: str | None = None) -> dict[str, Any]:
    """A whole span."""
    return request_span("tensorrt", "execute", NAME, batch=4, device="cuda", error=error, parent=parent)


def test_an_execution_is_one_request(bindings: Any, telemetry: Telemetry) -> None:
    context = tiny_tensorrt.make_context(bindings)
    assert context.execute_v2(BUFFERS) is True
    assert context.execute_v2(bindings=BUFFERS) is True

    assert telemetry.spans() == [span(), span()]
    metrics = telemetry.metrics()
    [duration] = metrics["aimon.inference.duration"]
    series = {"aimon.framework": "tensorrt", "aimon.operation": "execute", "aimon.model.name": NAME}
    assert (duration.count, duration.attributes) == (2, series)
    # Each takes a millisecond.
    assert 0.002 <= duration.total < 0.2
    [batch] = metrics["aimon.inference.batch.size"]
    assert (batch.count, batch.total) == (2, 8)
    assert not any(name.startswith("gen_ai.") for name in metrics)


def test_one_that_returns_false_has_failed(bindings: Any, telemetry: Telemetry) -> None:
    assert tiny_tensorrt.make_context(bindings).execute_v2(NOWHERE) is False

    assert telemetry.spans() == [span(error="_OTHER")]
    assert telemetry.counts() == {("tensorrt", NAME, "execute", "_OTHER"): 1}


def test_arguments_that_it_does_not_take(bindings: Any, telemetry: Telemetry) -> None:
    context = tiny_tensorrt.make_context(bindings)
    with pytest.raises(TypeError):
        context.execute_v2("nonsense")
    with pytest.raises(TypeError):
        bindings.IExecutionContext.execute_v2()

    assert telemetry.spans() == [span(error="TypeError")]


def test_what_is_only_put_into_a_stream_is_left_alone(bindings: Any, telemetry: Telemetry) -> None:
    assert tiny_tensorrt.make_context(bindings).execute_async_v3(7) is True

    assert telemetry.spans() == []


def test_inside_a_request_by_hand_it_is_a_stage(bindings: Any, telemetry: Telemetry) -> None:
    context = tiny_tensorrt.make_context(bindings)
    with otel_aimon.inference("answer", model="mine"):
        context.execute_v2(BUFFERS)

    request, stage = telemetry.spans()
    assert stage == span(parent=request["name"])


def test_no_context_is_kept_alive(bindings: Any, telemetry: Telemetry) -> None:
    context = tiny_tensorrt.make_context(bindings)
    context.execute_v2(BUFFERS)
    watched = weakref.ref(context)
    del context
    gc.collect()

    assert watched() is None


def test_a_package_that_hands_the_bindings_on_is_not_hooked_twice(bindings: Any) -> None:
    from otel_aimon.instrumentation import tensorrt
    from otel_aimon.instrumentation.loader import hooks_of

    package = ModuleType("tensorrt")
    package.IExecutionContext = bindings.IExecutionContext
    with Telemetry(frameworks=("tensorrt",)) as telemetry:
        tensorrt.hook_contexts(hooks_of("tensorrt"), package)
        tiny_tensorrt.make_context(bindings).execute_v2(BUFFERS)
        assert telemetry.spans() == [span()]


def test_what_is_restored(bindings: Any) -> None:
    before = dict(vars(bindings.IExecutionContext))
    with Telemetry(frameworks=("tensorrt",)):
        hooked = vars(bindings.IExecutionContext)["execute_v2"]
        assert hooked is not before["execute_v2"]
        assert inspect.getdoc(hooked) == inspect.getdoc(before["execute_v2"])
    assert dict(vars(bindings.IExecutionContext)) == before
    context = tiny_tensorrt.make_context(bindings)
    assert context.execute_v2(BUFFERS) is True
