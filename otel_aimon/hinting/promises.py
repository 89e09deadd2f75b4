"""The objectives of the alerts as what a hint keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_aimon.hinting.observation import Slo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_aimon.analysis.slo import Objective

_FIELDS = {"e2e": "latency", "ttft": "ttft", "tpot": "tpot"}


def slo_of(model: str, objectives: Iterable[Objective]) -> Slo:
    """The tightest limit of each kind that applies to a model.

    Args:
        model: Its name.
        objectives: Of the process.
    """
    limits: dict[str, float] = {}
    for each in objectives:
        field = _FIELDS.get(each.sli)
        if field is not None and each.limit is not None and each.model in (None, model):
            limits[field] = min(each.limit, limits.get(field, each.limit))
    return Slo(**limits)
