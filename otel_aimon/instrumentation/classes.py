"""What frameworks share whose methods are defined, and so replaced, in class after class."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


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
