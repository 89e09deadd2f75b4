"""LightGBM: each prediction of a Booster, or of an estimator around one, is one request.

An estimator's call comes to its Booster, and is one request with it. What training calls on the way, a
custom objective, metric or callback, is nobody's request.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed
from otel_aimon.instrumentation.tabular import (
    begin_request,
    classes_of,
    hook_methods,
    hook_silent,
    hook_silent_functions,
)

if TYPE_CHECKING:
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "lightgbm"

_OTHER_OUTPUTS = ("pred_contrib", "pred_leaf")
_BOOSTER_SILENT = ("update", "refit", "eval", "eval_train", "eval_valid")

_DEVICE = "cpu"
"""LightGBM trains on GPUs too, and predicts on the CPU."""


def hook_models(hooks: Hooks, module: Any) -> None:
    """Hook the Booster, the estimators and the functions that train.

    Args:
        hooks: Of LightGBM.
        module: ``lightgbm``.
    """
    begin = functools.partial(
        begin_request, hooks.recorder, FRAMEWORK, other_outputs=_OTHER_OUTPUTS, device=_DEVICE
    )
    booster = module.Booster
    hooks.wrap(booster, "predict", functools.partial(observed, begin=begin("predict", ("data",))), ("data",))
    hook_silent(hooks, booster, _BOOSTER_SILENT)
    engine, estimators = sys.modules["lightgbm.engine"], sys.modules["lightgbm.sklearn"]
    # They call the user's callbacks themselves.
    hook_silent_functions(hooks, (engine, estimators, module), ("train", "cv"))
    requests = {name: begin(name, ("X",)) for name in ("predict", "predict_proba")}
    hook_methods(hooks, classes_of(estimators, estimators.LGBMModel), requests, ("fit",))
