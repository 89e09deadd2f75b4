"""LightGBM, for real: the outermost call is the request, and training is nobody's."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from lightgbm import Booster, Dataset, LGBMClassifier, LGBMRanker, LGBMRegressor
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import otel_aimon
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS
from tests.frameworks.request_spans import request_span, served
from tests.support.telemetry import Telemetry

pytestmark = [
    # Feature names that an array does not have: scikit-learn warns of what LightGBM does itself.
    pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning"),
    pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated"),
]

IRIS, SPECIES = load_iris(return_X_y=True)
span = functools.partial(request_span, "lightgbm")


def instrumented(*frameworks: str) -> Telemetry:
    return Telemetry(frameworks=frameworks or ("lightgbm", "sklearn"))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with instrumented() as running:
        yield running


QUIETLY = {"verbose": -1, "num_leaves": 3, "num_threads": 1}


def classifier(cls: type = LGBMClassifier, **parameters: Any) -> Any:
    return cls(n_estimators=2, **QUIETLY, **parameters).fit(IRIS, SPECIES)


@pytest.fixture
def data() -> Dataset:
    return Dataset(IRIS, SPECIES, free_raw_data=False)


@pytest.fixture(scope="module")
def booster() -> Booster:
    return lightgbm.train({"objective": "multiclass", "num_class": 3, **QUIETLY}, Dataset(IRIS, SPECIES), 2)


class TestRequests:
    def test_a_prediction_is_one_request(self, telemetry: Telemetry) -> None:
        found = classifier().predict(IRIS)
        assert isinstance(found, np.ndarray) and found.shape == (150,)
        assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=150)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "lightgbm",
            "aimon.operation": "predict",
            "aimon.model.name": "LGBMClassifier",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 150)
        assert "aimon.inference.stage.duration" not in metrics

    @pytest.mark.parametrize(
        ("estimator", "operation", "model"),
        [
            (LGBMClassifier(n_estimators=2, **QUIETLY), "predict_proba", "LGBMClassifier"),
            (LGBMRegressor(n_estimators=2, **QUIETLY), "predict", "LGBMRegressor"),
        ],
    )
    def test_every_kind_of_estimator(
        self, telemetry: Telemetry, estimator: Any, operation: str, model: str
    ) -> None:
        getattr(clone(estimator).fit(IRIS, SPECIES), operation)(X=IRIS[:7])
        assert telemetry.spans() == [span(operation, model, batch=7)]
        assert telemetry.counts() == {("lightgbm", model, operation): 1}

    def test_a_ranker(self, telemetry: Telemetry) -> None:
        ranker = LGBMRanker(n_estimators=2, **QUIETLY).fit(IRIS, SPECIES, group=[10] * 15)
        ranker.predict(IRIS[:4])
        assert telemetry.spans() == [span("predict", "LGBMRanker", batch=4)]

    def test_a_booster(self, telemetry: Telemetry, booster: Booster) -> None:
        assert booster.predict(IRIS).shape == (150, 3)
        assert telemetry.spans() == [span("predict", "Booster", batch=150)]
        assert telemetry.counts() == {("lightgbm", "Booster", "predict"): 1}

    @pytest.mark.parametrize("output", ["pred_contrib", "pred_leaf"])
    def test_other_outputs_are_other_operations(
        self, telemetry: Telemetry, booster: Booster, output: str
    ) -> None:
        booster.predict(IRIS[:3], **{output: True})
        classifier().predict(IRIS[:4], **{output: True})
        assert telemetry.spans() == [
            span(output, "Booster", batch=3),
            span(output, "LGBMClassifier", batch=4),
        ]

    def test_a_pipeline_is_one_request(self, telemetry: Telemetry) -> None:
        model = make_pipeline(StandardScaler(), LGBMClassifier(n_estimators=2, **QUIETLY)).fit(IRIS, SPECIES)
        model.predict_proba(IRIS)
        name = "Pipeline(LGBMClassifier)"
        assert telemetry.spans() == [request_span("sklearn", "predict_proba", name, batch=150, device=None)]
        assert telemetry.counts() == {("sklearn", name, "predict_proba"): 1}

    def test_a_stage_of_a_request_by_hand(self, telemetry: Telemetry) -> None:
        model = classifier()
        with otel_aimon.inference("classify", model="flowers"):
            model.predict(IRIS)
        owner, stage = telemetry.spans()
        assert owner["name"] == "classify flowers"
        assert stage == span("predict", "LGBMClassifier", batch=150, parent="classify flowers")
        assert telemetry.counts() == {("manual", "flowers", "classify"): 1}

    def test_without_scikit_learns_instrumentation(self) -> None:
        with instrumented("lightgbm") as telemetry:
            classifier().predict(IRIS)
        assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=150)]

    def test_left_out_its_estimators_are_like_any_others(self) -> None:
        class Mine(LGBMClassifier):
            def predict(self, X: Any) -> Any:
                return super().predict(X)

        with instrumented("sklearn") as telemetry:
            classifier().predict(IRIS)
            classifier(Mine).predict(IRIS)
        assert telemetry.spans() == [
            request_span("sklearn", "predict", "LGBMClassifier", batch=150, device=None),
            request_span("sklearn", "predict", "Mine", batch=150, device=None),
        ]

    def test_a_subclass_of_the_users_own(self, telemetry: Telemetry) -> None:
        class Renamed(LGBMClassifier):
            pass

        class Twice(LGBMClassifier):
            def predict(self, X: Any) -> Any:
                super().predict(X)
                return super().predict(X)

        classifier(Renamed).predict(IRIS)
        classifier(Twice).predict(IRIS)
        assert telemetry.spans() == [
            span("predict", "Renamed", batch=150),
            span("predict", "Twice", batch=150, device=None),
        ]
        assert telemetry.counts() == {
            ("lightgbm", "Renamed", "predict"): 1,
            ("lightgbm", "Twice", "predict"): 1,
        }

    def test_requests_of_several_threads(self, telemetry: Telemetry) -> None:
        model = classifier()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: model.predict(IRIS[:3]), range(40)))
        assert telemetry.counts() == {("lightgbm", "LGBMClassifier", "predict"): 40}
        assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=3)] * 40


class TestInputs:
    @pytest.mark.parametrize(
        ("data", "batch"),
        [
            (IRIS[:3].tolist(), 3),
            (tuple(map(tuple, IRIS[:2])), 2),
            (pd.DataFrame(IRIS[:4]), 4),
            (scipy.sparse.csr_matrix(IRIS[:5]), 5),
            (scipy.sparse.csc_matrix(IRIS[:6]), 6),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_the_batch_is_the_number_of_rows(self, telemetry: Telemetry, data: Any, batch: int) -> None:
        classifier().predict(data)
        assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=batch)]

    def test_a_batch_that_no_one_knows_is_absent(self, telemetry: Telemetry) -> None:
        class Rows:
            """Only LightGBM may turn it into an array."""

            shape = (3, 4)

            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                return IRIS[:3] if dtype is None else IRIS[:3].astype(dtype)

        classifier().predict(Rows())
        assert telemetry.spans() == [span("predict", "LGBMClassifier")]

    def test_a_file(self, telemetry: Telemetry, booster: Booster, tmp_path: Any) -> None:
        file = tmp_path / "rows.csv"
        np.savetxt(file, np.hstack([SPECIES[:5, None], IRIS[:5]]), delimiter=",")
        assert booster.predict(str(file)).shape == (5, 3)
        assert telemetry.spans() == [span("predict", "Booster")]


class TestErrors:
    def test_not_fitted(self, telemetry: Telemetry) -> None:
        with pytest.raises(NotFittedError) as raised:
            LGBMClassifier().predict(IRIS)
        error = f"{type(raised.value).__module__}.{type(raised.value).__qualname__}"
        assert error.endswith("NotFittedError")
        assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=150, error=error)]
        assert telemetry.counts() == {("lightgbm", "LGBMClassifier", "predict", error): 1}

    def test_wrong_input(self, telemetry: Telemetry, booster: Booster) -> None:
        with pytest.raises(lightgbm.basic.LightGBMError, match="number of features"):
            booster.predict(IRIS[:, :2])
        with pytest.raises(ValueError, match="Expected 2D array"):
            classifier().predict(IRIS[0])
        assert telemetry.spans() == [
            span("predict", "Booster", batch=150, error="lightgbm.basic.LightGBMError"),
            span("predict", "LGBMClassifier", batch=4, error="ValueError"),
        ]

    def test_wrong_call(self, telemetry: Telemetry) -> None:
        with pytest.raises(TypeError):
            classifier().predict()
        with pytest.raises(TypeError):
            LGBMClassifier.predict()
        assert telemetry.spans() == [span("predict", "LGBMClassifier", error="TypeError")]


def predicts(environment: Any) -> None:
    """A callback of the user's that looks how far training is."""
    if isinstance(environment.model, Booster):
        environment.model.predict(IRIS)


def least_squares(found: Any, data: Any) -> Any:
    return found - data.get_label(), np.ones_like(found)


def metric(found: Any, data: Any) -> Any:
    return "mine", 1.0, True


class TestSilence:
    @pytest.mark.parametrize(
        "train",
        [
            lambda data: LGBMClassifier(n_estimators=3, **QUIETLY).fit(
                *(IRIS, SPECIES),
                eval_set=[(IRIS, SPECIES)],
                eval_metric=lambda truth, found: ("mine", 1.0, True),
                callbacks=[lightgbm.early_stopping(1, verbose=False), predicts],
            ),
            lambda data: LGBMRegressor(
                n_estimators=2, objective=lambda truth, found: (found - truth, np.ones_like(found)), **QUIETLY
            ).fit(IRIS, SPECIES),
            lambda data: lightgbm.train({"objective": least_squares, **QUIETLY}, data, 2),
            lambda data: lightgbm.train(QUIETLY, data, 2, valid_sets=[data], feval=metric),
            lambda data: lightgbm.train(QUIETLY, data, 2, callbacks=[predicts]),
            lambda data: lightgbm.cv(QUIETLY, data, 2, nfold=2, stratified=False, feval=metric),
            lambda data: lightgbm.train(QUIETLY, data, 2, init_model=lightgbm.train(QUIETLY, data, 1)),
            lambda data: lightgbm.train(QUIETLY, data, 2).refit(IRIS, SPECIES),
            lambda data: GridSearchCV(
                LGBMClassifier(n_estimators=1, **QUIETLY), {"max_depth": [1, 2]}, cv=2
            ).fit(IRIS, SPECIES),
        ],
        ids="fit objective train metric callback cv continued refit search".split(),
    )
    def test_training(self, telemetry: Telemetry, train: Any, data: Dataset) -> None:
        train(data)
        assert telemetry.spans() == []
        assert telemetry.counts() == {}

    def test_a_training_loop_of_the_users_own(self, telemetry: Telemetry, data: Dataset) -> None:
        model = Booster(QUIETLY, data)

        def objective(found: Any, data: Any) -> Any:
            if model.current_iteration():
                model.predict(IRIS)
            return least_squares(found, data)

        for _ in range(2):
            model.update(fobj=objective)
            model.eval_train(metric)
        assert telemetry.spans() == []

    def test_grading(self, telemetry: Telemetry) -> None:
        model = classifier()
        assert model.score(IRIS, SPECIES) > 0.8
        cross_val_score(model, IRIS, SPECIES, cv=2)
        assert telemetry.spans() == []

    def test_a_failed_fit_leaves_no_silence_behind(self, telemetry: Telemetry) -> None:
        model = classifier()
        with pytest.raises(ValueError):
            LGBMClassifier(**QUIETLY).fit(IRIS, SPECIES[:3])
        model.predict(IRIS)
        assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=150)]


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        methods = [Booster.predict, LGBMClassifier.predict, LGBMClassifier.fit, lightgbm.train]
        before = [(each.__qualname__, each.__doc__, str(inspect.signature(each))) for each in methods]
        with instrumented():
            wrapped = [Booster.predict, LGBMClassifier.predict, LGBMClassifier.fit, lightgbm.train]
            assert all(new is not old for new, old in zip(wrapped, methods, strict=True))
            assert [
                (each.__qualname__, each.__doc__, str(inspect.signature(each))) for each in wrapped
            ] == before
            assert inspect.isfunction(Booster.predict)
            assert pickle.loads(pickle.dumps(lightgbm.train)) is lightgbm.train is lightgbm.engine.train

    def test_a_pickle_is_the_same_as_without_us(self) -> None:
        model = classifier()
        before = pickle.dumps(model), pickle.dumps(model.predict), pickle.dumps(model.booster_)
        with instrumented() as telemetry:
            after = pickle.dumps(model), pickle.dumps(model.predict), pickle.dumps(model.booster_)
            assert after == before
            expected = model.predict(IRIS)
            copies = [pickle.loads(after[0]), copy.copy(model), copy.deepcopy(model)]
            assert all((each.predict(IRIS) == expected).all() for each in copies)
            assert pickle.loads(after[1]).__func__ is LGBMClassifier.predict
            assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=150)] * 4

    def test_parameters_and_representation(self) -> None:
        model = LGBMClassifier(n_estimators=3)
        seen = [dir(model), repr(model), model.get_params(), vars(model).keys()]
        with instrumented():
            assert [dir(model), repr(model), model.get_params(), vars(model).keys()] == seen
            assert clone(model).get_params()["n_estimators"] == 3

    def test_no_model_is_kept_alive(self, telemetry: Telemetry, booster: Booster) -> None:
        model, mine, data = classifier(), copy.deepcopy(booster), IRIS.copy()
        model.predict(IRIS)
        mine.predict(data)
        otel_aimon.force_flush()
        watched = [weakref.ref(each) for each in (model, mine, data)]
        del model, mine, data
        gc.collect()
        assert [each() for each in watched] == [None] * 3


def _attributes() -> dict[tuple[Any, str], Any]:
    from lightgbm import basic, engine, sklearn

    found = (value for module in (basic, sklearn) for value in vars(module).values())
    owners = {each for each in found if isinstance(each, type) and each.__module__.startswith("lightgbm")}
    ignored = {"__abstractmethods__", "_abc_impl", "__dict__", "__weakref__"}
    return {
        (owner, name): value
        for owner in (*owners, lightgbm, engine, sklearn)
        for name, value in vars(owner).items()
        if name not in ignored
    }


HOOKED = {
    *(f"Booster.{name}" for name in ("predict", "update", "refit", "eval", "eval_train", "eval_valid")),
    *("LGBMModel.fit", "LGBMModel.predict", "LGBMRegressor.fit", "LGBMRanker.fit"),
    *(f"LGBMClassifier.{name}" for name in ("fit", "predict", "predict_proba")),
    *(f"{module}.train" for module in ("lightgbm", "lightgbm.engine", "lightgbm.sklearn")),
    *("lightgbm.cv", "lightgbm.engine.cv"),
}


class TestUninstrument:
    @pytest.mark.parametrize("frameworks", [("lightgbm",), ("sklearn",), ("lightgbm", "sklearn")])
    def test_every_attribute_is_restored(self, frameworks: tuple[str, ...]) -> None:
        before = _attributes()
        with instrumented(*frameworks):
            changed = {key for key, value in _attributes().items() if value is not before[key]}
            hooked = {f"{owner.__name__}.{name}" for owner, name in changed}
            assert hooked == HOOKED or "lightgbm" not in frameworks
        after = _attributes()
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()

    @pytest.mark.parametrize("first", ["sklearn", "lightgbm"])
    @pytest.mark.parametrize("undone_first", ["sklearn", "lightgbm"])
    def test_beside_scikit_learn_in_any_order(self, first: str, undone_first: str) -> None:
        names = ["sklearn", "lightgbm"]
        before = _attributes()
        with instrumented("sklearn", "lightgbm") as telemetry:
            for name in names:
                FRAMEWORK_INSTRUMENTORS[name]().uninstrument()
            for name in names if first == names[0] else names[::-1]:
                FRAMEWORK_INSTRUMENTORS[name]().instrument()
            classifier().predict(IRIS)
            FRAMEWORK_INSTRUMENTORS[undone_first]().uninstrument()
        assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=150)]
        assert {key for key, value in _attributes().items() if value is not before[key]} == set()

    def test_again(self) -> None:
        model = classifier()
        for _ in range(2):
            with instrumented() as telemetry:
                model.predict(IRIS)
                assert telemetry.spans() == [span("predict", "LGBMClassifier", batch=150)]

    def test_a_method_kept_from_before_is_silent_after(self) -> None:
        model = classifier()
        with instrumented() as telemetry:
            kept = model.predict
            kept(IRIS)
        assert (kept(IRIS) == model.predict(IRIS)).all()
        assert len(telemetry.spans()) == 1

    def test_while_others_predict(self) -> None:
        model = classifier()
        stop = threading.Event()
        expected = model.predict(IRIS[:2]).tolist()
        wrong: list[Any] = []

        def serve() -> None:
            while not stop.is_set():
                found = model.predict(IRIS[:2]).tolist()
                if found != expected:
                    wrong.append(found)

        thread = threading.Thread(target=serve)
        thread.start()
        for _ in range(3):
            with instrumented():
                model.predict(IRIS)
        stop.set()
        thread.join()
        assert wrong == []


def test_a_service_without_a_line_changed() -> None:
    spans, counted, errors = served(
        "import lightgbm\n"
        "from sklearn.datasets import load_iris\n"
        "rows, labels = load_iris(return_X_y=True)\n"
        "model = lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(rows, labels)\n"
        "model.predict(rows[:7])\n"
        "model.booster_.predict(rows[:5])\n"
    )
    assert errors == ""
    assert spans == [("predict Booster", 5), ("predict LGBMClassifier", 7)]
    assert counted == {("lightgbm", "predict", "Booster"): 1, ("lightgbm", "predict", "LGBMClassifier"): 1}
