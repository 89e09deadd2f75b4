"""What goes wrong in the demo, and when, so that alerts have something to tell."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_SECONDS = 40.0
"""A shorter load leaves no time to learn what is usual, to go wrong, and to recover."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong for a while.

    Attributes:
        name: For people.
        after: Seconds from the start of the load.
        seconds: How long it lasts.
        told_by: Rules one of which must tell it.
    """

    name: str
    after: float
    seconds: float
    told_by: tuple[str, ...]


SLOWDOWN = Fault("slowdown", 11.0, 5.0, ("latency.shift", "model.imbalance", "latency.drift"))
"""The service rebuilds a model in pure Python while it serves, which takes the interpreter from all requests."""

ERROR_BURST = Fault("error burst", 24.0, 4.0, ("error.shift", "error.ratio", "error.ratio.critical"))
"""Most requests to one model are malformed."""

FAULTS = (SLOWDOWN, ERROR_BURST)

MALFORMED = 0.8
"""Share of all requests that an error burst makes malformed ones."""


def faults_of(seconds: float) -> tuple[Fault, ...]:
    """Those that a load of this length has."""
    return FAULTS if seconds >= LEAST_SECONDS else ()
