"""What frameworks share whose methods are defined, and so replaced, in class after class."""

from __future__ import annotations

import functools
import weakref
from types import FunctionType
from typing import TYPE_CHECKING, Any

from otel_aimon.core.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_aimon.instrumentation.hooks import Hooks


def subclasses(base: type) -> Iterator[type]:
    """``base`` and all its subclasses that exist, each once."""
    found: set[type] = {base}
    waiting: list[type] = [base]
    while waiting:
        cls = waiting.pop()
        yield cls
        new: set[type] = set(type.__subclasses__(cls)) - found
        found |= new
        waiting.extend(new)


def hook_method(hooks: Hooks, base: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Wrap a method in each class that defines it, among the children of ``base`` and those still to be defined.

    Args:
        hooks: Of the framework.
        base: The parent of all.
        name: The method.
        make: Gets the plain function, returns the wrapper.
    """
    methods = Methods(hooks, name, make)

    def init_subclass(cls: Any, /, **kwargs: Any) -> None:
        super(base, cls).__init_subclass__(**kwargs)
        guarded(methods.cover, cls)

    for cls in subclasses(base):
        methods.cover(cls)
    if "__init_subclass__" in vars(base):
        hooks.leave_out(
            f"{name} of classes that are still to be defined", f"{base.__name__} takes note of them"
        )
    else:
        base.__init_subclass__ = classmethod(init_subclass)
        hooks.on_restore(lambda: delattr(base, "__init_subclass__"))


class Methods:
    """Replaces one method in class after class, and puts it back; keeps no class alive.

    Args:
        hooks: Of the framework.
        name: The method.
        make: Gets the plain function, returns the wrapper.
    """

    def __init__(self, hooks: Hooks, name: str, make: Callable[[Any], Any]) -> None:
        self._name = name
        self._make = make
        self._hooks = hooks
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._covered: weakref.WeakSet[Any] = weakref.WeakSet()
        self._ours: weakref.WeakSet[Any] = weakref.WeakSet()
        self._restored = False
        hooks.on_restore(self._restore)

    def cover(self, cls: type) -> bool:
        """Replace the method in the body of ``cls`` and of its parents, mixins too.

        Returns:
            Whether calls of the method come to us.
        """
        if cls not in self._seen and not self._restored:
            for owner in cls.__mro__:
                if owner not in self._covered and self._name in vars(owner):
                    self._cover_body(owner)
            self._seen.add(cls)
        return getattr(cls, self._name, None) in self._ours

    def _cover_body(self, owner: Any) -> None:
        function = vars(owner)[self._name]
        self._covered.add(owner)
        if not _is_plain(function):
            self._hooks.leave_out(f"{owner.__qualname__}.{self._name}", "it is not a plain function")
            return
        wrapper = pickled_as_original(function, self._make(function))
        self._ours.add(wrapper)
        type.__setattr__(owner, self._name, wrapper)

    def _restore(self) -> None:
        # Applications may keep a bound method of ours, and call it later.
        self._restored = True
        for owner in list(self._covered):
            function: Any = vars(owner).get(self._name)
            if function is not None and _is_plain(function) and function in self._ours:
                type.__setattr__(owner, self._name, function.__wrapped__)


def _is_plain(function: Any) -> bool:
    return type(function) is FunctionType


def pickled_as_original(original: Any, wrapper: Any) -> Any:
    """A method that leaves no trace of us in a pickle.

    cloudpickle, and with it joblib and MLflow, stores a class of ``__main__`` or of a notebook with the
    bodies of its methods. The copy must hold no tracer, and load where otel-aimon is not installed.

    Args:
        original: The method's function.
        wrapper: What is called in its place here.
    """
    recorded = _Recorded(original, wrapper)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return recorded(*args, **kwargs)

    return call


class _Recorded:
    """Calls the wrapper here; a copy elsewhere calls the original."""

    __slots__ = ("_original", "_wrapper")

    def __init__(self, original: Any, wrapper: Any) -> None:
        self._original = original
        self._wrapper = wrapper

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(*args, **kwargs)

    def __reduce__(self) -> Any:
        return getattr, (self._original, "__call__")
