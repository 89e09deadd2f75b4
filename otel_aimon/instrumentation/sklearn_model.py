"""What an estimator tells of a request at no cost: framework, model name, device."""

from __future__ import annotations

import inspect
import weakref
from typing import Any, NamedTuple

from otel_aimon.instrumentation import loader
from otel_aimon.instrumentation.tabular import package

_INNER = ("steps", "estimator", "base_estimator", "final_estimator", "regressor")
"""Constructor parameters under which a meta-estimator keeps the estimator that decides."""

_MANY_INNER = frozenset({"estimators", "transformers", "transformer_list", "func"})
"""Constructor parameters that bring in code which may run anywhere."""

_MAX_DEPTH = 4

INSTRUMENTED_APART = frozenset({"lightgbm", "xgboost"})
"""Packages of estimators with an instrumentation of their own, to which they are left while it is armed."""


class _Kind(NamedTuple):
    """What the class of an estimator tells: once for all its instances."""

    name: str
    inner: str | None
    on_host: bool
    package_apart: str | None


class Kinds:
    """Names estimators after their classes: ``SVC``, ``Pipeline(SVC)``, ``GridSearchCV(Pipeline(SVC))``.

    Args:
        base: ``sklearn.base.BaseEstimator``.
    """

    def __init__(self, base: type) -> None:
        self._base = base
        self._known: weakref.WeakKeyDictionary[type, _Kind] = weakref.WeakKeyDictionary()

    def describe(self, estimator: Any) -> tuple[str, bool]:
        """The model's name, and whether it is known to compute on the host."""
        kind = self._of(type(estimator))
        if kind.inner is None:
            return kind.name, kind.on_host
        names = [kind.name]
        on_host = kind.on_host
        while kind.inner is not None and len(names) < _MAX_DEPTH:
            estimator = _inner(estimator, kind.inner)
            if not isinstance(estimator, self._base):
                if estimator is not None and type(estimator) is not str:
                    names.append(type(estimator).__name__)
                    on_host = False
                break
            kind = self._of(type(estimator))
            names.append(kind.name)
            on_host = on_host and kind.on_host
        else:
            on_host = on_host and kind.inner is None
        return "(".join(names) + ")" * (len(names) - 1), on_host

    def framework(self, estimator: Any) -> str:
        """Whose request a call of the estimator is: that of the framework which its class builds on."""
        name = self._of(type(estimator)).package_apart
        return name if name is not None and is_left_to(name) else "sklearn"

    def _of(self, cls: type) -> _Kind:
        kind = self._known.get(cls)
        if kind is None:
            parameters = _constructor_parameters(cls)
            kind = self._known[cls] = _Kind(
                cls.__name__,
                next((each for each in _INNER if each in parameters), None),
                package(cls) == "sklearn" and _MANY_INNER.isdisjoint(parameters),
                next((name for name in map(package, cls.__mro__) if name in INSTRUMENTED_APART), None),
            )
        return kind


def is_left_to(package_: str) -> bool:
    """Whether the estimators of a package have an instrumentation of their own that is armed."""
    return package_ in INSTRUMENTED_APART and loader.is_armed(package_)


def _constructor_parameters(cls: Any) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(cls.__init__).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _inner(estimator: Any, attribute: str) -> Any:
    state = estimator.__dict__
    if attribute == "steps":
        steps = state.get("steps")
        # Only a pipeline's own list of tuples: anything else is not ours to look into.
        last = steps[-1] if type(steps) is list and steps else None
        return last[-1] if type(last) is tuple and last else None
    best = state.get("best_estimator_")
    return state.get(attribute) if best is None else best
