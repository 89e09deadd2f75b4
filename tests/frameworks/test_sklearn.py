"""scikit-learn, for real: the outermost call is the request, and training is nobody's."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import io
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
import scipy.sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import DBSCAN, FeatureAgglomeration, KMeans
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    BaggingClassifier,
    IsolationForest,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.metaestimators import available_if

import otel_aimon
from tests.support.telemetry import Telemetry

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # scikit-learn 1.4 and 1.9 each warn of what the other still, or already, does.
    pytest.mark.filterwarnings("ignore::FutureWarning:sklearn"),
    pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning"),
]

IRIS, SPECIES = load_iris(return_X_y=True)
DIABETES, PROGRESSION = load_diabetes(return_X_y=True)
METHODS = (
    *("predict", "predict_proba", "predict_log_proba", "decision_function", "transform"),
    *("inverse_transform", "score_samples", "kneighbors", "radius_neighbors"),
    *("fit", "partial_fit", "fit_transform", "fit_predict", "score"),
)


def instrumented() -> Telemetry:
    """No other framework: what the tests before have imported makes no difference."""
    return Telemetry(frameworks=("sklearn",))


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with instrumented() as running:
        yield running


def span(
    operation: str,
    model: str,
    *,
    batch: int | None = 150,
    device: str | None = "cpu",
    error: str | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """The whole span of one request."""
    attributes: dict[str, Any] = {
        "aimon.framework": "sklearn",
        "aimon.operation": operation,
        "aimon.model.name": model,
    }
    if batch is not None:
        attributes["aimon.batch.size"] = batch
    if device is not None:
        attributes["aimon.device"] = device
    if error is not None:
        attributes["error.type"] = error
    return {
        "name": f"{operation} {model}",
        "kind": "INTERNAL",
        "parent": parent,
        "attributes": attributes,
        "status": "ERROR" if error else "UNSET",
        "events": [],
    }


def logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=200).fit(IRIS, SPECIES)


class EarlyClassifier(ClassifierMixin, BaseEstimator):
    """A third party's estimator that is defined before anything is instrumented."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def fit(self, X: Any, y: Any) -> EarlyClassifier:
        self.inner_ = DecisionTreeClassifier(random_state=0).fit(X, y)
        self.inner_.predict(X)
        return self

    def predict(self, X: Any, *, shift: int = 0) -> Any:
        return self.inner_.predict(X) + self.offset + shift


class TestRequests:
    def test_a_prediction_is_one_request(self, telemetry: Telemetry) -> None:
        model = logistic()
        found = model.predict(IRIS)
        assert isinstance(found, np.ndarray) and found.shape == (150,)
        assert telemetry.spans() == [span("predict", "LogisticRegression")]
        assert telemetry.counts() == {("sklearn", "LogisticRegression", "predict"): 1}
        [batch] = telemetry.metrics()["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 150)

    @pytest.mark.parametrize(
        ("estimator", "operation", "model"),
        [
            (LogisticRegression(max_iter=200), "predict_proba", "LogisticRegression"),
            (LogisticRegression(max_iter=200), "predict_log_proba", "LogisticRegression"),
            (LogisticRegression(max_iter=200), "decision_function", "LogisticRegression"),
            (StandardScaler(), "transform", "StandardScaler"),
            (StandardScaler(), "inverse_transform", "StandardScaler"),
            (KMeans(2, n_init=1, random_state=0), "predict", "KMeans"),
            (KMeans(2, n_init=1, random_state=0), "transform", "KMeans"),
            (KNeighborsClassifier(), "predict", "KNeighborsClassifier"),
            (KNeighborsClassifier(), "kneighbors", "KNeighborsClassifier"),
            (IsolationForest(n_estimators=5, random_state=0), "predict", "IsolationForest"),
            (IsolationForest(n_estimators=5, random_state=0), "score_samples", "IsolationForest"),
            (RandomForestClassifier(5, random_state=0), "predict", "RandomForestClassifier"),
            (RandomForestClassifier(5, n_jobs=2, random_state=0), "predict", "RandomForestClassifier"),
            (RandomForestClassifier(5, n_jobs=2, random_state=0), "predict_proba", "RandomForestClassifier"),
            (MLPClassifier((3,), max_iter=5, random_state=0), "predict", "MLPClassifier"),
            (SVC(), "decision_function", "SVC"),
            (make_pipeline(StandardScaler(), SVC()), "predict", "Pipeline(SVC)"),
            (make_pipeline(StandardScaler(), "passthrough"), "transform", "Pipeline"),
            (CalibratedClassifierCV(SVC(), cv=2), "predict", "CalibratedClassifierCV(SVC)"),
            (
                GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1, 2]}, cv=2),
                "predict",
                "GridSearchCV(Pipeline(SVC))",
            ),
            (BaggingClassifier(n_estimators=3, random_state=0), "predict", "BaggingClassifier"),
        ],
    )
    def test_whatever_is_nested_is_one_request(
        self, telemetry: Telemetry, estimator: Any, operation: str, model: str
    ) -> None:
        estimator = clone(estimator).fit(IRIS, SPECIES)
        getattr(estimator, operation)(IRIS)
        assert telemetry.spans() == [span(operation, model)]
        assert telemetry.counts() == {("sklearn", model, operation): 1}

    @pytest.mark.parametrize(
        ("estimator", "model"),
        [
            (VotingClassifier([("a", SVC()), ("b", DecisionTreeClassifier())]), "VotingClassifier"),
            (
                StackingClassifier([("a", SVC()), ("b", DecisionTreeClassifier())], SVC(), cv=2),
                "StackingClassifier(SVC)",
            ),
        ],
    )
    def test_the_device_of_several_models_is_unknown(
        self, telemetry: Telemetry, estimator: Any, model: str
    ) -> None:
        clone(estimator).fit(IRIS, SPECIES).predict(IRIS)
        assert telemetry.spans() == [span("predict", model, device=None)]

    def test_a_search_is_named_after_what_it_found(self, telemetry: Telemetry) -> None:
        search = GridSearchCV(
            Pipeline([("model", SVC())]), {"model": [DecisionTreeClassifier(max_depth=2)]}, cv=2
        )
        search.fit(IRIS, SPECIES).predict(IRIS)
        assert telemetry.spans() == [span("predict", "GridSearchCV(Pipeline(DecisionTreeClassifier))")]

    def test_a_regressor_inside_another(self, telemetry: Telemetry) -> None:
        model = TransformedTargetRegressor(LinearRegression()).fit(DIABETES, PROGRESSION)
        model.predict(DIABETES[:7])
        assert telemetry.spans() == [
            span("predict", "TransformedTargetRegressor(LinearRegression)", batch=7, device=None)
        ]

    def test_conditional_methods(self, telemetry: Telemetry) -> None:
        sure = make_pipeline(StandardScaler(), LogisticRegression()).fit(IRIS, SPECIES)
        assert not hasattr(SVC(), "predict_proba")
        with pytest.raises(AttributeError, match="has no attribute 'predict_proba'"):
            SVC().predict_proba
        assert not hasattr(make_pipeline(StandardScaler(), SVC()), "predict_proba")
        assert hasattr(sure, "predict_proba") and not hasattr(sure, "transform")
        sure.predict_proba(IRIS)
        Pipeline.predict_log_proba(sure, IRIS)
        assert telemetry.spans() == [
            span("predict_proba", "Pipeline(LogisticRegression)"),
            span("predict_log_proba", "Pipeline(LogisticRegression)"),
        ]

    def test_probabilities_of_a_support_vector_machine(self, telemetry: Telemetry) -> None:
        SVC(probability=True, random_state=0).fit(IRIS, SPECIES).predict_proba(IRIS)
        assert telemetry.spans() == [span("predict_proba", "SVC")]

    def test_a_stage_of_a_request_by_hand(self, telemetry: Telemetry) -> None:
        model = make_pipeline(StandardScaler(), logistic()).fit(IRIS, SPECIES)
        with otel_aimon.inference("classify", model="flowers"):
            model.predict(IRIS)
        owner, stage = telemetry.spans()
        assert owner["name"] == "classify flowers"
        assert stage == span("predict", "Pipeline(LogisticRegression)", parent="classify flowers")
        assert telemetry.counts() == {("manual", "flowers", "classify"): 1}

    def test_requests_of_several_threads(self, telemetry: Telemetry) -> None:
        model = logistic()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: model.predict(IRIS[:3]), range(40)))
        assert telemetry.counts() == {("sklearn", "LogisticRegression", "predict"): 40}


class TestInputs:
    @pytest.mark.parametrize(
        ("data", "batch"),
        [
            (IRIS[:3], 3),
            (scipy.sparse.csr_matrix(IRIS[:4]), 4),
            (IRIS[:5].tolist(), 5),
            (tuple(IRIS[:2].tolist()), 2),
        ],
    )
    def test_the_batch_is_the_number_of_rows(self, telemetry: Telemetry, data: Any, batch: int) -> None:
        DecisionTreeClassifier().fit(IRIS, SPECIES).predict(data)
        assert telemetry.spans() == [span("predict", "DecisionTreeClassifier", batch=batch)]

    def test_a_batch_that_no_one_knows_is_absent(self, telemetry: Telemetry) -> None:
        class Rows:
            """Only scikit-learn may turn it into an array."""

            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                return IRIS[:3] if dtype is None else IRIS[:3].astype(dtype)

        DecisionTreeClassifier().fit(IRIS, SPECIES).predict(Rows())
        assert telemetry.spans() == [span("predict", "DecisionTreeClassifier", batch=None, device=None)]

    def test_text_by_keyword(self, telemetry: Telemetry) -> None:
        counts = CountVectorizer().fit(["some words", "more words"])
        counts.transform(["words"])
        counts.transform(raw_documents=iter(["words"]))
        assert telemetry.spans() == [
            span("transform", "CountVectorizer", batch=1),
            span("transform", "CountVectorizer", batch=None),
        ]

    def test_neighbours_of_the_training_data(self, telemetry: Telemetry) -> None:
        KNeighborsClassifier().fit(IRIS, SPECIES).kneighbors()
        assert telemetry.spans() == [span("kneighbors", "KNeighborsClassifier", batch=None)]

    def test_a_function_may_run_anywhere(self, telemetry: Telemetry) -> None:
        FunctionTransformer(np.log1p).fit(IRIS).transform(IRIS)
        assert telemetry.spans() == [span("transform", "FunctionTransformer", device=None)]


class TestErrors:
    def test_not_fitted(self, telemetry: Telemetry) -> None:
        with pytest.raises(NotFittedError) as raised:
            LogisticRegression().predict(IRIS)
        assert str(raised.value).startswith("This LogisticRegression instance is not fitted yet")
        error = "sklearn.exceptions.NotFittedError"
        assert telemetry.spans() == [span("predict", "LogisticRegression", error=error)]
        assert telemetry.counts() == {("sklearn", "LogisticRegression", "predict", error): 1}

    def test_wrong_input(self, telemetry: Telemetry) -> None:
        model = make_pipeline(StandardScaler(), SVC()).fit(IRIS, SPECIES)
        with pytest.raises(ValueError, match="features"):
            model.predict(IRIS[:, :2])
        assert telemetry.spans() == [span("predict", "Pipeline(SVC)", error="ValueError")]

    def test_wrong_call(self, telemetry: Telemetry) -> None:
        with pytest.raises(TypeError):
            logistic().predict()
        with pytest.raises(TypeError):
            LogisticRegression.predict()
        assert telemetry.spans() == [span("predict", "LogisticRegression", batch=None, error="TypeError")]


class TestSilence:
    @pytest.mark.parametrize(
        "train",
        [
            lambda: GridSearchCV(SVC(), {"C": [1, 2]}, cv=2, scoring="accuracy").fit(IRIS, SPECIES),
            lambda: StackingClassifier([("a", SVC())], SVC(), cv=2).fit(IRIS, SPECIES),
            lambda: CalibratedClassifierCV(SVC(), cv=2).fit(IRIS, SPECIES),
            lambda: IsolationForest(n_estimators=3, contamination=0.1).fit_predict(IRIS),
            lambda: StandardScaler().fit_transform(IRIS),
            lambda: make_pipeline(StandardScaler(), KMeans(2, n_init=1)).fit_predict(IRIS),
            lambda: DBSCAN().fit_predict(IRIS),
            lambda: MLPClassifier((3,), early_stopping=True, max_iter=3).fit(IRIS, SPECIES),
            lambda: MLPClassifier((3,)).partial_fit(IRIS, SPECIES, classes=[0, 1, 2]),
            lambda: EarlyClassifier().fit(IRIS, SPECIES),
        ],
    )
    def test_training(self, telemetry: Telemetry, train: Any) -> None:
        train()
        assert telemetry.spans() == []
        assert telemetry.counts() == {}

    def test_grading(self, telemetry: Telemetry) -> None:
        model = logistic()
        assert model.score(IRIS, SPECIES) > 0.9
        KMeans(2, n_init=1).fit(IRIS).score(IRIS)
        cross_val_score(model, IRIS, SPECIES, cv=2)
        cross_val_score(model, IRIS, SPECIES, cv=2, scoring="accuracy")
        assert telemetry.spans() == []

    def test_training_inside_a_prediction(self, telemetry: Telemetry) -> None:
        class Lazy(BaseEstimator):
            def predict(self, X: Any) -> Any:
                return logistic().predict(X)

        Lazy().predict(IRIS)
        assert telemetry.spans() == [span("predict", "Lazy", device=None)]

    def test_a_failed_fit_leaves_no_silence_behind(self, telemetry: Telemetry) -> None:
        model = logistic()
        with pytest.raises(ValueError, match="inconsistent"):
            clone(model).fit(IRIS, SPECIES[:3])
        model.predict(IRIS)
        assert telemetry.spans() == [span("predict", "LogisticRegression")]

    def test_suppressed_instrumentation(self, telemetry: Telemetry) -> None:
        from opentelemetry.instrumentation.utils import suppress_instrumentation

        model = logistic()
        with suppress_instrumentation():
            model.predict(IRIS)
        assert telemetry.spans() == []


class TestWorkers:
    @pytest.mark.parametrize("backend", ["threading", "loky"])
    def test_workers_of_an_ensemble_add_no_request(self, telemetry: Telemetry, backend: str) -> None:
        model = BaggingClassifier(SVC(), n_estimators=4, n_jobs=2, random_state=0).fit(IRIS, SPECIES)
        with joblib.parallel_config(backend=backend, n_jobs=2):
            alone = model.predict(IRIS)
        assert alone.shape == (150,)
        assert telemetry.spans() == [span("predict", "BaggingClassifier(SVC)")]

    def test_the_users_own_threads_are_requests(self, telemetry: Telemetry) -> None:
        model = logistic()
        joblib.Parallel(2, prefer="threads")(joblib.delayed(model.predict)(IRIS[:3]) for _ in range(4))
        assert telemetry.spans() == [span("predict", "LogisticRegression", batch=3)] * 4

    def test_a_class_of_the_users_own_in_worker_processes(self, telemetry: Telemetry) -> None:
        class Local(EarlyClassifier):
            """Travels to the workers with the bodies of its methods."""

            def predict(self, X: Any) -> Any:
                return super().predict(X)

        search = GridSearchCV(Local(), {"offset": [0, 1]}, cv=2, n_jobs=2).fit(IRIS, SPECIES)
        assert search.best_params_ == {"offset": 0}
        model = search.best_estimator_
        jobs = (joblib.delayed(model.predict)(IRIS[:3]) for _ in range(2))
        assert [list(each) for each in joblib.Parallel(2)(jobs)] == [[0, 0, 0]] * 2
        assert telemetry.spans() == []


class TestSubclasses:
    def test_defined_before(self, telemetry: Telemetry) -> None:
        EarlyClassifier().fit(IRIS, SPECIES).predict(IRIS, shift=1)
        assert telemetry.spans() == [span("predict", "EarlyClassifier", device=None)]

    def test_defined_after(self, telemetry: Telemetry) -> None:
        class Late(LogisticRegression):
            def predict(self, X: Any) -> Any:
                return super().predict(X)

        class Later(Late):
            pass

        model = Later(max_iter=200).fit(IRIS, SPECIES)
        model.predict(IRIS)
        model.predict_proba(IRIS)
        assert telemetry.spans() == [
            span("predict", "Later", device=None),
            span("predict_proba", "Later", device=None),
        ]

    def test_a_mixin_that_is_no_estimator(self, telemetry: Telemetry) -> None:
        class Doubles:
            def transform(self, X: Any) -> Any:
                return X * 2

        class Doubler(Doubles, BaseEstimator):
            pass

        assert Doubles().transform(2) == 4
        assert telemetry.spans() == []
        Doubler().transform(IRIS)
        assert telemetry.spans() == [span("transform", "Doubler", device=None)]

    @pytest.mark.parametrize("bases", [(TransformerMixin, BaseEstimator), (BaseEstimator, TransformerMixin)])
    def test_set_output_stays_inside(self, telemetry: Telemetry, bases: tuple[type, ...]) -> None:
        def body(namespace: dict[str, Any]) -> None:
            def fit(self: Any, X: Any, y: Any = None) -> Any:
                return self

            def transform(self: Any, X: Any, *, factor: int = 2) -> Any:
                return X * factor

            namespace.update(fit=fit, transform=transform, get_feature_names_out=lambda self: list("abcd"))

        import types

        Times = types.new_class("Times", bases, exec_body=body)
        ours = vars(Times)["transform"]
        set_output = ours.__wrapped__
        assert set_output.__code__.co_filename.endswith("_set_output.py")
        assert not hasattr(set_output.__wrapped__, "__wrapped__")
        assert list(inspect.signature(Times.transform).parameters) == ["self", "X", "factor"]
        model = Times()
        model.fit(IRIS).transform(IRIS)
        assert telemetry.spans() == [span("transform", "Times", device=None)]

    def test_metadata_requests_see_the_users_signature(self, telemetry: Telemetry) -> None:
        class Weighted(ClassifierMixin, BaseEstimator):
            def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
                return self

            def predict(self, X: Any, temperature: float = 1.0) -> Any:
                return X

        class Child(Weighted):
            pass

        for cls in (Weighted, Child, EarlyClassifier):
            assert hasattr(cls, "set_predict_request")
        with config_context(enable_metadata_routing=True):
            model = Child().set_fit_request(sample_weight=True).set_predict_request(temperature=True)
            routed = model.get_metadata_routing()
        assert routed.fit.requests == {"sample_weight": True}
        assert routed.predict.requests == {"temperature": True}
        assert not hasattr(LogisticRegression, "set_predict_request")

    def test_what_is_no_plain_method_is_left_alone(self, telemetry: Telemetry) -> None:
        class Odd(BaseEstimator):
            predict = functools.partial(len)
            transform = len
            score_samples = property(lambda self: len)
            decision_function = staticmethod(len)
            predict_proba = None

        originals = {name: vars(Odd)[name] for name in METHODS if name in vars(Odd)}
        odd = Odd()
        assert odd.predict([1]) == odd.transform([1]) == odd.score_samples([1]) == 1
        assert odd.decision_function([1]) == 1
        assert type(originals["predict"]) is functools.partial
        assert telemetry.spans() == []

    def test_a_method_borrowed_from_another_class(self, telemetry: Telemetry) -> None:
        class Borrower(BaseEstimator):
            predict = LogisticRegression.predict
            transform = predict

            def __init__(self) -> None:
                self.coef_, self.intercept_, self.classes_ = np.ones((1, 4)), np.ones(1), np.arange(2)

            def decision_function(self, X: Any) -> Any:
                return X @ self.coef_[0] + self.intercept_

        Borrower().predict(IRIS)
        assert telemetry.spans() == [span("predict", "Borrower", device=None)]

    def test_abstract_methods_stay_abstract(self, telemetry: Telemetry) -> None:
        from abc import ABC, abstractmethod

        class Abstract(ABC, BaseEstimator):
            @abstractmethod
            def predict(self, X: Any) -> Any: ...

        class Concrete(Abstract):
            def predict(self, X: Any) -> Any:
                return X

        with pytest.raises(TypeError, match="abstract"):
            Abstract()
        assert Abstract.__abstractmethods__ == {"predict"}
        Concrete().predict(IRIS)
        assert telemetry.spans() == [span("predict", "Concrete", device=None)]

    def test_arguments_of_a_class_statement(self, telemetry: Telemetry) -> None:
        class Plain(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
            def transform(self, X: Any) -> Any:
                return X

        assert Plain().transform(IRIS) is IRIS
        assert telemetry.spans() == [span("transform", "Plain", device=None)]
        with pytest.raises(TypeError):
            type("Wrong", (BaseEstimator,), {}, wrong=1)
        with pytest.raises(ValueError, match="auto_wrap_output_keys"):
            type("Wrong", (TransformerMixin, BaseEstimator), {}, auto_wrap_output_keys="transform")

    def test_conditional_methods_of_a_subclass(self, telemetry: Telemetry) -> None:
        class Maybe(BaseEstimator):
            def __init__(self, able: bool = True) -> None:
                self.able = able

            @available_if(lambda self: self.able)
            def predict(self, X: Any) -> Any:
                return X

        assert hasattr(Maybe(), "predict") and not hasattr(Maybe(able=False), "predict")
        assert Maybe().predict(IRIS) is IRIS
        with pytest.raises(AttributeError):
            Maybe.predict(Maybe(able=False), IRIS)
        assert telemetry.spans() == [span("predict", "Maybe", device=None)]


class TestUnchanged:
    def test_names_signatures_and_documentation(self, telemetry: Telemetry) -> None:
        method = LogisticRegression.predict
        assert method.__name__ == "predict" and method.__qualname__ == "LinearClassifierMixin.predict"
        assert method.__module__ == "sklearn.linear_model._base" and "Predict class labels" in method.__doc__
        assert list(inspect.signature(method).parameters) == ["self", "X"]
        assert "sample_weight" in inspect.signature(LogisticRegression().fit).parameters
        assert "def predict(self, X)" in inspect.getsource(method)
        assert inspect.isfunction(method) and inspect.ismethod(LogisticRegression().predict)
        assert "X" in inspect.signature(make_pipeline(SVC()).predict).parameters

    def test_estimators_and_bound_methods_pickle(self, telemetry: Telemetry) -> None:
        model = make_pipeline(StandardScaler(), logistic()).fit(IRIS, SPECIES)
        file = io.BytesIO()
        joblib.dump(model, file)
        file.seek(0)
        copies = [
            pickle.loads(pickle.dumps(model)),
            joblib.load(file),
            copy.deepcopy(model),
            cloudpickle.loads(cloudpickle.dumps(model)),
        ]
        expected = model.predict(IRIS)
        assert all((each.predict(IRIS) == expected).all() for each in copies)
        bound = pickle.loads(pickle.dumps(model.named_steps["logisticregression"].predict))
        assert bound.__func__ is LogisticRegression.predict
        assert pickle.loads(pickle.dumps(LogisticRegression.predict)) is LogisticRegression.predict
        assert telemetry.counts() == {("sklearn", "Pipeline(LogisticRegression)", "predict"): 5}

    def test_a_pickle_is_the_same_as_without_us(self) -> None:
        model = logistic()
        before = pickle.dumps(model), pickle.dumps(model.predict)
        with instrumented():
            assert (pickle.dumps(model), pickle.dumps(model.predict)) == before
            assert vars(model).keys() == vars(pickle.loads(before[0])).keys()

    def test_a_class_pickled_with_its_body_loads_where_we_are_not_installed(
        self, telemetry: Telemetry, tmp_path: Any
    ) -> None:
        class Local(LogisticRegression):
            def predict(self, X: Any) -> Any:
                return super().predict(X)

            @available_if(lambda self: True)
            def score_samples(self, X: Any) -> Any:
                return X[:, 0]

        model = Local(max_iter=200).fit(IRIS, SPECIES)
        (tmp_path / "model").write_bytes(cloudpickle.dumps((model, model.predict, Local)))
        code = """
            import sys
            sys.modules["otel_aimon"] = None
            import cloudpickle
            from sklearn.datasets import load_iris
            model, predict, cls = cloudpickle.load(open(sys.argv[1], "rb"))
            data = load_iris().data
            print(list(model.predict(data[:2])), list(predict(data[:2])), len(model.score_samples(data)))
            cloudpickle.loads(cloudpickle.dumps(model)).predict(data)
        """
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), str(tmp_path / "model")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.replace("np.int64(0)", "0") == "[0, 0] [0, 0] 150\n"

    def test_a_class_that_comes_out_of_a_pickle_is_instrumented(self) -> None:
        class Local(EarlyClassifier):
            def predict(self, X: Any) -> Any:
                return super().predict(X)

        stored = cloudpickle.dumps(Local().fit(IRIS, SPECIES))
        # cloudpickle gives back a class that is still known, so the loaded one must be another.
        del Local
        stored = stored.replace(b"Local", b"Other")
        with instrumented() as telemetry:
            model = pickle.loads(stored)
            model.predict(IRIS)
            assert telemetry.spans() == [span("predict", type(model).__name__, device=None)]

    def test_clone_parameters_and_representation(self) -> None:
        model = make_pipeline(StandardScaler(), SVC(C=3))
        seen = [dir(model), repr(model)]
        with instrumented():
            assert [dir(model), repr(model)] == seen
            assert repr(clone(model)) == repr(model)
            assert clone(model).get_params()["svc__C"] == 3
            assert is_classifier(model)
            assert not hasattr(FeatureAgglomeration(), "fit_predict")

    def test_scikit_learns_own_checks(self, telemetry: Telemetry) -> None:
        from sklearn.utils import estimator_checks as checks

        for estimator in (LogisticRegression(), StandardScaler()):
            name = type(estimator).__name__
            for check in (
                checks.check_no_attributes_set_in_init,
                checks.check_estimators_pickle,
                checks.check_get_params_invariance,
                checks.check_set_params,
                checks.check_dict_unchanged,
                checks.check_fit_idempotent,
                checks.check_methods_subset_invariance,
                checks.check_estimators_overwrite_params,
            ):
                check(name, clone(estimator))

    def test_no_estimator_and_no_class_is_kept_alive(self, telemetry: Telemetry) -> None:
        class Local(EarlyClassifier):
            def predict(self, X: Any) -> Any:
                return super().predict(X)

        model = Local().fit(IRIS, SPECIES)
        model.predict(IRIS)
        otel_aimon.force_flush()
        watched = [weakref.ref(model), weakref.ref(Local)]
        del model, Local
        gc.collect()
        assert [each() for each in watched] == [None, None]

    def test_classes_defined_in_threads(self, telemetry: Telemetry) -> None:
        def define() -> None:
            for _ in range(20):
                cls = type("Made", (EarlyClassifier,), {"predict": lambda self, X: X})
                assert cls().predict(IRIS) is IRIS

        threads = [threading.Thread(target=define) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert telemetry.counts() == {("sklearn", "Made", "predict"): 80}


class TestUninstrument:
    def test_every_attribute_is_restored(self) -> None:
        before = _attributes()
        with instrumented():
            changed = {key for key, value in _attributes().items() if value is not before[key]}
            assert len(changed) > 400

            class Late(EarlyClassifier):
                def predict(self, X: Any) -> Any:
                    return X

            ours = vars(Late)["predict"]
        after = {key: value for key, value in _attributes().items() if key[0] is not Late}
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()
        assert vars(Late)["predict"] is ours.__wrapped__

    def test_again(self) -> None:
        model = logistic()
        for _ in range(2):
            with instrumented() as telemetry:
                model.predict(IRIS)
                assert telemetry.spans() == [span("predict", "LogisticRegression")]

    def test_a_method_kept_from_before_is_silent_after(self) -> None:
        model = logistic()
        with instrumented() as telemetry:
            kept = model.predict
            kept(IRIS)
        assert (kept(IRIS) == model.predict(IRIS)).all()
        assert len(telemetry.spans()) == 1

    def test_what_others_wrapped_since_is_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with instrumented():
            ours = vars(EarlyClassifier)["predict"]
            theirs = functools.wraps(ours)(lambda self, X: ours(self, X))
            EarlyClassifier.predict = theirs
        assert vars(EarlyClassifier)["predict"] is theirs
        assert EarlyClassifier().fit(IRIS, SPECIES).predict(IRIS).shape == (150,)
        EarlyClassifier.predict = ours.__wrapped__


def _classes(base: type = BaseEstimator) -> Iterator[type]:
    for cls in type.__subclasses__(base):
        yield from cls.__mro__
        yield from _classes(cls)


def _attributes() -> dict[tuple[Any, str], Any]:
    """Every attribute in the body of every estimator class, mixins too, and the functions behind them."""
    from sklearn.utils import parallel

    found: dict[tuple[Any, str], Any] = {}
    for cls in {*_classes(), parallel._FuncWrapper} - {object}:
        for name, value in vars(cls).items():
            found[cls, name] = value
            if type(value).__name__ == "_AvailableIfDescriptor":
                found[cls, f"{name}.fn"] = value.fn
    return {
        key: value
        for key, value in found.items()
        if key[1] not in {"__abstractmethods__", "_abc_impl", "__dict__", "__weakref__", "__doc__"}
    }
