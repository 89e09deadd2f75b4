"""What the limiter tells the application."""

from __future__ import annotations


class LimitExceededError(Exception):
    """The model has as many requests in flight as it can serve well: answer 429 or 503.

    Attributes:
        model: Its name.
        retry_after: Seconds after which a new attempt makes sense.
    """

    def __init__(self, model: str, retry_after: float) -> None:
        super().__init__(f"too many requests in flight for {model}; retry after {retry_after:.1f} s")
        self.model = model
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[LimitExceededError], tuple[str, float]]:
        return type(self), (self.model, self.retry_after)
