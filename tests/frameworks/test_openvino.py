"""OpenVINO, for real: every way to run a compiled model is one request."""

from __future__ import annotations

import functools
import gc
import inspect
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("openvino")

import numpy as np
import openvino as ov

import otel_aimon
from otel_aimon.instrumentation.openvino_model import definer
from tests.frameworks.request_spans import request_span
from tests.support import tiny_openvino
from tests.support.telemetry import Telemetry, wait_until

_QUEUE = "aimon.queue.duration"

span = functools.partial(request_span, "openvino", "infer")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("openvino",)) as running:
        yield running


def compiled(model: Any, device: str = "CPU") -> Any:
    return ov.Core().compile_model(model, device)


# OpenVINO may hang for ever when a model goes right after a queue whose callback has just been called.
# So the models stay.


@pytest.fixture(scope="module")
def linear() -> Any:
    return compiled(tiny_openvino.linear())


@pytest.fixture(scope="module")
def addition() -> Any:
    return compiled(tiny_openvino.addition())


def rows(count: int, columns: int = tiny_openvino.FEATURES) -> Any:
    return np.ones((count, columns), np.float32)


def queued(**known: Any) -> dict[str, Any]:
    """The span of a run of a queue, whose time in it is ``True``."""
    expected = span("addition", **known)
    expected["attributes"][_QUEUE] = True
    return expected


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    found = telemetry.spans()
    for each in found:
        if _QUEUE in each["attributes"]:
            each["attributes"][_QUEUE] = each["attributes"][_QUEUE] >= 0
    return found


FIT = {0: rows(2), 1: rows(2)}
DO_NOT_FIT = {0: rows(2), 1: rows(2, 7)}
LARGE = {0: rows(2000, 2000), 1: rows(2000, 2000)}


class TestCalls:
    def test_a_call_is_one_request(self, telemetry: Telemetry, linear: Any) -> None:
        result = linear(rows(3))
        assert type(result).__name__ == "OVDict"
        assert result[0].tolist() == [[4.0] * 3] * 3
        assert spans(telemetry) == [span("linear", batch=3)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "openvino",
            "aimon.operation": "infer",
            "aimon.model.name": "linear",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 3)

    def test_all_ways_to_call(self, telemetry: Telemetry, linear: Any) -> None:
        request = linear.create_infer_request()
        linear({0: rows(2)})
        linear([rows(3)])
        linear({"x": rows(4)}, share_outputs=True)
        linear(ov.Tensor(rows(5)))
        linear.infer_new_request({0: rows(6)})
        request.infer(inputs={0: rows(7)})
        request.set_input_tensor(ov.Tensor(rows(8)))
        request.infer()
        assert spans(telemetry) == [span("linear", batch=batch) for batch in range(2, 9)]

    def test_a_model_whose_batch_is_fixed(self, telemetry: Telemetry) -> None:
        compiled(tiny_openvino.linear("fixed", 2))(rows(2))
        compiled(tiny_openvino.doubling_of_a_number())(np.float32(3.0))
        assert spans(telemetry) == [span("fixed", batch=2), span("number")]

    def test_devices_that_are_chosen(self, telemetry: Telemetry) -> None:
        compiled(tiny_openvino.linear(), "AUTO")(rows(2))
        assert spans(telemetry) == [span("linear", batch=2)]

    def test_a_model_without_a_name(self, telemetry: Telemetry) -> None:
        compiled(tiny_openvino.linear(""))(rows(2))
        assert spans(telemetry) == [span("unknown", batch=2)]

    def test_models_and_requests_made_before(self) -> None:
        model = compiled(tiny_openvino.linear())
        request = model.create_infer_request()
        with Telemetry(frameworks=("openvino",)) as telemetry:
            request.infer(rows(2))
            model(rows(3))
            assert spans(telemetry) == [span("linear", batch=2), span("linear", batch=3)]

    def test_errors(self, telemetry: Telemetry, linear: Any, addition: Any) -> None:
        with pytest.raises(RuntimeError):
            linear(rows(2, 9))
        with pytest.raises(RuntimeError):
            addition(DO_NOT_FIT)
        with pytest.raises(TypeError):
            linear({0: rows(2)}, 1, 2, 3)
        with pytest.raises(TypeError):
            ov.InferRequest.infer()
        assert spans(telemetry) == [
            span("linear", error="RuntimeError"),
            span("addition", error="RuntimeError"),
        ]
        assert telemetry.counts() == {
            ("openvino", "linear", "infer", "RuntimeError"): 1,
            ("openvino", "addition", "infer", "RuntimeError"): 1,
        }

    def test_a_model_inside_a_request_is_a_stage(self, telemetry: Telemetry, linear: Any) -> None:
        with otel_aimon.inference("answer", model="service"):
            linear(rows(2))
        assert spans(telemetry)[1] == span("linear", batch=2, parent="answer service")
        assert telemetry.counts() == {("manual", "service", "answer"): 1}

    def test_requests_of_several_threads(self, telemetry: Telemetry, linear: Any) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: linear.infer_new_request({0: rows(2)}), range(20)))
        assert telemetry.counts() == {("openvino", "linear", "infer"): 20}


class TestRequests:
    def test_a_run_ends_when_it_is_waited_for(self, telemetry: Telemetry, linear: Any) -> None:
        request = linear.create_infer_request()
        request.start_async(rows(2))
        request.wait()
        request.wait()
        request.start_async({0: rows(3)})
        assert request.wait_for(60_000) is True
        assert request.results[0].shape == (3, 3)
        assert spans(telemetry) == [span("linear", batch=2), span("linear", batch=3)]

    def test_its_time_is_what_openvino_has_measured(self, telemetry: Telemetry, addition: Any) -> None:
        request = addition.create_infer_request()
        request.start_async(LARGE)
        done = threading.Event()
        while not request.wait_for(0):
            done.wait(0.001)
        with otel_aimon.inference("between", model="m"):
            pass
        request.wait()
        run, between = telemetry.raw_spans()
        assert run.end_time <= between.start_time
        assert (run.end_time - run.start_time) / 1e6 >= request.latency * 0.99

    def test_one_that_nobody_waits_for_ends_with_the_next(self, telemetry: Telemetry, linear: Any) -> None:
        request = linear.create_infer_request()
        request.start_async(rows(2))
        untouched = definer(ov.InferRequest, "wait_for").wait_for.__wrapped__
        wait_until(lambda: untouched(request, 0))
        assert spans(telemetry) == []
        request.start_async(rows(3))
        request.wait()
        assert spans(telemetry) == [span("linear", batch=2), span("linear", batch=3)]

    def test_one_that_is_dropped(self, telemetry: Telemetry, addition: Any) -> None:
        request = addition.create_infer_request()
        request.start_async(FIT)
        del request
        gc.collect()
        wait_until(telemetry.spans)
        assert spans(telemetry) == [span("addition", error="cancelled")]

    def test_one_that_is_cancelled(self, telemetry: Telemetry, addition: Any) -> None:
        request = addition.create_infer_request()
        request.start_async(LARGE)
        request.cancel()
        with pytest.raises(RuntimeError):
            request.wait()
        request.start_async(FIT)
        request.wait()
        request.cancel()
        request.wait()
        assert spans(telemetry) == [span("addition", error="cancelled"), span("addition", batch=2)]

    def test_errors(self, telemetry: Telemetry, addition: Any) -> None:
        request = addition.create_infer_request()
        request.start_async(DO_NOT_FIT)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                request.wait()
        with pytest.raises(RuntimeError):
            request.start_async({0: rows(2), 7: rows(2)})
        request.start_async(LARGE)
        with pytest.raises(RuntimeError):
            request.start_async(LARGE)
        request.wait()
        failed = span("addition", error="RuntimeError")
        assert spans(telemetry) == [failed, failed, span("addition", batch=2000), failed]

    def test_a_callback_of_the_users(self, telemetry: Telemetry, addition: Any) -> None:
        def served() -> list[Any]:
            request = addition.create_infer_request()
            userdata, seen = object(), []

            def callback(*given: Any) -> None:
                seen.append((*[each is userdata for each in given], threading.current_thread() is main))
                with otel_aimon.inference("inside", model="callback"):
                    pass

            main = threading.current_thread()
            request.set_callback(callback, userdata)
            assert request.userdata is userdata
            for _ in range(2):
                request.start_async(FIT)
                request.wait()
            request.infer(FIT)
            return seen

        with_us = served()
        assert spans(telemetry) == [
            *[
                each
                for _ in range(2)
                for each in (
                    span("addition", batch=2),
                    {
                        **request_span("manual", "inside", "callback", device=None),
                        "parent": "infer addition",
                    },
                )
            ],
            span("addition", batch=2),
        ]
        otel_aimon.uninstrument()
        assert served() == with_us == [(True, False)] * 2

    def test_a_callback_that_fails(self, telemetry: Telemetry, addition: Any) -> None:
        request = addition.create_infer_request()
        request.set_callback(callback=lambda userdata: 1 / 0, userdata=None)
        request.start_async(FIT)
        with pytest.raises(RuntimeError, match="division by zero"):
            request.wait()
        with pytest.raises(TypeError):
            request.set_callback(7, None)
        assert spans(telemetry) == [span("addition", batch=2)]


class TestQueues:
    def test_without_a_callback(self, telemetry: Telemetry, addition: Any) -> None:
        queue = ov.AsyncInferQueue(addition, 2)
        for count in range(1, 6):
            queue.start_async({0: rows(count), 1: rows(count)}, count)
        queue.wait_all()
        assert spans(telemetry) == [queued(batch=count) for count in range(1, 6)]
        metrics = telemetry.metrics()
        assert [each.count for each in metrics["aimon.inference.queue.duration"]] == [5]
        assert [each.value for each in metrics["aimon.inference.active"]] == [0]

    def test_a_callback_of_the_users(self, telemetry: Telemetry, addition: Any) -> None:
        def served() -> list[Any]:
            queue = ov.AsyncInferQueue(addition, 3)
            seen = []

            def callback(request: Any, userdata: Any) -> None:
                total = int(request.get_output_tensor(0).data.sum())
                seen.append((userdata, type(request), total, threading.current_thread() is main))
                with otel_aimon.inference("inside", model="callback"):
                    pass

            main = threading.current_thread()
            queue.set_callback(callback)
            for count in range(1, 9):
                queue.start_async({0: rows(count), 1: rows(count)}, count)
            queue.wait_all()
            assert sorted(queue.userdata) != [None] * 3
            return sorted(seen, key=lambda each: each[0])

        with_us = served()
        assert [each[0] for each in with_us] == list(range(1, 9))
        found = spans(telemetry)
        assert [each for each in found if each["name"] == "infer addition"] == [
            queued(batch=count) for count in range(1, 9)
        ]
        assert [each["parent"] for each in found if each["name"] == "inside callback"] == [
            "infer addition"
        ] * 8
        assert telemetry.counts() == {
            ("openvino", "addition", "infer"): 8,
            ("manual", "callback", "inside"): 8,
        }
        otel_aimon.uninstrument()
        assert served() == with_us

    def test_a_run_with_a_callback_ends_with_it(self, telemetry: Telemetry, addition: Any) -> None:
        queue = ov.AsyncInferQueue(addition, 2)
        queue.set_callback(lambda request, userdata: None)
        queue.start_async(FIT)
        wait_until(telemetry.spans)
        assert spans(telemetry) == [queued(batch=2)]
        queue.wait_all()

    def test_errors(self, telemetry: Telemetry, addition: Any) -> None:
        queue = ov.AsyncInferQueue(addition, 2)
        queue.start_async(DO_NOT_FIT)
        with pytest.raises(RuntimeError):
            queue.wait_all()
        with pytest.raises(RuntimeError):
            queue.start_async({0: rows(2), 7: rows(2)})
        with pytest.raises(TypeError):
            ov.AsyncInferQueue.start_async()
        assert spans(telemetry) == [queued(error="RuntimeError")] * 2

    def test_a_callback_that_fails(self, telemetry: Telemetry, addition: Any) -> None:
        queue = ov.AsyncInferQueue(addition, 1)
        queue.set_callback(lambda request, userdata: 1 / 0)
        queue.start_async(FIT)
        with pytest.raises(ZeroDivisionError):
            queue.wait_all()
        assert spans(telemetry) == [queued(batch=2)]

    def test_one_that_is_dropped(self, telemetry: Telemetry, addition: Any) -> None:
        queue = ov.AsyncInferQueue(addition, 2)
        queue.start_async(FIT)
        queue.start_async(FIT)
        del queue
        gc.collect()
        wait_until(lambda: len(telemetry.spans()) == 2)
        assert spans(telemetry) == [queued(error="cancelled")] * 2

    def test_inside_a_request_runs_are_stages(self, telemetry: Telemetry, addition: Any) -> None:
        queue = ov.AsyncInferQueue(addition, 2)
        with otel_aimon.inference("answer", model="service"):
            queue.start_async(FIT)
            queue.wait_all()
        assert spans(telemetry)[1] == queued(batch=2, parent="answer service")


_CLASSES = {
    cls
    for leaf in (ov.CompiledModel, ov.InferRequest, ov.AsyncInferQueue)
    for cls in leaf.__mro__
    if cls.__module__.startswith("openvino")
}


def _attributes() -> dict[tuple[type, str], Any]:
    return {(cls, name): value for cls in _CLASSES for name, value in vars(cls).items()}


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        def signature(function: Any) -> str:
            try:
                return str(inspect.signature(function))
            except ValueError:
                return "none"

        def seen() -> list[Any]:
            methods = [getattr(cls, name) for cls, name in _attributes() if not name.startswith("_")]
            functions = [each for each in methods if callable(each)]
            return [(each.__name__, each.__qualname__, each.__doc__, signature(each)) for each in functions]

        before = seen()
        with Telemetry(frameworks=("openvino",)):
            assert seen() == before

    def test_every_attribute_is_restored(self) -> None:
        before = _attributes()
        with Telemetry(frameworks=("openvino",)):
            changed = sorted(
                f"{cls.__name__}.{name}"
                for (cls, name), value in _attributes().items()
                if value is not before[cls, name]
            )
        after = _attributes()
        assert changed == [
            "AsyncInferQueue.set_callback",
            "AsyncInferQueue.start_async",
            "AsyncInferQueue.wait_all",
            "CompiledModel.create_infer_request",
            "InferRequest.cancel",
            "InferRequest.infer",
            "InferRequest.set_callback",
            "InferRequest.start_async",
            "InferRequest.wait",
            "InferRequest.wait_for",
        ]
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()

    def test_nothing_is_kept_alive(self, telemetry: Telemetry) -> None:
        model = compiled(tiny_openvino.linear())
        request = model.create_infer_request()
        queue = ov.AsyncInferQueue(model, 1)
        data, called = rows(2), []

        class Callback:
            def __call__(self, *_: Any) -> None:
                called.append(1)

        for_request, for_queue = Callback(), Callback()
        request.set_callback(for_request, None)
        queue.set_callback(for_queue)
        request.start_async(data)
        request.wait()
        queue.start_async(data)
        queue.wait_all()
        result = model(data)
        otel_aimon.force_flush()
        assert called == [1, 1]
        watched = [
            weakref.ref(each) for each in (model, request, queue, data, result, for_request, for_queue)
        ]
        del model, request, queue, data, result, for_request, for_queue
        gc.collect()
        assert [each() for each in watched] == [None] * 7

    def test_what_was_begun_before_the_end(self, addition: Any) -> None:
        seen: list[Any] = []
        with Telemetry(frameworks=("openvino",)) as telemetry:
            request, queue = addition.create_infer_request(), ov.AsyncInferQueue(addition, 1)
            queue.set_callback(lambda request, userdata: seen.append(userdata))
            request.start_async(FIT)
        request.wait()
        queue.start_async(FIT, "after")
        queue.wait_all()
        assert seen == ["after"]
        assert telemetry.spans() == []
