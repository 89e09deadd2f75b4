"""Which requests a middleware limits, for which model and with which priority."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from otel_aimon import api
from otel_aimon.core.guard import swallow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_aimon.hinting.admission import Admission
    from otel_aimon.hinting.errors import LimitExceededError

NOT_LIMITED = ("/health", "/healthz", "/livez", "/readyz", "/ready", "/ping", "/metrics")
"""Paths of probes: one that is turned away would have the service restarted when it is needed most."""

_PLACE = "the limiter's middleware"


class Choice:
    """Decides about one request after the other.

    Args:
        model: Name of the model, or what finds it for a request; None from that lets the request pass.
        priority: ``low``, ``normal`` or ``high``, or what finds it for a request.
        max_wait: Seconds to wait for a slot.
        paths: Beginnings of the paths that are limited; None for all.
        exclude: Paths that are not.
    """

    def __init__(
        self,
        model: str | Callable[[Any], str | None],
        *,
        priority: str | Callable[[Any], str],
        max_wait: float,
        paths: Iterable[str] | None,
        exclude: Iterable[str],
    ) -> None:
        self._model = model
        self._priority = priority
        self._max_wait = max_wait
        self._paths = None if paths is None else tuple(paths)
        self._exclude = frozenset(exclude)

    def admission(self, request: Any, path: str) -> Admission | None:
        """What to enter around the request; None when it is not limited.

        Args:
            request: What the user's functions get: the scope, the environment or the call's details.
            path: Of the URL, or the method's full name.
        """
        try:
            if path in self._exclude or (self._paths is not None and not path.startswith(self._paths)):
                return None
            model = self._model(request) if callable(self._model) else self._model
            if model is None:
                return None
            priority = self._priority(request) if callable(self._priority) else self._priority
            return api.limiter(model, priority=priority, max_wait=self._max_wait)  # type: ignore[arg-type]
        except Exception as error:
            # Functions of the user's, too: a request is not lost because of them.
            swallow(error, _PLACE)
            return None


def retry_after(error: LimitExceededError) -> str:
    """Whole seconds, as the header has them."""
    return str(ceil(error.retry_after))


def refusal(error: LimitExceededError) -> str:
    """One sentence for the client."""
    return f"Too many requests for {error.model} at once; try again in {retry_after(error)} s."
