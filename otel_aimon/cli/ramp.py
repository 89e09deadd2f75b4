"""A load that grows, so that the hints have something to learn from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """More and more clients, each of which sends its next request when it has the answer to the last one.

    Attributes:
        after: Seconds from the start of the load.
        seconds: Until the last of them has come, and all go.
        clients: How many come, one after the other.
    """

    after: float
    seconds: float
    clients: int

    def starts(self) -> tuple[float, ...]:
        """Seconds from the start of the load at which each client comes."""
        # The last third of the time belongs to all of them.
        spread = self.seconds * 2 / 3
        return tuple(self.after + spread * number / self.clients for number in range(self.clients))


RAMP = Ramp(after=34.0, seconds=25.0, clients=12)
"""Clients of the text model, when what goes wrong is over."""

MODEL = "word-2gram"
"""Whom they ask: nobody else does."""


def ramp_of(seconds: float) -> Ramp | None:
    """That of a load of this length; None where there is no time for it."""
    return RAMP if seconds >= RAMP.after + RAMP.seconds else None
