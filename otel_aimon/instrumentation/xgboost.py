"""XGBoost: each prediction of a Booster, or of an estimator around one, is one request.

An estimator's call comes to its Booster, and is one request with it. What training calls on the way, a
custom objective, metric or callback, is nobody's request.
"""

from __future__ import annotations

import functools
import json
import weakref
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation.tabular import begin_request, classes_of, hook_methods, hook_silent

if TYPE_CHECKING:
    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "xgboost"

_OTHER_OUTPUTS = ("pred_contribs", "pred_interactions", "pred_leaf")
"""Arguments of ``Booster.predict`` that ask for something else than predictions."""

_ESTIMATOR_REQUESTS = ("predict", "predict_proba", "apply")
_ESTIMATOR_SILENT = ("fit", "score")
_BOOSTER_SILENT = ("update", "boost", "eval_set")
_CALLBACKS = ("before_training", "after_training", "before_iteration", "after_iteration")

_CONFIGURE = ("set_param", "load_config", "load_model")
"""Methods of a Booster after which it may compute elsewhere."""

_devices: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
"""Where Boosters compute, as far as it was asked."""


def hook_boosters(hooks: Hooks, module: Any) -> None:
    """Hook ``Booster``.

    Args:
        hooks: Of XGBoost.
        module: ``xgboost.core``.
    """
    recorder, booster = hooks.recorder, module.Booster

    def rows_of_matrix(data: Any) -> int | None:
        return int(data.num_row()) if isinstance(data, module.DMatrix) else None

    predict = begin_request(
        recorder, FRAMEWORK, "predict", ("data",), other_outputs=_OTHER_OUTPUTS, count=rows_of_matrix
    )
    inplace = begin_request(recorder, FRAMEWORK, "predict", ("data",))
    for name, begin in (("predict", _unless_training(predict)), ("inplace_predict", inplace)):
        hooks.wrap(booster, name, functools.partial(observed, begin=begin, finish=_tell_device), ("data",))
    hook_silent(hooks, booster, _BOOSTER_SILENT)
    for name in _CONFIGURE:
        hooks.wrap(booster, name, _forgetting)
    hooks.on_restore(_devices.clear)


def hook_callbacks(hooks: Hooks, module: Any) -> None:
    """Hook what calls the callbacks of ``train`` and ``cv``.

    Args:
        hooks: Of XGBoost.
        module: ``xgboost.callback``.
    """
    hook_silent(hooks, module.CallbackContainer, _CALLBACKS)


def hook_estimators(hooks: Hooks, module: Any) -> None:
    """Hook the estimators in the manner of scikit-learn.

    Args:
        hooks: Of XGBoost.
        module: ``xgboost.sklearn``.
    """
    requests = {name: begin_request(hooks.recorder, FRAMEWORK, name, ("X",)) for name in _ESTIMATOR_REQUESTS}
    estimators = classes_of(module, module.XGBModel)
    hook_methods(hooks, estimators, requests, _ESTIMATOR_SILENT, _tell_device_of_estimator)


def _unless_training(begin: Begin) -> Begin:
    """A call with ``training=True`` is a step of somebody's own training."""

    def begin_unless_training(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        return None if kwargs.get("training") is True else begin(args, kwargs)

    return begin_unless_training


# --- devices -----------------------------------------------------------------------------------


def _tell_device(inference: Inference, args: tuple[Any, ...], _kwargs: Any, _result: Any) -> None:
    inference.device = _device(args[0])


def _tell_device_of_estimator(
    inference: Inference, args: tuple[Any, ...], _kwargs: Any, _result: Any
) -> None:
    booster = vars(args[0]).get("_Booster")
    if booster is not None:
        inference.device = _device(booster)


def _device(booster: Any) -> str:
    """Where a Booster computes, asked once: only its configuration, as JSON, tells.

    To ask is to configure, which may print what the user has silenced; after a prediction that is done.
    """
    device = _devices.get(booster)
    if device is None:
        configuration = json.loads(booster.save_config())
        device = _devices[booster] = str(configuration["learner"]["generic_param"]["device"])
    return device


def _forgetting(original: Any) -> Any:
    @functools.wraps(original)
    def configure(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        finally:
            if args:
                guarded(_devices.pop, args[0], None)

    return configure
