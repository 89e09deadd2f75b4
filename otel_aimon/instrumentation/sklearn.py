"""scikit-learn: the outermost ``predict``, ``transform`` or kin of an estimator is one request.

scikit-learn has no single door through which calls pass: every class defines its own methods. So the
methods are replaced on each class whose body defines them, when the class is made, and on the classes
that exist already. Training and grading (``fit``, ``score`` and kin) are silent, and so is what
scikit-learn runs in its own worker threads, where the request's context is out of sight.
"""

from __future__ import annotations

import functools
import weakref
from types import FunctionType
from typing import TYPE_CHECKING, Any

from otel_aimon.core.call import observed, quiet
from otel_aimon.core.guard import swallow
from otel_aimon.core.layers import Layer
from otel_aimon.instrumentation.classes import pickled_as_original, subclasses
from otel_aimon.instrumentation.sklearn_model import Kinds, is_left_to
from otel_aimon.instrumentation.tabular import is_on_host, package, rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_aimon.core.call import Begin
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks

REQUESTS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "transform",
    "inverse_transform",
    "score_samples",
    "kneighbors",
    "radius_neighbors",
)
"""Methods that serve: each is an operation of its own."""

SILENT = ("fit", "partial_fit", "fit_transform", "fit_predict", "score")
"""Methods that train or grade: the predictions inside are nobody's requests."""


def hook_estimators(hooks: Hooks, module: Any) -> None:
    """Hook ``sklearn.base``: the estimators that exist, and those still to be defined or loaded."""
    base = module.BaseEstimator
    classes = _Classes(base, hooks.recorder)
    _active.add(classes)
    makers = _subclass_makers(base, module.TransformerMixin)
    if not makers:
        hooks.leave_out("BaseEstimator.__init_subclass__", "it is not there")
    for owner in makers:
        hooks.wrap(owner, "__init_subclass__", classes.after_definition(owner, makers))
    hooks.wrap(base, "__setstate__", classes.after_loading)
    hooks.on_restore(classes.restore)
    for cls in subclasses(base):
        classes.cover(cls)


def hand_over(classes: Iterable[type]) -> None:
    """Put back the methods of classes that another instrumentation of ours is about to replace."""
    classes = list(classes)
    for each in list(_active):
        each.restore(classes)


def hook_workers(hooks: Hooks, module: Any) -> None:
    """Hook ``sklearn.utils.parallel``: what its workers run belongs to a call that is known already."""
    wrapper = getattr(module, "_FuncWrapper", None)
    if wrapper is None:
        hooks.leave_out("sklearn.utils.parallel._FuncWrapper", "it is not there")
        return
    hooks.wrap(wrapper, "__call__", lambda original: quiet(original, hooks.recorder))


def _subclass_makers(*classes: Any) -> list[Any]:
    """The classes behind ``classes`` that act when a subclass is defined."""
    found = (each for cls in classes for each in cls.__mro__ if each is not object)
    return [each for each in dict.fromkeys(found) if "__init_subclass__" in vars(each)]


def _first_of(makers: list[Any], cls: Any) -> Any:
    """The one of ``makers`` that is called first, and so is the last to be through, for ``cls``."""
    return next((each for each in cls.__mro__ if any(each is maker for maker in makers)), None)


class _Classes:
    """Replaces the methods of estimator classes, and puts them back.

    It keeps no class alive: an application may define classes as it runs.
    """

    def __init__(self, base: type, recorder: Recorder) -> None:
        kinds = Kinds(base)
        begins = {name: _begin(name, base, kinds, recorder) for name in REQUESTS}
        self._wrappers: dict[str, Callable[[Any], Any]] = {
            **{name: functools.partial(observed, begin=begin) for name, begin in begins.items()},
            **{name: functools.partial(quiet, recorder=recorder) for name in SILENT},
        }
        self._ours: weakref.WeakSet[Any] = weakref.WeakSet()
        self._covered: weakref.WeakSet[type] = weakref.WeakSet()
        self._finished: weakref.WeakSet[type] = weakref.WeakSet()

    def after_definition(self, owner: Any, makers: list[Any]) -> Callable[[Any], Any]:
        """Cover a class once the last ``__init_subclass__`` of scikit-learn is through with it.

        ``set_output`` wraps ``transform`` there, and request metadata is read off the signatures: ours
        must come after, around both.
        """

        def make(original: Any) -> Any:
            @functools.wraps(original)
            def init_subclass(cls: Any, *args: Any, **kwargs: Any) -> None:
                original(cls, *args, **kwargs)
                if _first_of(makers, cls) is owner:
                    self.cover(cls)

            return init_subclass

        return make

    def after_loading(self, original: Any) -> Any:
        """Cover the class of an estimator that was unpickled.

        cloudpickle makes an empty class first and fills it later, after ``__init_subclass__``.
        """

        @functools.wraps(original)
        def set_state(estimator: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(estimator, *args, **kwargs)
            self.cover(type(estimator))
            return result

        return set_state

    def cover(self, cls: type) -> None:
        """Replace the methods of ``cls`` and of its parents, mixins too, each in its own class."""
        try:
            if cls in self._finished:
                return
            for owner in cls.__mro__:
                if owner not in self._finished:
                    self._cover_body(owner)
        except Exception as error:
            swallow(error, "the instrumentation of an estimator class")

    def _cover_body(self, owner: type) -> None:
        origin = package(owner)
        if is_left_to(origin):
            return
        own = origin == "sklearn"
        if own:
            self._finished.add(owner)
        body = vars(owner)
        for name, wrap in self._wrappers.items():
            raw = body.get(name)
            if raw is None:
                continue
            function = _function_of(raw)
            if function is None:
                continue
            self._covered.add(owner)
            if function in self._ours:
                continue
            wrapper = wrap(function)
            if not own:
                wrapper = pickled_as_original(function, wrapper)
            self._ours.add(wrapper)
            _put(owner, name, raw, wrapper)

    def restore(self, owners: Iterable[type] | None = None) -> None:
        """Put every original back where our wrapper still stands, in all classes or in ``owners``."""
        for owner in list(self._covered) if owners is None else owners:
            for name in self._wrappers:
                raw = vars(owner).get(name)
                function = None if raw is None else _function_of(raw)
                if function is not None and function in self._ours:
                    _put(owner, name, raw, function.__wrapped__)


_active: weakref.WeakSet[_Classes] = weakref.WeakSet()
"""Those that are in force, and perhaps some that were and have nothing left to put back."""


def _function_of(raw: Any) -> Any:
    """The plain function behind an attribute of a class; None for what is not to be touched.

    A compiled function is left alone: scikit-learn reads request metadata off plain functions only,
    so that a plain wrapper would change what it finds.
    """
    if _is_conditional(raw):
        raw = getattr(raw, "fn", None)
    return raw if type(raw) is FunctionType else None


def _is_conditional(raw: Any) -> bool:
    """Whether ``raw`` is what ``sklearn.utils.metaestimators.available_if`` makes of a method."""
    return type(raw).__name__ == "_AvailableIfDescriptor"


def _put(owner: type, name: str, raw: Any, function: Any) -> None:
    if _is_conditional(raw):
        raw.fn = function
    else:
        type.__setattr__(owner, name, function)


def _begin(operation: str, base: type, kinds: Kinds, recorder: Recorder) -> Begin:
    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inference | None:
        if not args or not isinstance(args[0], base):
            return None
        framework = kinds.framework(args[0])
        model, on_host = kinds.describe(args[0])
        inference = recorder.start(recorder.series(framework, operation, model), Layer.MODEL)
        if inference is None:
            return None
        data = args[1] if len(args) > 1 else kwargs.get("X")
        inference.batch_size = rows(data)
        if on_host and is_on_host(data):
            inference.device = "cpu"
        return inference

    return begin
