"""CatBoost, for real: each prediction is a request, and training is nobody's."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import types
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import catboost
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from catboost import (
    CatBoost,
    CatBoostClassifier,
    CatBoostError,
    CatBoostRanker,
    CatBoostRegressor,
    FeaturesData,
    Pool,
)
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import otel_aimon
from tests.frameworks.request_spans import request_span, served
from tests.support.telemetry import Telemetry, wait_until

IRIS, SPECIES = load_iris(return_X_y=True)
QUIETLY = {
    "iterations": 2,
    "depth": 1,
    "thread_count": 1,
    "allow_writing_files": False,
    "logging_level": "Silent",
    "bootstrap_type": "No",
}
METHODS = (
    *("predict", "predict_proba", "predict_log_proba", "virtual_ensembles_predict", "calc_leaf_indexes"),
    *("staged_predict", "staged_predict_proba", "staged_predict_log_proba"),
    *("fit", "score", "eval_metrics", "grid_search", "randomized_search", "select_features"),
    *("calc_feature_statistics", "plot_predictions"),
)
span = functools.partial(request_span, "catboost")


def instrumented(*frameworks: str) -> Telemetry:
    return Telemetry(frameworks=frameworks or ("catboost", "sklearn"))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with instrumented() as running:
        yield running


@pytest.fixture(scope="module")
def trained() -> CatBoostClassifier:
    return CatBoostClassifier(**QUIETLY).fit(IRIS, SPECIES)


@pytest.fixture
def model(trained: CatBoostClassifier) -> CatBoostClassifier:
    return trained.copy()


class TestRequests:
    def test_a_prediction_is_one_request(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        found = model.predict(IRIS)
        assert isinstance(found, np.ndarray) and len(found) == 150
        assert telemetry.spans() == [span("predict", "CatBoostClassifier", batch=150)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "catboost",
            "aimon.operation": "predict",
            "aimon.model.name": "CatBoostClassifier",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 150)

    @pytest.mark.parametrize(
        ("operation", "parameter"),
        [
            ("predict_proba", "X"),
            ("predict_log_proba", "data"),
            ("calc_leaf_indexes", "data"),
            ("virtual_ensembles_predict", "data"),
        ],
    )
    def test_every_method(self, telemetry: Telemetry, operation: str, parameter: str) -> None:
        binary = CatBoostClassifier(**QUIETLY).fit(IRIS, SPECIES > 0)
        more = {"virtual_ensembles_count": 1} if operation == "virtual_ensembles_predict" else {}
        getattr(binary, operation)(**{parameter: IRIS[:7]}, **more)
        assert telemetry.spans() == [span(operation, "CatBoostClassifier", batch=7)]
        assert telemetry.counts() == {("catboost", "CatBoostClassifier", operation): 1}

    def test_every_class(self, telemetry: Telemetry) -> None:
        class Mine(CatBoostRegressor):
            def predict(self, data: Any, *args: Any, **kwargs: Any) -> Any:
                return super().predict(data, *args, **kwargs) * 2

        CatBoost({**QUIETLY, "loss_function": "RMSE"}).fit(IRIS, SPECIES).predict(IRIS[:1])
        CatBoostRegressor(**QUIETLY).fit(IRIS, SPECIES).predict(data=IRIS[:2])
        CatBoostRanker(**QUIETLY).fit(IRIS, SPECIES, group_id=np.arange(150) // 10).predict(X=IRIS[:3])
        Mine(**QUIETLY).fit(IRIS, SPECIES).predict(IRIS[:4])
        assert telemetry.spans() == [
            span("predict", "CatBoost", batch=1),
            span("predict", "CatBoostRegressor", batch=2),
            span("predict", "CatBoostRanker", batch=3),
            span("predict", "Mine", batch=4),
        ]

    def test_a_pipeline_is_one_request(self, telemetry: Telemetry) -> None:
        make_pipeline(StandardScaler(), CatBoostClassifier(**QUIETLY)).fit(IRIS, SPECIES).predict(IRIS)
        name = "Pipeline(CatBoostClassifier)"
        assert telemetry.spans() == [request_span("sklearn", "predict", name, batch=150, device=None)]
        assert telemetry.counts() == {("sklearn", name, "predict"): 1}

    def test_a_stage_of_a_request_by_hand(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        with otel_aimon.inference("classify", model="flowers"):
            model.predict(IRIS)
        owner, stage = telemetry.spans()
        assert owner["name"] == "classify flowers"
        assert stage == span("predict", "CatBoostClassifier", batch=150, parent="classify flowers")
        assert telemetry.counts() == {("manual", "flowers", "classify"): 1}

    def test_requests_of_several_threads(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: model.predict(IRIS[:3]), range(40)))
        assert telemetry.counts() == {("catboost", "CatBoostClassifier", "predict"): 40}


class TestInputs:
    @pytest.mark.parametrize(
        ("data", "batch"),
        [
            (IRIS[:3].tolist(), 3),
            (list(IRIS[:4]), 4),
            (IRIS[0], 1),
            (IRIS[0].tolist(), 1),
            (list(IRIS[0]), 1),
            (pd.DataFrame(IRIS[:5]), 5),
            (pd.Series(IRIS[0]), 1),
            (scipy.sparse.csr_matrix(IRIS[:6]), 6),
            (Pool(IRIS[:7]), 7),
            (FeaturesData(IRIS[:8].astype(np.float32)), 8),
        ],
        ids="lists arrays array list scalars frame series sparse pool features".split(),
    )
    def test_the_batch_is_the_number_of_objects(
        self, telemetry: Telemetry, model: CatBoostClassifier, data: Any, batch: int
    ) -> None:
        model.predict(data)
        assert telemetry.spans() == [span("predict", "CatBoostClassifier", batch=batch)]

    def test_a_gpu_is_asked_for(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        with pytest.raises(CatBoostError):
            model.predict(IRIS, task_type="GPU")
        model.predict(IRIS, "Class", 0, 0, 1, None, "CPU")
        error = "_catboost.CatBoostError"
        assert telemetry.spans() == [
            span("predict", "CatBoostClassifier", batch=150, device="cuda", error=error),
            span("predict", "CatBoostClassifier", batch=150, device=None),
        ]


class TestStages:
    def test_the_iteration_is_the_request(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        stages = model.staged_predict_proba(IRIS)
        assert type(stages) is types.GeneratorType
        assert stages.__qualname__ == "CatBoost._staged_predict"
        assert telemetry.spans() == []
        with otel_aimon.inference("around", model="loop"):
            pass
        assert [each.shape for each in stages] == [(150, 3)] * 2
        assert [each["name"] for each in telemetry.spans()] == [
            "around loop",
            "staged_predict_proba CatBoostClassifier",
        ]
        assert telemetry.spans()[1] == span("staged_predict_proba", "CatBoostClassifier", batch=150)
        assert telemetry.counts()["catboost", "CatBoostClassifier", "staged_predict_proba"] == 1

    @pytest.mark.parametrize("operation", ["staged_predict", "staged_predict_log_proba"])
    def test_the_loop_body_is_the_users(
        self, telemetry: Telemetry, model: CatBoostClassifier, operation: str
    ) -> None:
        for _ in getattr(model, operation)(IRIS[:3]):
            model.predict(IRIS[:1])
        assert telemetry.spans() == [
            span(operation, "CatBoostClassifier", batch=3),
            *[span("predict", "CatBoostClassifier", batch=1)] * 2,
        ]

    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_one_that_is_left_is_cancelled(
        self, telemetry: Telemetry, model: CatBoostClassifier, how: str
    ) -> None:
        stages = model.staged_predict(IRIS)
        next(stages)
        if how == "close":
            stages.close()
        del stages
        gc.collect()
        wait_until(telemetry.spans)
        assert telemetry.spans() == [
            span("staged_predict", "CatBoostClassifier", batch=150, error="cancelled")
        ]

    def test_one_that_is_never_begun_is_none(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        model.staged_predict(IRIS)
        gc.collect()
        assert telemetry.spans() == []

    def test_errors(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        with pytest.raises(TypeError):
            model.staged_predict(IRIS, unheard_of=1)
        stages = model.staged_predict(IRIS[:, :2])
        with pytest.raises(CatBoostError):
            next(stages)
        assert telemetry.spans() == [
            span("staged_predict", "CatBoostClassifier", batch=150, error="_catboost.CatBoostError")
        ]

    def test_the_input_lives_no_longer_than_without_us(
        self, telemetry: Telemetry, model: CatBoostClassifier
    ) -> None:
        def begun(method: Any) -> bool:
            data = IRIS.tolist()
            row = weakref.ref(rows := Rows(data))
            stages = method(model, rows)
            del rows
            next(stages)
            return row() is None

        assert begun(CatBoost.staged_predict.__wrapped__) == begun(CatBoost.staged_predict) is True


class Rows(list):
    """A list that can be watched."""


class TestErrors:
    def test_not_fitted(self, telemetry: Telemetry) -> None:
        with pytest.raises(CatBoostError, match="no trained model"):
            CatBoostClassifier().predict(IRIS)
        error = "_catboost.CatBoostError"
        assert telemetry.spans() == [span("predict", "CatBoostClassifier", batch=150, error=error)]
        assert telemetry.counts() == {("catboost", "CatBoostClassifier", "predict", error): 1}

    def test_wrong_call(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        with pytest.raises(TypeError):
            model.predict()
        with pytest.raises(TypeError):
            CatBoostClassifier.predict()
        assert telemetry.spans() == [span("predict", "CatBoostClassifier", error="TypeError")]


class Predicts:
    """A callback of the user's that predicts while it trains."""

    def __init__(self, model: CatBoostClassifier) -> None:
        self.model = model

    def after_iteration(self, info: Any) -> bool:
        self.model.predict(IRIS)
        return True


class TestSilence:
    @pytest.mark.parametrize(
        "train",
        [
            lambda model: CatBoostClassifier(**QUIETLY, early_stopping_rounds=1).fit(
                *(IRIS, SPECIES), eval_set=(IRIS, SPECIES), callbacks=[Predicts(model)]
            ),
            lambda model: catboost.train(Pool(IRIS, SPECIES), {**QUIETLY, "loss_function": "MultiClass"}),
            lambda model: catboost.cv(
                Pool(IRIS, SPECIES), {**QUIETLY, "loss_function": "MultiClass"}, fold_count=2
            ),
            lambda model: CatBoostClassifier(**QUIETLY).grid_search(
                {"depth": [1, 2]}, IRIS, SPECIES, cv=2, verbose=False
            ),
            lambda model: GridSearchCV(CatBoostClassifier(**QUIETLY), {"depth": [1, 2]}, cv=2).fit(
                IRIS, SPECIES
            ),
            lambda model: model.score(IRIS, SPECIES),
            lambda model: model.eval_metrics(Pool(IRIS, SPECIES), ["MultiClass"]),
            lambda model: (
                CatBoostRanker(**QUIETLY)
                .fit(IRIS, SPECIES, group_id=np.arange(150) // 10)
                .score(IRIS, SPECIES, group_id=np.arange(150) // 10)
            ),
        ],
        ids="fit train cv grid_search search score metrics ranker".split(),
    )
    def test_training_and_grading(
        self, telemetry: Telemetry, model: CatBoostClassifier, train: Any, tmp_path: Any, monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        train(model)
        assert telemetry.spans() == []
        assert telemetry.counts() == {}


def _attributes() -> dict[tuple[Any, str], Any]:
    owners = [each for each in vars(catboost.core).values() if isinstance(each, type)]
    return {
        (owner, name): value
        for owner in (*owners, catboost, catboost.core)
        for name, value in vars(owner).items()
        if name not in {"__dict__", "__weakref__", "__builtins__"}
    }


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        def seen() -> Any:
            return [
                (each.__qualname__, each.__doc__, str(inspect.signature(each)), inspect.isfunction(each))
                for cls in (CatBoost, CatBoostClassifier, CatBoostRegressor, CatBoostRanker)
                for each in (getattr(cls, name, None) for name in METHODS)
                if each is not None
            ] + [str(inspect.signature(catboost.train))]

        before = seen()
        with instrumented():
            assert seen() == before
            assert pickle.loads(pickle.dumps(catboost.train)) is catboost.train is catboost.core.train

    def test_models_and_bound_methods_pickle(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        expected = model.predict(IRIS)
        bound = pickle.loads(pickle.dumps(model.predict))
        copies = [pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model), bound.__self__]
        assert all((each.predict(IRIS) == expected).all() for each in copies)
        assert bound.__func__ is CatBoostClassifier.predict
        assert telemetry.spans() == [span("predict", "CatBoostClassifier", batch=150)] * 5

    def test_no_model_is_kept_alive(self, telemetry: Telemetry, model: CatBoostClassifier) -> None:
        mine, data = model.copy(), Pool(IRIS)
        mine.predict(data)
        list(mine.staged_predict(data))
        otel_aimon.force_flush()
        watched = [weakref.ref(mine), weakref.ref(data)]
        del mine, data
        gc.collect()
        assert [each() for each in watched] == [None, None]

    def test_every_attribute_is_restored(self) -> None:
        before = _attributes()
        with instrumented():
            changed = {
                f"{owner.__name__}.{name}"
                for (owner, name), value in _attributes().items()
                if value is not before[owner, name]
            }
        defined = {
            f"{cls.__name__}.{name}"
            for cls in (CatBoost, CatBoostClassifier, CatBoostRegressor, CatBoostRanker)
            for name in METHODS
            if name in vars(cls)
        }
        functions = {
            f"{module}.{name}"
            for module in ("catboost", "catboost.core")
            for name in ("train", "cv", "sample_gaussian_process")
        }
        assert changed == defined | functions
        after = _attributes()
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()

    def test_a_method_and_a_generator_kept_from_before(self, model: CatBoostClassifier) -> None:
        with instrumented() as telemetry:
            kept, stages = model.predict, model.staged_predict(IRIS)
            next(stages)
            kept(IRIS)
        assert (kept(IRIS) == model.predict(IRIS)).all()
        assert len(list(stages)) == 1
        assert [each["name"] for each in telemetry.spans()] == ["predict CatBoostClassifier"]


def test_a_service_without_a_line_changed(tmp_path: Any) -> None:
    spans, counted, errors = served(
        "import catboost\n"
        "from sklearn.datasets import load_iris\n"
        "rows, labels = load_iris(return_X_y=True)\n"
        "model = catboost.CatBoostClassifier(iterations=2, verbose=0, allow_writing_files=False).fit(rows, labels)\n"
        "model.predict(rows[:7])\n"
        "for stage in model.staged_predict(rows[:5]): pass\n"
    )
    assert errors == ""
    assert spans == [("predict CatBoostClassifier", 7), ("staged_predict CatBoostClassifier", 5)]
    assert counted == {
        ("catboost", "predict", "CatBoostClassifier"): 1,
        ("catboost", "staged_predict", "CatBoostClassifier"): 1,
    }
