"""How long a request that is queued now will wait: Little's law."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.analysis.evidence import Evidence, Identity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.analysis.slo import Objective

_SLOWEST = 1.0 / 60.0
"""Requests per second: where fewer end, the wait is told as if so many did."""


def queue_wait(
    identity: Identity, model: str, waiting: int, throughput: float, objectives: Iterable[Objective]
) -> Evidence | None:
    """The wait, as a share of what a first token may take.

    ``W = L / λ``: those who wait divided by those who leave the queue in a second (J. D. C. Little, "A proof
    for the queuing formula L = λW", Operations Research, 1961).

    Args:
        identity: What the alert is about.
        model: Its model's name.
        waiting: Requests in the queue.
        throughput: Requests that end in a second.
        objectives: Those of the process.

    Returns:
        Evidence for ``queue.wait``; None when nobody said how soon a first token shall come.
    """
    limits = [
        each.limit
        for each in objectives
        if each.sli == "ttft" and each.limit is not None and each.model in (None, model)
    ]
    if not limits:
        return None
    wait = waiting / max(throughput, _SLOWEST)
    return Evidence("queue.wait", identity, wait / min(limits), value=wait, samples=waiting)
