"""The limiters of a process, one per model."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from otel_aimon.hinting.limiter import Limiter, Mode
from otel_aimon.hinting.observation import Slo

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_MODELS = 100
OTHER = "other"
"""Further models share one limiter."""


class Limiters:
    """The limiters of a process, by model; the further ones share one.

    Args:
        slo: What is promised, for every model.
        mode: Off unless switched on.
        clock: Monotonic seconds; injected by tests.
    """

    def __init__(
        self, slo: Slo | None = None, mode: Mode = Mode.OFF, clock: Callable[[], float] = monotonic
    ) -> None:
        self._slo = slo or Slo()
        self._mode = mode
        self._clock = clock
        self._by_model: dict[str, Limiter] = {}

    def get(self, model: str) -> Limiter:
        """The limiter of a model."""
        found = self._by_model.get(model)
        if found is None:
            name = model if len(self._by_model) < MOST_MODELS else OTHER
            found = self._by_model.get(name)
        if found is None:
            found = self._by_model.setdefault(name, Limiter(name, self._slo, self._mode, self._clock))
        return found

    def all(self) -> list[Limiter]:
        """Every limiter that was asked for."""
        return list(self._by_model.values())
