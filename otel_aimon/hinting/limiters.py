"""The limiters of this process, one per model.

They exist before the process is instrumented, as a decorator asks for one when a module is imported; until then
they are off.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from otel_aimon.hinting.admission import Admission
from otel_aimon.hinting.limiter import Limiter, Mode, Priority, set_watcher
from otel_aimon.hinting.observation import Slo

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_MODELS = 100
OTHER = "other"
"""Further models share one limiter."""


def _nothing_promised(_model: str) -> Slo:
    return Slo()


class Limiters:
    """The limiters of a process, by model; the further ones share one.

    Args:
        slo: What is promised for a model.
        mode: Off unless switched on.
        clock: Monotonic seconds; injected by tests.
    """

    def __init__(
        self,
        slo: Callable[[str], Slo] = _nothing_promised,
        mode: Mode = Mode.OFF,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._slo = slo
        self._mode = mode
        self._clock = clock
        self._by_model: dict[str, Limiter] = {}

    def configure(
        self,
        mode: Mode,
        slo: Callable[[str], Slo] = _nothing_promised,
        wake: Callable[[], None] | None = None,
    ) -> None:
        """Switch all of them, those that were asked for before too.

        Args:
            mode: What they do from now on.
            slo: What is promised for a model.
            wake: Called with the first request, in this process and in each that it forks: from then on somebody
                moves the limits.
        """
        self._mode, self._slo = mode, slo
        set_watcher(wake)
        for limiter in self.all():
            limiter.configure(mode, slo(limiter.model))

    def get(self, model: str) -> Limiter:
        """The limiter of a model."""
        found = self._by_model.get(model)
        if found is None:
            name = model if len(self._by_model) < MOST_MODELS else OTHER
            found = self._by_model.get(name)
        if found is None:
            found = self._by_model.setdefault(name, Limiter(name, self._slo(name), self._mode, self._clock))
        return found

    def find(self, model: str) -> Limiter | None:
        """The limiter of a model, if one was asked for."""
        return self._by_model.get(model)

    def all(self) -> list[Limiter]:
        """Every limiter that was asked for."""
        return list(self._by_model.values())


LIMITERS = Limiters()
"""Of this process."""


_PRIORITIES = {each.name.lower(): each for each in Priority}


def admission(model: str, priority: str, max_wait: float) -> Admission:
    """Ask for a slot of a model in this process.

    Args:
        model: Its name.
        priority: ``low``, ``normal`` or ``high``.
        max_wait: Seconds.

    Raises:
        ValueError: There is no such priority.
    """
    rank = _PRIORITIES.get(priority)
    if rank is None:
        raise ValueError(f"priority must be one of {', '.join(_PRIORITIES)}, not {priority!r}")
    return Admission(LIMITERS.get(model), rank, max_wait)
