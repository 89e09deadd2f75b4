"""What is known of objects of a framework that can hold no attribute of ours."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class _Row(weakref.ref[Any]):
    """What is known of an object, on the reference that tells when the object goes."""

    __slots__ = ("key", "value")
    key: int
    value: Any


class Known(Generic[T]):
    """Something about each of many objects, for as long as the object lives; keeps none of them alive.

    Objects are told apart by identity: what equality means for them is theirs, or their users', to say.

    Args:
        on_death: Called with what is known of an object that goes while it is known. It runs in a finaliser.
    """

    def __init__(self, on_death: Callable[[T], None] | None = None) -> None:
        self._rows: dict[int, _Row] = {}
        self._on_death = on_death

    def learn(self, about: Any, value: T) -> T:
        """Know ``value`` of an object from now on, and return it."""
        row = _Row(about, self._forget)
        row.key = key = id(about)
        row.value = value
        self._rows[key] = row
        return value

    def of(self, about: Any) -> T | None:
        """What is known of an object."""
        row = self._rows.get(id(about))
        # Another object may have the address of one that is just being collected.
        return row.value if row is not None and row() is about else None

    def values(self) -> list[T]:
        """What is known, of all objects that live."""
        return [row.value for row in list(self._rows.values()) if row() is not None]

    def take(self, about: Any) -> T | None:
        """What is known of an object, and is not any more. Of several threads one gets it."""
        value = self.of(about)
        return value if value is not None and self._rows.pop(id(about), None) is not None else None

    def _forget(self, gone: weakref.ref[Any]) -> None:
        row: Any = gone
        # Another object may be known under the same address by now.
        if self._rows.get(row.key) is not gone:
            return
        self._rows.pop(row.key, None)
        if self._on_death is not None:
            self._on_death(row.value)
