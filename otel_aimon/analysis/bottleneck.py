"""What binds: the first of an ordered table of conditions that holds, with the confidence that it does.

The order matters: a GPU that is throttled is slow for that reason whatever else it is short of. The
table follows the USE method (utilisation, saturation, errors) for each resource; thresholds of the GPU's
units are those of DCGM's guidance: SM activity of 0.8 is necessary for a busy device, below 0.5 it is
not the bottleneck; DRAM activity peaks at about 0.8 in practice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NEVER, ALWAYS = 0.0, 1.0
_WITHOUT_PROFILING = 0.3
"""Confidence that is lost where plain utilisation stands for the activity of the GPU's units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What is known of a process and its devices; None is not known.

    Attributes:
        gpu_faults: XID or uncorrected errors since the last look.
        throttled: Share of the samples in which the GPU was throttled, by reason: ``thermal``,
            ``power_brake``, ``power_cap``.
        clock_share: GPU clock / its highest.
        power_share: GPU power / its limit.
        stalled: Requests are in flight and none moves.
        shed: Requests per second that a limiter turned away.
        at_limit: The engine runs as many requests as it is configured to.
        queued: Requests that wait.
        kv_cache: Share of the KV cache in use.
        preemptions: Per second.
        sm, tensor, dram: Activity of the GPU's units, from profiling counters.
        gpu: Utilisation of the GPU: a kernel ran.
        pcie: Share of the PCIe bandwidth.
        cpu: CPU used / available.
        cpu_throttled: Share of the quota's periods in which it was throttled.
        cores_busy: Cores that this process keeps busy.
        loop_lag: Delay of the event loop, in seconds.
        memory: Memory used / available.
        input_share: Share of the latency that goes by before the model starts.
        downstream_share: Share of the latency that is spent waiting for others.
    """

    gpu_faults: int | None = None
    throttled: tuple[tuple[str, float], ...] = ()
    clock_share: float | None = None
    power_share: float | None = None
    stalled: bool = False
    shed: float | None = None
    at_limit: bool = False
    queued: int | None = None
    kv_cache: float | None = None
    preemptions: float | None = None
    sm: float | None = None
    tensor: float | None = None
    dram: float | None = None
    gpu: float | None = None
    pcie: float | None = None
    cpu: float | None = None
    cpu_throttled: float | None = None
    cores_busy: float | None = None
    loop_lag: float | None = None
    memory: float | None = None
    input_share: float | None = None
    downstream_share: float | None = None

    def share(self, reason: str) -> float:
        """Of the samples in which the GPU was throttled for ``reason``."""
        return dict(self.throttled).get(reason, 0.0)


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """What binds.

    Attributes:
        name: Its class, such as ``kv_capacity``.
        confidence: 0 to 1: by how much the signals are past their thresholds.
        advice: What to do about it, in words.
    """

    name: str
    confidence: float
    advice: str


@dataclass(frozen=True, slots=True)
class _Class:
    name: str
    advice: str
    confidence: Callable[[Signals], float]


def above(value: float | None, threshold: float) -> float:
    """How surely a value is above a threshold: 0 at it, 1 at twice the threshold, or at 1 where that is nearer.

    Most signals are shares: one with a threshold of 0.9 cannot come to twice that.
    """
    if value is None or value < threshold:
        return NEVER
    certain = 2.0 * threshold if threshold >= 1.0 else min(2.0 * threshold, 1.0)
    return _clip((value - threshold) / (certain - threshold))


def below(value: float | None, threshold: float) -> float:
    """How surely a value is below a threshold: 0 at it, 1 at zero."""
    if value is None:
        return NEVER
    return _clip((threshold - value) / threshold) if value < threshold else NEVER


def _clip(confidence: float) -> float:
    # What holds, holds: a value right at its threshold is little confidence, not none.
    return min(1.0, max(0.1, confidence))


def _all(*confidences: float) -> float:
    return min(confidences)


def _any(*confidences: float) -> float:
    return max(confidences)


def _highest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _admission_limited(s: Signals) -> float:
    held_back = _any(above(s.shed, 1e-9), ALWAYS if s.at_limit else NEVER)
    busiest = _highest(s.sm if s.sm is not None else s.gpu, s.cpu)
    room = below(busiest, 0.7)
    kv = below(s.kv_cache, 0.7) if s.kv_cache is not None else ALWAYS
    return _all(held_back, room, kv)


def _compute(s: Signals) -> float:
    return _any(above(s.tensor, 0.6), _all(above(s.sm, 0.8), below(s.dram, 0.5)))


def _gpu_waits(s: Signals) -> float:
    """A GPU that has time to spare; where only its utilisation is known, with less confidence."""
    if s.sm is not None:
        return below(s.sm, 0.5)
    return max(NEVER, below(s.gpu, 0.5) - _WITHOUT_PROFILING)


def _has_gpu(s: Signals) -> bool:
    return s.sm is not None or s.gpu is not None


def _cpu_host(s: Signals) -> float:
    short_of_cpu = _any(
        above(s.cpu, 0.9),
        above(s.cpu_throttled, 0.05),
        _all(above(s.cores_busy, 0.95), above(s.loop_lag, 0.05)),
    )
    if not _has_gpu(s):
        return short_of_cpu
    return _all(short_of_cpu, _gpu_waits(s), above(float(s.queued or 0), 1.0))


def _data_starved(s: Signals) -> float:
    waits = _any(above(s.input_share, 0.3), above(s.pcie, 0.7))
    cpu_free = below(s.cpu, 0.6)
    return _all(waits, cpu_free, _gpu_waits(s)) if _has_gpu(s) else _all(waits, cpu_free)


def _underused(s: Signals) -> float:
    busiest = _highest(s.sm if s.sm is not None else s.gpu, s.cpu, s.kv_cache)
    return below(busiest, 0.3)


_CLASSES: tuple[_Class, ...] = (
    _Class("gpu_fault", "Drain the device: it reported errors.", lambda s: above(s.gpu_faults, 0.5)),
    _Class("throttled.thermal", "Improve the cooling.", lambda s: above(s.share("thermal"), 0.1)),
    _Class("throttled.power_brake", "Check the power supply.", lambda s: above(s.share("power_brake"), 0.1)),
    _Class(
        "throttled.power_cap",
        "Raise the power limit, or accept it.",
        lambda s: _all(
            above(s.share("power_cap"), 0.5), above(s.power_share, 0.97), below(s.clock_share, 0.9)
        ),
    ),
    _Class("stalled", "Dump the stacks, then restart.", lambda s: ALWAYS if s.stalled else NEVER),
    _Class("admission_limited", "Raise the limit or the batch size.", _admission_limited),
    _Class(
        "kv_capacity",
        "Lower the concurrency, or add KV cache: a smaller type, more memory, replicas.",
        lambda s: _any(above(s.kv_cache, 0.9), above(s.preemptions, 1e-9)),
    ),
    _Class(
        "memory_bandwidth",
        "Use larger batches until the time per token binds; quantise.",
        lambda s: _all(above(s.dram, 0.6), below(s.tensor, 0.4)),
    ),
    _Class("compute", "Add replicas, or use smaller chunks of prefill.", _compute),
    _Class("cpu_host", "Add workers or CPUs: what feeds the model is the bottleneck.", _cpu_host),
    _Class("data_starved", "Prefetch the inputs; pin their memory.", _data_starved),
    _Class("downstream", "Look at the service that is waited for.", lambda s: above(s.downstream_share, 0.5)),
    _Class("underused", "Scale down.", _underused),
)

CLASSES = tuple(each.name for each in _CLASSES)
"""All classes, the first that holds wins."""


def attribute(signals: Signals, *, leave_out: Iterable[str] = ()) -> Bottleneck | None:
    """What binds now; None when nothing that is known does.

    Args:
        signals: What is known.
        leave_out: Classes that are not wanted as an answer: ``underused`` explains no alert.
    """
    unwanted = set(leave_out)
    for each in _CLASSES:
        confidence = each.confidence(signals)
        if confidence > NEVER and each.name not in unwanted:
            return Bottleneck(each.name, round(confidence, 2), each.advice)
    return None
