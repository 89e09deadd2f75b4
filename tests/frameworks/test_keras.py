"""Keras on TensorFlow, for real: predictions and calls of a model are requests, training is none."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import os
import pickle
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import otel_aimon
from tests.frameworks.request_spans import request_span
from tests.support import scripts
from tests.support.telemetry import Telemetry

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="these tests are of one backend"),
    pytest.mark.filterwarnings("ignore:.*np.object.*:FutureWarning"),
    # NumPy tells it of TensorFlow's tensors.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

span = functools.partial(request_span, "keras")
ROWS = np.ones((5, 8), "f")
TARGETS = np.ones((5, 4), "f")


def make_model(name: str = "tiny") -> Any:
    return keras.Sequential(
        [keras.layers.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)], name=name
    )


class Subclass(keras.Model):
    """Two models in one, and a layer that cannot stand large numbers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = make_model("first")
        self.second = keras.layers.Dense(2)

    def call(self, inputs: Any, training: Any = None) -> Any:
        if tf.executing_eagerly() and float(tf.reduce_max(inputs)) > 100:
            raise LookupError("the secret number")
        return self.second(self.first(inputs))


@pytest.fixture(scope="module")
def model() -> Any:
    found = make_model()
    found.compile("sgd", "mse")
    return found


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("keras",)) as running:
        yield running


class TestRequests:
    @pytest.mark.parametrize("operation", ["predict", "predict_on_batch"])
    def test_a_prediction(self, telemetry: Telemetry, model: Any, operation: str) -> None:
        options = {"verbose": 0, "batch_size": 2} if operation == "predict" else {}
        found = getattr(model, operation)(ROWS, **options)
        assert type(found) is np.ndarray and found.shape == (5, 4)
        assert telemetry.spans() == [span(operation, "tiny", batch=5)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "keras",
            "aimon.operation": operation,
            "aimon.model.name": "tiny",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 5)

    def test_a_call(self, telemetry: Telemetry, model: Any) -> None:
        tensor = tf.constant(ROWS)
        found = model(tensor)
        assert type(found) is type(tensor) and tuple(found.shape) == (5, 4)
        model(ROWS, training=False)
        model(inputs=tensor)
        assert telemetry.spans() == [span("call", "tiny", batch=5)] * 3
        assert telemetry.counts() == {("keras", "tiny", "call"): 3}

    def test_models_inside_a_model_are_one_request(self, telemetry: Telemetry) -> None:
        outer = Subclass(name="outer")
        outer(ROWS)
        outer.predict(ROWS, verbose=0)
        around = keras.Sequential([keras.layers.Input((8,)), outer], name="around")
        around(ROWS)
        assert telemetry.spans() == [
            span("call", "outer", batch=5),
            span("predict", "outer", batch=5),
            span("call", "around", batch=5),
        ]
        assert telemetry.counts("aimon.inference.stage.duration") == {}

    def test_a_model_inside_a_layer_is_no_request(self, telemetry: Telemetry, model: Any) -> None:
        keras.layers.TimeDistributed(model)(np.ones((2, 3, 8), "f"))
        assert telemetry.spans() == []

    @pytest.mark.parametrize("shape", [list, tuple, dict])
    def test_several_inputs(self, telemetry: Telemetry, shape: Any) -> None:
        one, two = keras.Input((8,), name="one"), keras.Input((2,), name="two")
        both = keras.Model(
            {"one": one, "two": two} if shape is dict else [one, two],
            keras.layers.Concatenate()([one, two]),
            name="both",
        )
        data = shape({"one": ROWS, "two": np.ones((5, 2), "f")}.items())
        data = data if shape is dict else shape(value for _, value in data)
        both(data)
        # A list or a tuple of arrays is one input to `predict` only where it is a list.
        both.predict(data if shape is dict else list(data), verbose=0)
        assert telemetry.spans() == [
            span("call", "both", batch=5, device=None),
            span("predict", "both", batch=5, device=None),
        ]

    def test_items_that_nobody_knows_beforehand(self, telemetry: Telemetry, model: Any) -> None:
        def batches() -> Iterator[Any]:
            yield (ROWS,)
            yield (ROWS,)

        assert len(model.predict(tf.data.Dataset.from_tensor_slices(ROWS).batch(2), verbose=0)) == 5
        assert len(model.predict(batches(), verbose=0, steps=2)) == 10
        assert telemetry.spans() == [span("predict", "tiny")] * 2

    def test_errors(self, telemetry: Telemetry) -> None:
        model = make_model()
        with pytest.raises(ValueError):
            model(np.ones((2, 7), "f"))
        with pytest.raises(ValueError):
            model.predict(np.ones((2, 7), "f"), verbose=0)
        with pytest.raises(LookupError, match="the secret number"):
            Subclass(name="outer")(ROWS * 1000)
        assert telemetry.spans() == [
            span("call", "tiny", batch=2, device=None, error="ValueError"),
            span("predict", "tiny", batch=2, device=None, error="ValueError"),
            span("call", "outer", batch=5, device=None, error="LookupError"),
        ]
        assert telemetry.counts() == {
            ("keras", "tiny", "call", "ValueError"): 1,
            ("keras", "tiny", "predict", "ValueError"): 1,
            ("keras", "outer", "call", "LookupError"): 1,
        }

    def test_one_that_is_interrupted_is_cancelled(self, telemetry: Telemetry, model: Any) -> None:
        class Interrupting(keras.callbacks.Callback):
            def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            model.predict(ROWS, verbose=0, callbacks=[Interrupting()])
        assert telemetry.spans() == [span("predict", "tiny", batch=5, device=None, error="cancelled")]

    def test_inside_one_by_hand_it_is_a_stage(self, telemetry: Telemetry, model: Any) -> None:
        with otel_aimon.inference("rank", model="shop"):
            model(ROWS)
        [request, stage] = telemetry.spans()
        assert (request["name"], request["parent"]) == ("rank shop", None)
        assert stage == span("call", "tiny", batch=5, parent="rank shop")
        assert telemetry.counts() == {("manual", "shop", "rank"): 1}

    def test_requests_of_several_threads(self, telemetry: Telemetry, model: Any) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(model, [ROWS] * 20))
            list(pool.map(model.predict_on_batch, [ROWS] * 20))
        assert telemetry.counts() == {
            ("keras", "tiny", "call"): 20,
            ("keras", "tiny", "predict_on_batch"): 20,
        }
        assert telemetry.counts("aimon.inference.stage.duration") == {}


class TestSilence:
    def test_training_and_grading(self, telemetry: Telemetry, model: Any) -> None:
        class Predicting(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.model.predict(ROWS, verbose=0)
                self.model(ROWS)

        model.fit(ROWS, TARGETS, verbose=0, callbacks=[Predicting()], validation_data=(ROWS, TARGETS))
        model.evaluate(ROWS, TARGETS, verbose=0)
        model.train_on_batch(ROWS, TARGETS)
        model.test_on_batch(ROWS, TARGETS)
        assert telemetry.spans() == []
        assert telemetry.counts() == {}

    def test_a_training_loop_of_the_user(self, telemetry: Telemetry, model: Any) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(ROWS))
        assert all(each is not None for each in tape.gradient(loss, model.trainable_variables))
        model(ROWS, training=True)
        assert telemetry.spans() == []

    def test_eager_training(self, telemetry: Telemetry) -> None:
        eager = make_model()
        eager.compile("sgd", "mse", run_eagerly=True)
        eager.fit(ROWS, TARGETS, verbose=0)
        eager.evaluate(ROWS, TARGETS, verbose=0)
        assert telemetry.spans() == []
        eager.predict(ROWS, verbose=0)
        assert telemetry.spans() == [span("predict", "tiny", batch=5)]

    def test_tracing(self, telemetry: Telemetry, model: Any, capfd: Any) -> None:
        @tf.function
        def serve(data: Any) -> Any:
            return model(data)

        for function in (serve, tf.function(model)):
            expected = model.predict(ROWS, verbose=0)
            telemetry.forget_spans()
            found = function(tf.constant(ROWS))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
            function(tf.constant(ROWS))
        assert "AutoGraph" not in capfd.readouterr().err
        assert telemetry.spans() == []

    def test_building_saving_and_loading(self, telemetry: Telemetry, model: Any, tmp_path: Path) -> None:
        keras.Model(found := keras.Input((8,)), model(found)).build((None, 8))
        keras.models.clone_model(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        model.export(tmp_path / "saved")
        assert telemetry.spans() == []
        np.testing.assert_array_equal(loaded.predict(ROWS, verbose=0), model.predict(ROWS, verbose=0))
        assert telemetry.spans() == [span("predict", "tiny", batch=5)] * 2


def _owners() -> list[Any]:
    return list(keras.Model.__mro__)


def _attributes() -> dict[tuple[Any, str], Any]:
    return {(owner, name): value for owner in _owners() for name, value in vars(owner).items()}


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        def seen() -> Any:
            methods = [keras.Model.__call__, keras.Model.predict, keras.Model.fit, keras.Sequential.__call__]
            return [
                (each.__qualname__, each.__module__, each.__doc__, str(inspect.signature(each)))
                for each in methods
            ]

        before = seen()
        with Telemetry(frameworks=("keras",)):
            assert seen() == before

    def test_every_attribute_is_restored(self) -> None:
        before = _attributes()
        with Telemetry(frameworks=("keras",)):
            after = _attributes()
            changed = {key[1] for key, value in after.items() if value is not before.get(key)}
        after = _attributes()
        assert changed >= {"__call__", "predict", "predict_on_batch", "fit", "evaluate", "train_on_batch"}
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()

    def test_copies_and_pickles(self, telemetry: Telemetry, model: Any) -> None:
        expected = model.predict(ROWS, verbose=0)
        for each in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            np.testing.assert_array_equal(each.predict(ROWS, verbose=0), expected)
        assert pickle.loads(pickle.dumps(model.predict)).__func__ is keras.Model.predict
        assert len(telemetry.spans()) == 3

    def test_nothing_is_kept_alive(self, telemetry: Telemetry) -> None:
        model, rows = make_model(), tf.constant(ROWS)
        result = model(rows)
        otel_aimon.force_flush()
        watched = [weakref.ref(each) for each in (model, rows, result)]
        del model, rows, result
        gc.collect()
        assert [each() for each in watched] == [None] * 3

    def test_wrapped_methods_kept_from_before(self, model: Any) -> None:
        with Telemetry(frameworks=("keras",)) as telemetry:
            predict = model.predict
        assert predict(ROWS, verbose=0).shape == (5, 4)
        assert telemetry.spans() == []


BACKEND = """
    import json
    import keras, numpy as np
    from tests.support.telemetry import Telemetry

    rows, targets = np.ones((5, 8), "f"), np.ones((5, 4), "f")
    with Telemetry(frameworks=("keras", "jax", "torch")) as telemetry:
        model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4)], name="tiny")
        model.compile("sgd", "mse")
        model.fit(rows, targets, verbose=0, validation_data=(rows, targets))
        model.evaluate(rows, targets, verbose=0)
        model.train_on_batch(rows, targets)
        model.predict(rows, verbose=0)
        model.predict_on_batch(rows)
        around = keras.Sequential([keras.layers.Input((8,)), model], name="around")
        around.predict(rows, verbose=0)
        {more}
        spans = telemetry.spans()
        for each in spans:
            each["attributes"].pop("aimon.compile.duration", None)
        print(json.dumps([keras.backend.backend(), spans]))
"""
ALWAYS = [
    span("predict", "tiny", batch=5),
    span("predict_on_batch", "tiny", batch=5),
    span("predict", "around", batch=5),
]


def test_on_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    more = """
        import jax
        model(rows)
        around(rows, training=False)
        model(rows, training=True)
        variables = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
        jitted = jax.jit(lambda x: model.stateless_call(*variables, x)[0])
        jitted(rows), jitted(rows)
        jax.grad(lambda w: model.stateless_call(w, variables[1], rows)[0].sum())(variables[0])
        try:
            model(np.ones((2, 7), "f"))
        except ValueError:
            pass
    """
    found = scripts.run(tmp_path, BACKEND.replace("{more}", more.strip()), env={"KERAS_BACKEND": "jax"})
    assert found == [
        "jax",
        [
            *ALWAYS,
            span("call", "tiny", batch=5),
            span("call", "around", batch=5),
            span("call", "tiny", batch=2, device=None, error="ValueError"),
        ],
    ]


def test_on_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    more = """
        import torch
        model(rows)  # with gradients
        with torch.no_grad():
            model(rows)
            around(rows)
            model.eval()
            model(rows)
            torch.jit.trace(model, torch.ones(5, 8), check_trace=False)
            compiled = torch.compile(lambda x: model(x), backend="eager")
            compiled(torch.ones(5, 8)), compiled(torch.ones(5, 8))
    """
    found = scripts.run(
        tmp_path, BACKEND.replace("{more}", more.strip()), env={"KERAS_BACKEND": "torch"}, timeout=180
    )
    assert found == [
        "torch",
        [*ALWAYS, *(span("call", name, batch=5) for name in ("tiny", "around", "tiny"))],
    ]
