"""ONNX Runtime, for real: every way to run a session is one request."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_inference_collection as collection
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, OrtValueVector
from opentelemetry import trace

import otel_aimon
from otel_aimon.instrumentation import onnxruntime as ours
from tests.frameworks import tiny_onnx
from tests.frameworks.tiny_onnx import rows
from tests.support.telemetry import Telemetry, wait_until

ERRORS = "onnxruntime.capi.onnxruntime_pybind11_state"
VERSION = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
METHODS = ("run", "run_async", "run_with_iobinding", "run_with_ort_values", "run_with_ortvaluevector")


def instrumented() -> Telemetry:
    """No other framework: what the tests before have imported makes no difference."""
    return Telemetry(frameworks=("onnxruntime", "sklearn"))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with instrumented() as running:
        yield running


def span(
    model: str = "tiny_linear",
    *,
    batch: int | None = None,
    error: str | None = None,
    parent: str | None = None,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """The whole span of one run."""
    attributes: dict[str, Any] = {
        "aimon.framework": "onnxruntime",
        "aimon.operation": "run",
        "aimon.model.name": model,
    }
    if batch is not None:
        attributes["aimon.batch.size"] = batch
    if device is not None:
        attributes["aimon.device"] = device
    if error is not None:
        attributes["error.type"] = error
    return {
        "name": f"run {model}",
        "kind": "INTERNAL",
        "parent": parent,
        "attributes": attributes,
        "status": "ERROR" if error else "UNSET",
        "events": [],
    }


_LASTING: list[Any] = []


def lasting_session(**options: Any) -> Any:
    """A session for the whole run.

    Old versions hang when the last reference goes while a thread of the session still needs the
    interpreter, with or without otel-aimon.
    """
    _LASTING.append(tiny_onnx.session(**options))
    return _LASTING[-1]


class Answers:
    """A callback that remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.called = threading.Event()

    def __call__(self, *args: Any) -> None:
        self.calls.append(args)
        self.called.set()

    def wait(self) -> Any:
        assert self.called.wait(10)
        [call] = self.calls
        return call


class TestRun:
    def test_a_run_is_one_request(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        scores, label = session.run(None, {"x": rows(3)})
        assert scores.shape == (3, 3) and label.shape == (3,)
        assert telemetry.spans() == [span(batch=3)]
        assert telemetry.counts() == {("onnxruntime", "tiny_linear", "run"): 1}
        [batch] = telemetry.metrics()["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 3)

    def test_by_keyword(self, telemetry: Telemetry) -> None:
        [label] = tiny_onnx.session().run(output_names=["label"], input_feed={"x": rows(2)}, run_options=None)
        assert label.shape == (2,)
        assert telemetry.spans() == [span(batch=2)]

    def test_ort_values(self, telemetry: Telemetry) -> None:
        value = onnxruntime.OrtValue.ortvalue_from_numpy(rows(5))
        [label] = tiny_onnx.session().run_with_ort_values(["label"], {"x": value})
        assert label.shape() == [5]
        assert telemetry.spans() == [span(batch=5)]

    def test_io_binding(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        binding = session.io_binding()
        binding.bind_cpu_input("x", rows(4))
        binding.bind_output("label")
        assert session.run_with_iobinding(binding) is None
        assert binding.copy_outputs_to_cpu()[0].shape == (4,)
        assert telemetry.spans() == [span()]

    def test_vectors_of_ort_values(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        feeds, fetches = OrtValueVector(), OrtValueVector()
        feeds.push_back(onnxruntime.OrtValue.ortvalue_from_numpy(rows(2))._ortvalue)
        device = onnxruntime.OrtDevice.make("cpu", 0)._get_c_device()
        session.run_with_ortvaluevector(onnxruntime.RunOptions(), ["x"], feeds, ["label"], fetches, [device])
        assert len(fetches) == 1
        assert telemetry.spans() == [span()]

    @pytest.mark.parametrize(
        "feed",
        [
            {"scale": np.float32(2), "a": np.ones(6, np.float32), "b": np.ones(6, np.float32)},
            {"b": np.ones(6, np.float32), "a": np.ones(6, np.float32), "scale": np.array(2, np.float32)},
        ],
    )
    def test_a_scalar_has_no_batch(self, telemetry: Telemetry, feed: dict[str, Any]) -> None:
        feed = {name: np.asarray(value) for name, value in feed.items()}
        assert tiny_onnx.session(tiny_onnx.addition()).run(None, feed)[0].tolist() == [4.0] * 6
        assert telemetry.spans() == [span("tiny_addition")]

    def test_what_is_no_array_is_not_asked(self, telemetry: Telemetry) -> None:
        tiny_onnx.session().run(None, {"x": rows(2).tolist()})
        assert telemetry.spans() == [span()]

    def test_a_subclass(self, telemetry: Telemetry) -> None:
        class Session(onnxruntime.InferenceSession):
            def run(self, *args: Any, **kwargs: Any) -> Any:
                return super().run(*args, **kwargs)

        tiny_onnx.session(cls=Session).run(None, {"x": rows(1)})
        assert telemetry.spans() == [span(batch=1)]

    def test_threads(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: session.run(None, {"x": rows(1)}), range(100)))
        assert telemetry.counts() == {("onnxruntime", "tiny_linear", "run"): 100}


class TestModel:
    def test_a_file_gives_its_name_and_nothing_of_its_path(self, telemetry: Telemetry, tmp_path: Any) -> None:
        folder = tmp_path / "secret"
        folder.mkdir()
        for name in ("fraud.v2.onnx", "plain"):
            (folder / name).write_bytes(tiny_onnx.linear())
            tiny_onnx.session(str(folder / name)).run(None, {"x": rows(1)})
        tiny_onnx.session(folder / "plain").run(None, {"x": rows(1)})
        assert telemetry.spans() == [
            span("fraud.v2", batch=1),
            span("plain", batch=1),
            span("plain", batch=1),
        ]

    def test_a_relative_path(
        self, telemetry: Telemetry, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "model.onnx").write_bytes(tiny_onnx.linear())
        monkeypatch.chdir(tmp_path)
        tiny_onnx.session("secret/model.onnx").run(None, {"x": rows(1)})
        assert telemetry.spans() == [span("model", batch=1)]

    def test_a_snapshot_of_the_hub(self, telemetry: Telemetry, tmp_path: Any) -> None:
        folder = tmp_path / "models--acme--reader" / "snapshots" / "0123" / "onnx"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(tiny_onnx.linear())
        tiny_onnx.session(str(folder / "model.onnx")).run(None, {"x": rows(1)})
        assert telemetry.spans() == [span("acme/reader", batch=1)]

    def test_a_session_from_before(self) -> None:
        session = tiny_onnx.session()
        with instrumented() as telemetry:
            session.run(None, {"x": rows(1)})
            assert telemetry.spans() == [span(batch=1)]

    def test_sessions_do_not_mix(self, telemetry: Telemetry) -> None:
        for number in range(20):
            session = tiny_onnx.session(tiny_onnx.linear(f"tiny_{number}"))
            session.run(None, {"x": rows(1)})
            session.run(None, {"x": rows(2)})
            del session
        expected = [span(f"tiny_{number}", batch=batch) for number in range(20) for batch in (1, 2)]
        assert telemetry.spans() == expected

    def test_new_providers(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        session.run(None, {"x": rows(1)})
        session.set_providers(["CPUExecutionProvider"])
        session.run(None, {"x": rows(1)})
        assert telemetry.spans() == [span(batch=1)] * 2

    @pytest.mark.parametrize(
        ("providers", "options", "device"),
        [
            (["CPUExecutionProvider"], {"CPUExecutionProvider": {}}, "cpu"),
            (["CUDAExecutionProvider"], {"CUDAExecutionProvider": {"device_id": "1"}}, "cuda:1"),
            (["TensorrtExecutionProvider"], {}, "cuda"),
            (["AzureExecutionProvider", "CPUExecutionProvider"], {}, "cpu"),
            (["OpenVINOExecutionProvider", "CPUExecutionProvider"], {}, None),
            ([], None, None),
            (None, None, None),
        ],
    )
    def test_devices(self, providers: Any, options: Any, device: str | None) -> None:
        assert ours._device(providers, options) == device

    def test_no_session_is_kept_alive(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        session.run(None, {"x": rows(1)})
        otel_aimon.force_flush()
        gone = weakref.ref(session)
        del session
        gc.collect()
        assert gone() is None


class TestErrors:
    @pytest.mark.parametrize(
        ("feed", "raised", "name"),
        [
            ({"x": np.ones((3, 7), np.float32)}, InvalidArgument, f"{ERRORS}.InvalidArgument"),
            ({"x": np.ones((3, 4), np.float64)}, InvalidArgument, f"{ERRORS}.InvalidArgument"),
            ({"z": rows(3)}, ValueError, "ValueError"),
        ],
    )
    def test_wrong_inputs(self, telemetry: Telemetry, feed: Any, raised: Any, name: str) -> None:
        with pytest.raises(raised):
            tiny_onnx.session().run(None, feed)
        assert telemetry.spans() == [span(batch=3 if "x" in feed else None, error=name)]
        assert telemetry.counts() == {("onnxruntime", "tiny_linear", "run", name): 1}

    def test_a_terminated_run(self, telemetry: Telemetry) -> None:
        options = onnxruntime.RunOptions()
        options.terminate = True
        with pytest.raises(Fail):
            tiny_onnx.session().run(None, {"x": rows(2)}, options)
        assert telemetry.spans() == [span(batch=2, error=f"{ERRORS}.Fail")]

    def test_a_wrong_call(self, telemetry: Telemetry) -> None:
        with pytest.raises(TypeError, match="input_feed"):
            tiny_onnx.session().run(None)
        with pytest.raises(TypeError, match="user_data"):
            tiny_onnx.session().run_async(None, {"x": rows(1)}, print)
        with pytest.raises(TypeError):
            tiny_onnx.session().run_async(None, {"x": rows(1)}, 3, None)
        assert telemetry.spans() == [span(error="TypeError")]


class TestAsynchronous:
    @pytest.mark.parametrize("by_keyword", [False, True])
    def test_the_callback_gets_its_arguments(self, telemetry: Telemetry, by_keyword: bool) -> None:
        session, answers, data = lasting_session(), Answers(), object()
        if by_keyword:
            session.run_async(None, {"x": rows(3)}, callback=answers, user_data=data)
        else:
            session.run_async(["scores"], {"x": rows(3)}, answers, data)
        results, user_data, error = answers.wait()
        assert results[0].shape == (3, 3) and user_data is data and error == ""
        assert telemetry.spans() == [span(batch=3)]
        assert telemetry.counts() == {("onnxruntime", "tiny_linear", "run"): 1}

    def test_the_callback_runs_below_the_request(self, telemetry: Telemetry) -> None:
        session, answers = lasting_session(), Answers()

        def callback(results: Any, user_data: Any, error: str) -> None:
            assert [each["name"] for each in telemetry.spans()] == ["run tiny_linear"]
            with trace.get_tracer("app", tracer_provider=telemetry.tracer_provider).start_as_current_span(
                "save"
            ):
                session.run(None, {"x": rows(1)})
            answers(results, user_data, error)

        session.run_async(None, {"x": rows(3)}, callback, None)
        answers.wait()
        assert [(each["name"], each["parent"]) for each in telemetry.spans()] == [
            ("run tiny_linear", None),
            ("save", "run tiny_linear"),
            ("run tiny_linear", "save"),
        ]
        assert telemetry.counts() == {("onnxruntime", "tiny_linear", "run"): 2}

    def test_an_error(self, telemetry: Telemetry) -> None:
        session, answers = lasting_session(), Answers()
        session.run_async(None, {"x": np.ones((3, 7), np.float32)}, answers, None)
        _, _, error = answers.wait()
        assert "dimensions" in error
        assert telemetry.spans() == [span(batch=3, error="_OTHER")]

    def test_a_refused_run(self, telemetry: Telemetry) -> None:
        answers = Answers()
        with pytest.raises(InvalidArgument, match="at least one thread"):
            lasting_session(threads=1).run_async(None, {"x": rows(1)}, answers, None)
        with pytest.raises(ValueError, match="missing"):
            lasting_session().run_async(None, {}, answers, None)
        assert answers.calls == []
        assert telemetry.spans() == [
            span(batch=1, error=f"{ERRORS}.InvalidArgument"),
            span(error="ValueError"),
        ]
        assert [point.value for point in telemetry.metrics()["aimon.inference.active"]] == [0]

    @pytest.mark.skipif(VERSION < (1, 32), reason="not every older version reports what a callback raises")
    def test_a_callback_that_fails(self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
        failed: list[Any] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: failed.append(unraisable.exc_type))

        def callback(*_: Any) -> None:
            raise KeyError("theirs")

        session = lasting_session()
        session.run_async(None, {"x": rows(1)}, callback, None)
        wait_until(lambda: failed)
        assert failed == [KeyError]
        assert telemetry.spans() == [span(batch=1)]

    def test_nothing_of_the_call_is_kept(self, telemetry: Telemetry) -> None:
        session, answers = lasting_session(), Answers()

        class Data:
            pass

        data = Data()
        session.run_async(None, {"x": rows(1)}, answers, data)
        assert answers.wait()[1] is data
        otel_aimon.force_flush()
        gone = weakref.ref(data)
        answers.calls.clear()
        del data
        # The thread of C++ may still be on its way out of the callback.
        wait_until(lambda: gc.collect() is not None and gone() is None)

    def test_many_at_once(self, telemetry: Telemetry) -> None:
        session = lasting_session()
        found: list[int] = []

        def callback(results: Any, number: int, error: str) -> None:
            assert not error and results[0].shape[0] == number % 3 + 1
            found.append(number)

        for number in range(60):
            session.run_async(["label"], {"x": rows(number % 3 + 1)}, callback, number)
        wait_until(lambda: len(found) == 60)
        assert sorted(found) == list(range(60))
        assert telemetry.counts() == {("onnxruntime", "tiny_linear", "run"): 60}

    def test_with_asyncio(self, telemetry: Telemetry) -> None:
        session = lasting_session()
        variable = contextvars.ContextVar("variable", default=0)

        async def classify(number: int) -> int:
            variable.set(number)
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            def callback(results: Any, _: Any, error: str) -> None:
                loop.call_soon_threadsafe(future.set_result, results[0].shape[0])

            session.run_async(["label"], {"x": rows(number)}, callback, None)
            found = await future
            assert variable.get() == number
            assert not trace.get_current_span().get_span_context().is_valid
            return found

        async def serve() -> list[int]:
            return await asyncio.gather(*(classify(number) for number in range(1, 6)))

        assert asyncio.run(serve()) == [1, 2, 3, 4, 5]
        assert sorted(each["attributes"]["aimon.batch.size"] for each in telemetry.spans()) == [1, 2, 3, 4, 5]
        assert {each["parent"] for each in telemetry.spans()} == {None}

    def test_after_uninstrument(self) -> None:
        session, answers = lasting_session(), Answers()
        with instrumented():
            kept = session.run_async
        kept(None, {"x": rows(1)}, answers, "data")
        assert answers.wait()[1] == "data"


class TestNested:
    def test_a_stage_of_a_request_by_hand(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        with otel_aimon.inference("classify", model="flowers"):
            session.run(None, {"x": rows(1)})
            session.run(None, {"x": rows(1)})
        assert telemetry.spans()[1:] == [span(batch=1, parent="classify flowers")] * 2
        assert telemetry.counts() == {("manual", "flowers", "classify"): 1}

    def test_silent_inside_another_model(self, telemetry: Telemetry) -> None:
        import sklearn.base as sklearn_base

        session = tiny_onnx.session()

        class Exported(sklearn_base.BaseEstimator):
            def predict(self, X: Any) -> Any:
                return session.run(["label"], {"x": X})[0]

        assert Exported().predict(rows(2)).shape == (2,)
        assert [each["name"] for each in telemetry.spans()] == ["predict Exported"]


class TestUnchanged:
    def test_signatures_and_results(self) -> None:
        before = {
            name: (inspect.signature(vars(collection.Session)[name]), vars(collection.Session)[name])
            for name in METHODS
        }
        with instrumented():
            for name, (signature, original) in before.items():
                wrapped = vars(collection.Session)[name]
                assert wrapped is not original and wrapped.__wrapped__ is original
                assert inspect.signature(wrapped) == signature
                assert wrapped.__qualname__ == original.__qualname__ and inspect.isfunction(wrapped)
        assert all(vars(collection.Session)[name] is original for name, (_, original) in before.items())

    def test_the_session_gets_no_attribute(self, telemetry: Telemetry) -> None:
        session = tiny_onnx.session()
        before = vars(session).keys() | set()
        session.run(None, {"x": rows(1)})
        assert vars(session).keys() == before
