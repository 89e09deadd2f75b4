"""XGBoost, for real: the outermost call is the request, and training is nobody's."""

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

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import xgboost
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import Booster, DMatrix, XGBClassifier, XGBRanker, XGBRegressor, XGBRFClassifier

import otel_aimon
from otel_aimon.entrypoints import FRAMEWORK_INSTRUMENTORS
from otel_aimon.instrumentation import xgboost as ours
from tests.frameworks.request_spans import request_span, served
from tests.support.telemetry import Telemetry

pytestmark = [
    # XGBoost 2.1 with scikit-learn 1.6 and newer.
    pytest.mark.filterwarnings("ignore:.*__sklearn_tags__:DeprecationWarning"),
]

IRIS, SPECIES = load_iris(return_X_y=True)
span = functools.partial(request_span, "xgboost")


def instrumented(*frameworks: str) -> Telemetry:
    return Telemetry(frameworks=frameworks or ("xgboost", "sklearn"))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with instrumented() as running:
        yield running


def classifier(cls: type = XGBClassifier, **parameters: Any) -> Any:
    return cls(n_estimators=2, max_depth=2, **parameters).fit(IRIS, SPECIES)


@pytest.fixture(scope="module")
def booster() -> Booster:
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 2}
    return xgboost.train(parameters, DMatrix(IRIS, SPECIES), num_boost_round=2)


class TestRequests:
    def test_a_prediction_is_one_request(self, telemetry: Telemetry) -> None:
        found = classifier().predict(IRIS)
        assert isinstance(found, np.ndarray) and found.shape == (150,)
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=150)]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "xgboost",
            "aimon.operation": "predict",
            "aimon.model.name": "XGBClassifier",
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 150)
        assert "aimon.inference.stage.duration" not in metrics

    @pytest.mark.parametrize(
        ("estimator", "operation", "model"),
        [
            (XGBClassifier(n_estimators=2), "predict_proba", "XGBClassifier"),
            (XGBClassifier(n_estimators=2), "apply", "XGBClassifier"),
            (XGBRegressor(n_estimators=2), "predict", "XGBRegressor"),
        ],
    )
    def test_every_kind_of_estimator(
        self, telemetry: Telemetry, estimator: Any, operation: str, model: str
    ) -> None:
        getattr(clone(estimator).fit(IRIS, SPECIES), operation)(X=IRIS[:7])
        assert telemetry.spans() == [span(operation, model, batch=7)]
        assert telemetry.counts() == {("xgboost", model, operation): 1}

    @pytest.mark.filterwarnings("ignore:.*gblinear.* is deprecated:UserWarning")
    def test_a_linear_model_which_makes_a_matrix_first(self, telemetry: Telemetry) -> None:
        XGBClassifier(n_estimators=2, booster="gblinear").fit(IRIS, SPECIES).predict(IRIS[:6])
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=6)]

    @pytest.mark.filterwarnings("ignore:.*XGBRF.* is deprecated:FutureWarning")
    def test_a_random_forest(self, telemetry: Telemetry) -> None:
        XGBRFClassifier(n_estimators=2).fit(IRIS, SPECIES).predict(IRIS[:5])
        assert telemetry.spans() == [span("predict", "XGBRFClassifier", batch=5)]

    def test_a_ranker(self, telemetry: Telemetry) -> None:
        ranker = XGBRanker(n_estimators=2).fit(IRIS, SPECIES, qid=np.arange(150) // 10)
        ranker.predict(IRIS[:4])
        assert telemetry.spans() == [span("predict", "XGBRanker", batch=4)]

    def test_a_booster(self, telemetry: Telemetry, booster: Booster) -> None:
        matrix = DMatrix(IRIS)
        assert (booster.predict(matrix) == booster.inplace_predict(IRIS)).all()
        assert telemetry.spans() == [span("predict", "Booster", batch=150)] * 2
        assert telemetry.counts() == {("xgboost", "Booster", "predict"): 2}

    @pytest.mark.parametrize("output", ["pred_contribs", "pred_interactions", "pred_leaf"])
    def test_other_outputs_are_other_operations(
        self, telemetry: Telemetry, booster: Booster, output: str
    ) -> None:
        booster.predict(DMatrix(IRIS[:3]), **{output: True})
        assert telemetry.spans() == [span(output, "Booster", batch=3)]

    def test_a_pipeline_is_one_request(self, telemetry: Telemetry) -> None:
        model = make_pipeline(StandardScaler(), XGBClassifier(n_estimators=2)).fit(IRIS, SPECIES)
        model.predict_proba(IRIS)
        name = "Pipeline(XGBClassifier)"
        assert telemetry.spans() == [request_span("sklearn", "predict_proba", name, batch=150, device=None)]
        assert telemetry.counts() == {("sklearn", name, "predict_proba"): 1}

    def test_a_stage_of_a_request_by_hand(self, telemetry: Telemetry) -> None:
        model = classifier()
        with otel_aimon.inference("classify", model="flowers"):
            model.predict(IRIS)
        owner, stage = telemetry.spans()
        assert owner["name"] == "classify flowers"
        assert stage == span("predict", "XGBClassifier", batch=150, parent="classify flowers")
        assert telemetry.counts() == {("manual", "flowers", "classify"): 1}

    def test_without_scikit_learns_instrumentation(self) -> None:
        with instrumented("xgboost") as telemetry:
            classifier().predict(IRIS)
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=150)]

    def test_left_out_its_estimators_are_like_any_others(self) -> None:
        class Mine(XGBClassifier):
            def predict(self, X: Any) -> Any:
                return super().predict(X)

        with instrumented("sklearn") as telemetry:
            classifier().predict(IRIS)
            classifier(Mine).predict(IRIS)
        assert telemetry.spans() == [
            request_span("sklearn", "predict", "XGBClassifier", batch=150, device=None),
            request_span("sklearn", "predict", "Mine", batch=150, device=None),
        ]

    def test_a_subclass_of_the_users_own(self, telemetry: Telemetry) -> None:
        class Renamed(XGBClassifier):
            pass

        class Twice(XGBClassifier):
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
            ("xgboost", "Renamed", "predict"): 1,
            ("xgboost", "Twice", "predict"): 1,
        }

    def test_requests_of_several_threads(self, telemetry: Telemetry) -> None:
        model = classifier()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: model.predict(IRIS[:3]), range(40)))
        assert telemetry.counts() == {("xgboost", "XGBClassifier", "predict"): 40}
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=3)] * 40


class TestInputs:
    @pytest.mark.parametrize(
        ("data", "batch"),
        [
            (IRIS[:3].tolist(), 3),
            (tuple(map(tuple, IRIS[:2])), 2),
            (pd.DataFrame(IRIS[:4]), 4),
            (scipy.sparse.csr_matrix(IRIS[:5]), 5),
            (scipy.sparse.coo_matrix(IRIS[:6]), 6),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_the_batch_is_the_number_of_rows(self, telemetry: Telemetry, data: Any, batch: int) -> None:
        classifier().predict(data)
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=batch)]

    def test_a_batch_that_no_one_knows_is_absent(self, telemetry: Telemetry) -> None:
        class Rows:
            """Only XGBoost may turn it into an array."""

            shape = (3, 4)

            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                return IRIS[:3] if dtype is None else IRIS[:3].astype(dtype)

        classifier().predict(Rows())
        assert telemetry.spans() == [span("predict", "XGBClassifier")]

    def test_a_matrix_of_quantiles(self, telemetry: Telemetry, booster: Booster) -> None:
        booster.predict(xgboost.QuantileDMatrix(IRIS[:8]))
        assert telemetry.spans() == [span("predict", "Booster", batch=8)]


class TestDevice:
    def test_a_booster_is_asked_once(
        self, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, booster: Booster
    ) -> None:
        asked: list[Any] = []
        original = Booster.save_config

        def save_config(self: Booster) -> str:
            asked.append(self)
            return original(self).replace('"device":"cpu"', f'"device":"cuda:{len(asked)}"')

        monkeypatch.setattr(Booster, "save_config", save_config)
        mine = copy.copy(booster)
        for _ in range(2):
            mine.inplace_predict(IRIS)
        mine.set_param({"nthread": 1})
        mine.inplace_predict(IRIS)
        assert [each["attributes"]["aimon.device"] for each in telemetry.spans()] == [
            "cuda:1",
            "cuda:1",
            "cuda:2",
        ]


class TestErrors:
    def test_not_fitted(self, telemetry: Telemetry) -> None:
        with pytest.raises(NotFittedError):
            XGBClassifier().predict(IRIS)
        error = "sklearn.exceptions.NotFittedError"
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=150, device=None, error=error)]
        assert telemetry.counts() == {("xgboost", "XGBClassifier", "predict", error): 1}

    def test_wrong_input(self, telemetry: Telemetry, booster: Booster) -> None:
        with pytest.raises(ValueError, match="Feature shape mismatch") as raised:
            classifier().predict(IRIS[:, :2])
        assert type(raised.value) is ValueError
        with pytest.raises(TypeError, match="DMatrix"):
            booster.predict(IRIS)
        assert telemetry.spans() == [
            span("predict", "XGBClassifier", batch=150, device=None, error="ValueError"),
            span("predict", "Booster", device=None, error="TypeError"),
        ]

    def test_wrong_call(self, telemetry: Telemetry) -> None:
        with pytest.raises(TypeError):
            classifier().predict()
        with pytest.raises(TypeError):
            XGBClassifier.predict()
        assert telemetry.spans() == [span("predict", "XGBClassifier", device=None, error="TypeError")]


def custom_objective(*arguments: Any) -> Any:
    """Least squares, for ``train`` and for estimators alike."""
    prediction, truth = arguments[-2:] if isinstance(arguments[1], np.ndarray) else arguments
    truth = truth.get_label() if isinstance(truth, DMatrix) else truth
    return prediction.reshape(-1) - truth, np.ones_like(truth)


class Predicts(xgboost.callback.TrainingCallback):
    """A callback of the user's that looks how far training is."""

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        if isinstance(model, Booster):
            model.predict(DMatrix(IRIS))
        return False


class TestSilence:
    @pytest.mark.parametrize(
        "train",
        [
            lambda data: XGBClassifier(n_estimators=3, early_stopping_rounds=1).fit(
                IRIS, SPECIES, eval_set=[(IRIS, SPECIES)], verbose=False
            ),
            lambda data: XGBRegressor(
                n_estimators=2, objective=lambda truth, found: (found - truth, found * 0 + 1)
            ).fit(IRIS, SPECIES),
            lambda data: XGBRegressor(
                n_estimators=2, eval_metric=lambda truth, found: float(abs(found - truth).mean())
            ).fit(IRIS, SPECIES, eval_set=[(IRIS, SPECIES)], verbose=False),
            lambda data: xgboost.train({}, data, 2, obj=lambda found, data: custom_objective(found, data)),
            lambda data: xgboost.train(
                {},
                data,
                2,
                evals=[(data, "train")],
                custom_metric=lambda found, data: ("mine", 1.0),
                verbose_eval=False,
            ),
            lambda data: xgboost.train({}, data, 2, callbacks=[Predicts()]),
            lambda data: xgboost.cv({}, data, 2, nfold=2, custom_metric=lambda found, data: ("mine", 1.0)),
            lambda data: GridSearchCV(XGBClassifier(n_estimators=1), {"max_depth": [1, 2]}, cv=2).fit(
                IRIS, SPECIES
            ),
        ],
        ids=["early stopping", "objective", "metric", "train", "evals", "callback", "cv", "search"],
    )
    def test_training(self, telemetry: Telemetry, train: Any) -> None:
        train(DMatrix(IRIS, SPECIES))
        assert telemetry.spans() == []
        assert telemetry.counts() == {}

    def test_a_training_loop_of_the_users_own(self, telemetry: Telemetry) -> None:
        data = DMatrix(IRIS, SPECIES)
        model = Booster({}, [data])
        for iteration in range(2):
            found = model.predict(data, output_margin=True, training=True)
            gradient, hessian = found - SPECIES, np.ones_like(found)
            if hasattr(model, "boost") and "iteration" in inspect.signature(model.boost).parameters:
                model.boost(data, iteration=iteration, grad=gradient, hess=hessian)
            else:
                model.boost(data, list(gradient), list(hessian))
            model.eval(data)
        assert telemetry.spans() == []

    def test_grading(self, telemetry: Telemetry) -> None:
        model = classifier()
        assert model.score(IRIS, SPECIES) > 0.8
        cross_val_score(model, IRIS, SPECIES, cv=2)
        assert telemetry.spans() == []

    def test_a_failed_fit_leaves_no_silence_behind(self, telemetry: Telemetry) -> None:
        model = classifier()
        with pytest.raises(ValueError):
            XGBClassifier().fit(IRIS, SPECIES[:3])
        model.predict(IRIS)
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=150)]


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        methods = [Booster.predict, Booster.inplace_predict, XGBClassifier.predict, XGBClassifier.fit]
        before = [(each.__qualname__, each.__doc__, str(inspect.signature(each))) for each in methods]
        with instrumented():
            wrapped = [Booster.predict, Booster.inplace_predict, XGBClassifier.predict, XGBClassifier.fit]
            assert all(new is not old for new, old in zip(wrapped, methods, strict=True))
            assert [
                (each.__qualname__, each.__doc__, str(inspect.signature(each))) for each in wrapped
            ] == before
            assert inspect.isfunction(Booster.predict)

    def test_a_pickle_is_the_same_as_without_us(self) -> None:
        model = classifier()
        before = pickle.dumps(model), pickle.dumps(model.predict), pickle.dumps(model.get_booster())
        with instrumented() as telemetry:
            after = pickle.dumps(model), pickle.dumps(model.predict), pickle.dumps(model.get_booster())
            assert after == before
            expected = model.predict(IRIS)
            copies = [pickle.loads(after[0]), copy.copy(model), copy.deepcopy(model)]
            assert all((each.predict(IRIS) == expected).all() for each in copies)
            assert pickle.loads(after[1]).__func__ is XGBClassifier.predict
            assert telemetry.spans() == [span("predict", "XGBClassifier", batch=150)] * 4

    def test_parameters_and_representation(self) -> None:
        model = XGBClassifier(n_estimators=3)
        seen = [dir(model), repr(model), model.get_params(), vars(model).keys()]
        with instrumented():
            assert [dir(model), repr(model), model.get_params(), vars(model).keys()] == seen
            assert clone(model).get_params()["n_estimators"] == 3

    def test_no_model_is_kept_alive(self, telemetry: Telemetry, booster: Booster) -> None:
        model, mine, data = classifier(), copy.copy(booster), DMatrix(IRIS)
        model.predict(IRIS)
        mine.predict(data)
        otel_aimon.force_flush()
        watched = [weakref.ref(each) for each in (model, mine, data)]
        del model, mine, data
        gc.collect()
        assert [each() for each in watched] == [None] * 3

    def test_what_a_caller_silences_stays_silent(
        self, telemetry: Telemetry, capfd: pytest.CaptureFixture[str]
    ) -> None:
        model = classifier(verbosity=0, unheard_of=1)
        pickle.loads(pickle.dumps(model)).predict(IRIS)
        assert capfd.readouterr() == ("", "")


def _attributes() -> dict[tuple[Any, str], Any]:
    owners = [
        *(cls for cls in vars(xgboost.sklearn).values() if isinstance(cls, type)),
        *(Booster, DMatrix, xgboost.callback.CallbackContainer),
    ]
    ignored = {"__abstractmethods__", "_abc_impl", "__dict__", "__weakref__"}
    return {
        (owner, name): value
        for owner in owners
        if owner.__module__.startswith("xgboost")
        for name, value in vars(owner).items()
        if name not in ignored
    }


HOOKED = {
    *(f"Booster.{name}" for name in ("predict", "inplace_predict", "update", "boost", "eval_set")),
    *(f"Booster.{name}" for name in ("set_param", "load_config", "load_model")),
    *(
        f"CallbackContainer.{when}_{what}"
        for when in ("before", "after")
        for what in ("training", "iteration")
    ),
    *(f"XGBModel.{name}" for name in ("fit", "predict", "apply")),
    *(f"XGBClassifier.{name}" for name in ("fit", "predict", "predict_proba")),
    *(f"XGBRanker.{name}" for name in ("fit", "predict", "apply", "score")),
    *("XGBRFClassifier.fit", "XGBRFRegressor.fit"),
}


class TestUninstrument:
    @pytest.mark.parametrize("frameworks", [("xgboost",), ("sklearn",), ("xgboost", "sklearn")])
    def test_every_attribute_is_restored(self, frameworks: tuple[str, ...]) -> None:
        before = _attributes()
        with instrumented(*frameworks):
            changed = {key for key, value in _attributes().items() if value is not before[key]}
            hooked = {f"{owner.__name__}.{name}" for owner, name in changed}
            assert hooked == HOOKED or "xgboost" not in frameworks
        after = _attributes()
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()
        assert len(ours._devices) == 0

    @pytest.mark.parametrize("first", ["sklearn", "xgboost"])
    @pytest.mark.parametrize("undone_first", ["sklearn", "xgboost"])
    def test_beside_scikit_learn_in_any_order(self, first: str, undone_first: str) -> None:
        names = ["sklearn", "xgboost"]
        before = _attributes()
        with instrumented("sklearn", "xgboost") as telemetry:
            for name in names:
                FRAMEWORK_INSTRUMENTORS[name]().uninstrument()
            for name in names if first == names[0] else names[::-1]:
                FRAMEWORK_INSTRUMENTORS[name]().instrument()
            classifier().predict(IRIS)
            FRAMEWORK_INSTRUMENTORS[undone_first]().uninstrument()
        assert telemetry.spans() == [span("predict", "XGBClassifier", batch=150)]
        assert {key for key, value in _attributes().items() if value is not before[key]} == set()

    def test_again(self) -> None:
        model = classifier()
        for _ in range(2):
            with instrumented() as telemetry:
                model.predict(IRIS)
                assert telemetry.spans() == [span("predict", "XGBClassifier", batch=150)]

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
        "import xgboost\n"
        "from sklearn.datasets import load_iris\n"
        "rows, labels = load_iris(return_X_y=True)\n"
        "model = xgboost.XGBClassifier(n_estimators=2).fit(rows, labels)\n"
        "model.predict(rows[:7])\n"
        "model.get_booster().predict(xgboost.DMatrix(rows[:5]))\n"
    )
    assert errors == ""
    assert spans == [("predict Booster", 5), ("predict XGBClassifier", 7)]
    assert counted == {("xgboost", "predict", "Booster"): 1, ("xgboost", "predict", "XGBClassifier"): 1}
