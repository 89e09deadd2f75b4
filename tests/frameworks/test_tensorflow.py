"""TensorFlow, for real: calls of a loaded SavedModel are requests, traces and gradients are none."""

from __future__ import annotations

import functools
import gc
import inspect
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")

import otel_aimon
from tests.frameworks.request_spans import request_span
from tests.support.telemetry import Telemetry

pytestmark = pytest.mark.filterwarnings("ignore:.*np.object.*:FutureWarning")

span = functools.partial(request_span, "tensorflow")
ROWS = tf.ones((5, 8))
VECTORS = tf.TensorSpec((None, 8), tf.float32)


class Ranker(tf.Module):
    """A model with weights, a lookup table, a part of its own, and a function that nobody should call."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.ones((8, 4)))
        self.part = tf.Module()
        self.part.embed = tf.function(lambda rows: rows * 2, input_signature=[VECTORS])
        self._own = tf.function(lambda rows: rows, input_signature=[VECTORS])

    @tf.function(input_signature=[VECTORS])
    def __call__(self, rows: Any) -> Any:
        return rows @ self.weights

    @tf.function(input_signature=[VECTORS])
    def rank(self, rows: Any) -> Any:
        checked = tf.debugging.assert_less(rows, 100.0, message="the secret number")
        with tf.control_dependencies([checked]):
            return {"scores": self(rows)}


class Words(tf.Module):
    """A model that is a table, which is filled when it is loaded; it has no weights."""

    def __init__(self) -> None:
        super().__init__()
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2])
        self.table = tf.lookup.StaticHashTable(pairs, 0)

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def look_up(self, words: Any) -> Any:
        return self.table.lookup(words)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> str:
    folder = tmp_path_factory.mktemp("models") / "ranker" / "3"
    model = Ranker()
    tf.saved_model.save(
        model, str(folder), signatures={"score": model.rank, "serving_default": model.__call__}
    )
    return str(folder)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("tensorflow",)) as running:
        yield running


class TestRequests:
    def test_a_signature(self, telemetry: Telemetry, saved: str) -> None:
        loaded = tf.saved_model.load(saved)
        found = loaded.signatures["score"](ROWS)
        assert list(found) == ["scores"] and found["scores"].shape == (5, 4)
        loaded.signatures["serving_default"](rows=ROWS)
        assert telemetry.spans() == [
            span("score", "ranker", batch=5),
            span("serving_default", "ranker", batch=5),
        ]
        metrics = telemetry.metrics()
        assert [(each.attributes, each.count) for each in metrics["aimon.inference.duration"]] == [
            (
                {
                    "aimon.framework": "tensorflow",
                    "aimon.operation": operation,
                    "aimon.model.name": "ranker",
                },
                1,
            )
            for operation in ("score", "serving_default")
        ]
        assert [(each.count, each.total) for each in metrics["aimon.inference.batch.size"]] == [(1, 5)] * 2

    def test_functions(self, telemetry: Telemetry, saved: str) -> None:
        loaded = tf.saved_model.load(saved)
        assert type(loaded(ROWS)) is type(ROWS)
        loaded.rank(np.ones((3, 8), "f"))
        loaded.rank(rows=ROWS)
        assert telemetry.spans() == [
            span("call", "ranker", batch=5),
            span("rank", "ranker", batch=3),
            span("rank", "ranker", batch=5),
        ]

    def test_a_path_object_and_another_import(self, telemetry: Telemetry, saved: str) -> None:
        from tensorflow.saved_model import load

        loaded = load(Path(saved))
        loaded.rank(ROWS)
        assert telemetry.spans() == [span("rank", "ranker", batch=5)]

    def test_a_model_of_tables(self, telemetry: Telemetry, tmp_path: Path) -> None:
        tf.saved_model.save(Words(), str(tmp_path / "words"))
        loaded = tf.saved_model.load(str(tmp_path / "words"))
        assert telemetry.spans() == []
        assert loaded.look_up(tf.constant(["a", "b", "c"])).numpy().tolist() == [1, 2, 0]
        assert telemetry.spans() == [span("look_up", "words", batch=3)]
        del loaded
        gc.collect()
        assert len(telemetry.spans()) == 1

    def test_a_model_of_tensorflow_1(self, telemetry: Telemetry, tmp_path: Path) -> None:
        v1, folder = tf.compat.v1, str(tmp_path / "former")
        with v1.Graph().as_default(), v1.Session() as session:
            rows = v1.placeholder(tf.float32, (None, 8))
            scores = rows @ v1.get_variable("weights", (8, 4))
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, folder, {"rows": rows}, {"scores": scores})
        loaded = tf.saved_model.load(folder)
        loaded.signatures["serving_default"](rows=ROWS)
        assert telemetry.spans() == [span("serving_default", "former", batch=5)]

    def test_errors(self, telemetry: Telemetry, saved: str) -> None:
        loaded = tf.saved_model.load(saved)
        with pytest.raises(tf.errors.InvalidArgumentError, match="the secret number"):
            loaded.rank(ROWS * 1000)
        with pytest.raises(TypeError):
            loaded.rank(tf.ones((5, 7)))
        failed = "tensorflow.python.framework.errors_impl.InvalidArgumentError"
        assert telemetry.spans() == [
            span("rank", "ranker", batch=5, error=failed),
            span("rank", "ranker", batch=5, error="TypeError"),
        ]
        assert telemetry.counts() == {
            ("tensorflow", "ranker", "rank", failed): 1,
            ("tensorflow", "ranker", "rank", "TypeError"): 1,
        }

    def test_inside_one_by_hand_it_is_a_stage(self, telemetry: Telemetry, saved: str) -> None:
        loaded = tf.saved_model.load(saved)
        with otel_aimon.inference("rank", model="shop"):
            loaded(ROWS)
        assert telemetry.spans()[1] == span("call", "ranker", batch=5, parent="rank shop")
        assert telemetry.counts() == {("manual", "shop", "rank"): 1}

    def test_requests_of_several_threads(self, telemetry: Telemetry, saved: str) -> None:
        loaded = tf.saved_model.load(saved)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(loaded.rank, [ROWS] * 20))
            list(pool.map(loaded.signatures["score"], [ROWS] * 20))
        assert telemetry.counts() == {
            ("tensorflow", "ranker", "rank"): 20,
            ("tensorflow", "ranker", "score"): 20,
        }


class TestSilence:
    def test_traces_and_gradients(self, telemetry: Telemetry, saved: str) -> None:
        loaded = tf.saved_model.load(saved)
        traced = tf.function(lambda rows: loaded.rank(rows)["scores"] + loaded(rows))
        traced(ROWS), traced(ROWS)
        with tf.GradientTape() as tape:
            tape.watch(ROWS)
            scores = loaded(ROWS)
        assert tape.gradient(scores, ROWS).shape == (5, 8)
        assert telemetry.spans() == []

    def test_parts_of_a_model(self, telemetry: Telemetry, saved: str) -> None:
        tf.saved_model.load(saved).part.embed(ROWS)
        assert telemetry.spans() == []

    def test_functions_that_were_not_loaded(self, telemetry: Telemetry) -> None:
        function = tf.function(lambda rows: rows * 2)
        function(ROWS)
        function.get_concrete_function(VECTORS)(ROWS)
        Ranker()(ROWS)
        assert telemetry.spans() == []

    def test_saving_anew(self, telemetry: Telemetry, saved: str, tmp_path: Path) -> None:
        loaded = tf.saved_model.load(saved)
        tf.saved_model.save(loaded, str(tmp_path / "again"))
        assert telemetry.spans() == []
        np.testing.assert_array_equal(tf.saved_model.load(str(tmp_path / "again"))(ROWS), loaded(ROWS))

    def test_a_function_of_the_users_by_hand(self, telemetry: Telemetry) -> None:
        @otel_aimon.monitor(operation="predict", model="own", framework="tensorflow")
        @tf.function
        def predict(rows: Any) -> Any:
            return rows * 2

        predict(ROWS), predict(ROWS)
        assert telemetry.counts() == {("tensorflow", "own", "predict"): 2}


def _owners() -> list[Any]:
    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction
    from tensorflow.python.saved_model import load
    from tensorflow.python.saved_model.function_deserialization import RestoredFunction

    return [ConcreteFunction, RestoredFunction, RestoredFunction.__mro__[1], load]


def _attributes() -> dict[tuple[Any, str], Any]:
    return {(owner, name): value for owner in _owners() for name, value in vars(owner).items()}


class TestUnchanged:
    def test_signatures(self) -> None:
        def seen() -> Any:
            concrete, restored, _, load = _owners()
            functions = [concrete.__call__, restored.__call__, load.load_partial]
            return [(each.__qualname__, each.__doc__, str(inspect.signature(each))) for each in functions]

        before = seen()
        with Telemetry(frameworks=("tensorflow",)):
            assert seen() == before

    def test_every_attribute_is_restored(self, saved: str) -> None:
        before = _attributes()
        with Telemetry(frameworks=("tensorflow",)) as telemetry:
            loaded = tf.saved_model.load(saved)
            changed = {key[1] for key, value in _attributes().items() if value is not before.get(key)}
        after = _attributes()
        assert changed == {"__call__", "load_partial"}
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()
        loaded(ROWS)
        loaded.signatures["score"](ROWS)
        assert telemetry.spans() == []

    def test_nothing_is_kept_alive(self, telemetry: Telemetry, saved: str) -> None:
        loaded = tf.saved_model.load(saved)
        rows = tf.ones((2, 8))
        result = loaded(rows)
        loaded.signatures["score"](rows)
        otel_aimon.force_flush()
        watched = [weakref.ref(each) for each in (loaded, loaded.rank, rows, result)]
        del loaded, rows, result
        gc.collect()
        assert [each() for each in watched] == [None] * 4
