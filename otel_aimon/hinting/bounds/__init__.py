"""Bounds on concurrency: each is the most that one resource or promise allows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """The most that one resource or promise allows.

    Attributes:
        basis: Its name, such as ``tpot``.
        limit: Requests in flight.
    """

    basis: str
    limit: float
