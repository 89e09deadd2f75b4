"""CatBoost: each prediction of a model is one request.

The models' public methods are Python, and none of them calls another; the class that computes is
compiled and cannot be hooked.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from otel_aimon.core.stream import observed_iteration
from otel_aimon.instrumentation.tabular import (
    begin_request,
    classes_of,
    hook_methods,
    hook_silent_functions,
    rows,
)

if TYPE_CHECKING:
    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "catboost"

_REQUESTS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "virtual_ensembles_predict",
    "calc_leaf_indexes",
)

_LAZY = ("staged_predict", "staged_predict_proba", "staged_predict_log_proba")
"""Methods that return a generator: each step applies more trees to the same rows."""

_SILENT = (
    "fit",
    "score",
    "eval_metrics",
    "grid_search",
    "randomized_search",
    "select_features",
    "calc_feature_statistics",
    "plot_predictions",
)
_TRAINING = ("train", "cv", "sample_gaussian_process")

_OBJECTS = frozenset({"list", "tuple", "ndarray", "Series"})
"""Types of an object in a list of objects; in the list that is one object there are features."""

_DEVICES = {"CPU": "cpu", "GPU": "cuda"}
_FIRST_POSITION_OF_TASK_TYPE = 6


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook the models and the functions that train.

    Args:
        hooks: Of CatBoost.
        module: ``catboost``.
    """
    core = sys.modules["catboost.core"]
    count = functools.partial(_rows, core.Pool, core.FeaturesData)
    classes = classes_of(core, core.CatBoost)

    def begin(name: str) -> Begin:
        return _on_device(begin_request(hooks.recorder, FRAMEWORK, name, ("data", "X"), count=count))

    hook_methods(hooks, classes, {name: begin(name) for name in _REQUESTS}, _SILENT)
    lazy = {name: functools.partial(_observe_lazy, begin(name)) for name in _LAZY}
    for owner in classes:
        for name in lazy.keys() & vars(owner).keys():
            hooks.wrap(owner, name, lazy[name])
    hook_silent_functions(hooks, (core, module), _TRAINING)


def _observe_lazy(begin: Begin, original: Any) -> Any:
    """Wrap a method that returns a generator: the request is the iteration."""

    @functools.wraps(original)
    def staged(*args: Any, **kwargs: Any) -> Any:
        generator = original(*args, **kwargs)
        call = [(args, kwargs)]  # Let go at the first step: the generator alone decides how long they live.
        return observed_iteration(generator, lambda: begin(*call.pop()))

    return staged


def _on_device(begin: Begin) -> Begin:
    """A call says where it computes: on the CPU, unless it asks for a GPU."""

    def begin_on_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        inference = begin(args, kwargs)
        if inference is not None and len(args) <= _FIRST_POSITION_OF_TASK_TYPE:
            task_type = kwargs.get("task_type", "CPU")
            inference.device = _DEVICES.get(task_type) if type(task_type) is str else None
        return inference

    return begin_on_device


def _rows(pool: Any, features: Any, data: Any) -> int | None:
    """Objects in the input; one alone may come without a list around it."""
    if isinstance(data, pool):
        return int(data.num_row())
    if isinstance(data, features):
        return int(data.get_object_count())
    if type(data) is list or type(data) is tuple:
        several = bool(data) and type(data[0]).__name__ in _OBJECTS
        return len(data) if several else 1
    count = rows(data)
    return 1 if count is not None and len(data.shape) == 1 else count
