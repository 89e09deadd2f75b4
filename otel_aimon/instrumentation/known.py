"""What is known of objects of a framework that can hold no attribute of ours."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Known(Generic[T]):
    """Something about each of many objects, for as long as the object lives; keeps none of them alive.

    Objects are told apart by identity: what equality means for them is theirs, or their users', to say.

    Args:
        on_death: Called with what is known of an object that goes while it is known. It runs in a finaliser.
    """

    def __init__(self, on_death: Callable[[T], None] | None = None) -> None:
        self._rows: dict[int, tuple[weakref.ref[Any], T]] = {}
        self._on_death = on_death

    def learn(self, about: Any, value: T) -> T:
        """Know ``value`` of an object from now on, and return it."""
        key = id(about)
        self._rows[key] = (weakref.ref(about, functools.partial(self._died, key)), value)
        return value

    def of(self, about: Any) -> T | None:
        """What is known of an object."""
        row = self._rows.get(id(about))
        # Another object may have the address of one that is just being collected.
        return row[1] if row is not None and row[0]() is about else None

    def values(self) -> list[T]:
        """What is known, of all objects that live."""
        return [value for reference, value in list(self._rows.values()) if reference() is not None]

    def take(self, about: Any) -> T | None:
        """What is known of an object, and is not any more. Of several threads one gets it."""
        value = self.of(about)
        return value if value is not None and self._rows.pop(id(about), None) is not None else None

    def _died(self, key: int, gone: weakref.ref[Any]) -> None:
        row = self._rows.get(key)
        if row is None or row[0] is not gone:
            return
        self._rows.pop(key, None)
        if self._on_death is not None:
            self._on_death(row[1])
