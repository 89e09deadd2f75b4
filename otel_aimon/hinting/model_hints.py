"""The hints of one model as the application gets them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class ModelHints:
    """What is known of one model now; None is not known yet.

    Attributes:
        model: Its name.
        limit: Requests in flight that it can serve well.
        basis: What binds: ``utilization``, ``slo``, ``tpot``, ``ttft`` or ``kv``.
        confidence: 0.3, 0.6 or 0.9: how near the load came to the limit.
        lower_bound: The limit is only known to be at least this.
        kv_tokens: The limit in tokens of the KV cache.
        in_flight: Requests in flight, over the last seconds.
        utilization: Requests in flight and waiting / limit: what to scale on.
        replicas_ratio: Replicas that the load needs / those there are.
        batch_sizes: Items in a batch from which on more bring little, by operation.
        bounds: Every bound that is known, by its basis.
    """

    model: str
    limit: float | None = None
    basis: str | None = None
    confidence: float | None = None
    lower_bound: bool = False
    kv_tokens: float | None = None
    in_flight: float = 0.0
    utilization: float | None = None
    replicas_ratio: float | None = None
    batch_sizes: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)


NO_HINTS: Mapping[str, ModelHints] = MappingProxyType({})
