"""A slot that a request holds."""

from __future__ import annotations

from time import perf_counter

NO_EPOCH = -1


class Permit:
    """A slot that a request holds; what it tells makes the limit better.

    Attributes:
        start: Monotonic seconds at which it was admitted.
        tokens_in: Tokens of the prompt, if the application knows them.
        tokens_out: Tokens generated.
    """

    # On the class, so that making one sets no more than it must.
    active = True
    first: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None

    def __init__(self, start: float, epoch: int) -> None:
        self.start = start
        self.epoch = epoch

    def first_token(self) -> None:
        """The first token was generated just now."""
        if self.first is None:
            self.first = perf_counter()


NO_SLOT = Permit(0.0, NO_EPOCH)
NO_SLOT.active = False
"""Taken where the body runs without a slot; nobody writes to it."""
