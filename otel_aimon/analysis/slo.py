"""Service level objectives: good and bad requests over time, and how fast they burn the error budget.

Burn rate = share of bad requests / (1 - target): at 1, the budget lasts exactly as long as the
objective's period. A burn alert needs two windows above its threshold: the long one says that it
matters, the short one that it still goes on (Site Reliability Workbook, chapter 5). A process loses
its windows at a restart and sees only its own requests, so only the two fast pairs are evaluated
here; ``aimon.slo.events`` lets a backend evaluate the others over all processes.
"""

from __future__ import annotations

import threading
from array import array
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from otel_aimon import semconv
from otel_aimon.analysis.evidence import Evidence, Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Sli = Literal["error", "ttft", "tpot", "e2e"]

SLIS: dict[Sli, str] = {
    "error": "requests that do not fail",
    "ttft": "requests whose first token comes in time",
    "tpot": "requests whose time per output token is short enough",
    "e2e": "requests that complete in time",
}
"""What can have an objective."""

LEAST_REQUESTS = 30
LEAST_BAD = 5
MAX_IDENTITIES = 256

_Z = 1.96
"""Two-sided 95 %."""


class WindowPair(NamedTuple):
    """One row of the workbook's table.

    Attributes:
        name: Ends the rule's name.
        short: Seconds.
        long: Seconds.
        threshold: Burn rate that both windows must exceed.
        budget: Share of a 30-day budget that this burns within the long window.
    """

    name: str
    short: float
    long: float
    threshold: float
    budget: float


WINDOWS = (
    WindowPair("fast", 300.0, 3600.0, 14.4, 0.02),
    WindowPair("slow", 1800.0, 21600.0, 6.0, 0.05),
)
_BUCKETS = 120
"""Buckets of a long window: 30 s and 3 min."""

_ITEM = array("I").itemsize


@dataclass(frozen=True, slots=True)
class Objective:
    """A share of requests that shall be good.

    Attributes:
        name: In the rules' names and in ``aimon.slo.name``.
        sli: What makes a request good.
        target: Share of good requests, between 0 and 1.
        limit: Seconds up to which a latency is good; None for errors.
        model: The one model that it is about; None for each model by itself.
    """

    name: str
    sli: Sli
    target: float
    limit: float | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be an objective.

        Raises:
            ValueError: With the reason.
        """
        if self.sli not in SLIS:
            raise ValueError(f"{self.sli!r} is not one of {', '.join(SLIS)}")
        if not 0.0 < self.target < 1.0:
            raise ValueError(
                f"the target must lie between 0 and 1 (or 0 % and 100 %), not be {self.target:g}"
            )
        if (self.limit is None) != (self.sli == "error"):
            raise ValueError(
                "an objective on errors has no latency limit"
                if self.sli == "error"
                else f"an objective on {self.sli} needs a latency limit, such as 500ms"
            )
        if self.limit is not None and not self.limit > 0:
            raise ValueError("a latency limit must be above 0 s")

    @property
    def largest_burn_rate(self) -> float:
        """The burn rate when every request is bad."""
        return 1.0 / (1.0 - self.target)

    def describe(self) -> str:
        """Such as ``99% < 0.5s``."""
        share = f"{self.target * 100:.10g}%"
        return share if self.limit is None else f"{share} < {self.limit:g}s"


DEFAULT_OBJECTIVES = (
    Objective("error", "error", 0.995),
    Objective("ttft", "ttft", 0.99, 2.0),
    Objective("tpot", "tpot", 0.99, 0.2),
    Objective("e2e", "e2e", 0.99, 120.0),
)
"""Until the user says otherwise. The limits of TTFT and TPOT are those of MLPerf Inference's server
scenario for Llama 2 70B, which asks for them at the 99th percentile, too. Two minutes are where
proxies in front of a service give up."""


@dataclass(frozen=True, slots=True)
class BurnEvidence(Evidence):
    """Evidence of a burn-rate rule: ``score`` is the lower one of the two burn rates.

    Attributes:
        burn_long: Burn rate of the long window.
        burn_short: Burn rate of the short window.
        budget_remaining: Share of the error budget that is left of what this process has served;
            negative when more was spent.
    """

    burn_long: float = 0.0
    burn_short: float = 0.0
    budget_remaining: float = 1.0


class _Counts:
    """Good and bad requests in a ring of time buckets; 120 buckets take 1 KiB."""

    __slots__ = ("_bad", "_bucket", "_good", "_last")

    def __init__(self, bucket: float, now: float) -> None:
        self._bucket = bucket
        self._good = array("I", bytes(_ITEM * _BUCKETS))
        self._bad = array("I", bytes(_ITEM * _BUCKETS))
        self._last = int(now // bucket)

    def add(self, good: int, bad: int, now: float) -> None:
        self._advance(now)
        place = self._last % _BUCKETS
        self._good[place] += good
        self._bad[place] += bad

    def _advance(self, now: float) -> None:
        number = int(now // self._bucket)
        for stale in range(self._last + 1, min(number, self._last + _BUCKETS) + 1):
            self._good[stale % _BUCKETS] = self._bad[stale % _BUCKETS] = 0
        self._last = max(self._last, number)

    def last(self, seconds: float, now: float) -> tuple[int, int]:
        """Requests and bad ones of the last ``seconds``, to within a bucket."""
        self._advance(now)
        end = self._last % _BUCKETS + 1
        start = end - round(seconds / self._bucket)
        bad = _sum_of_ring(self._bad, start, end)
        return bad + _sum_of_ring(self._good, start, end), bad


def _sum_of_ring(ring: array[int], start: int, end: int) -> int:
    """Sum from ``start``, which may lie before 0, up to ``end``."""
    if start >= 0:
        return sum(ring[start:end])
    return sum(ring[start:]) + sum(ring[:end])


class _Tally:
    """All counts of one objective for one identity.

    Requests are only counted up; the rings get them when the narrowest bucket is over or they are read.
    """

    __slots__ = ("_bad", "_counted_at", "_good", "_until", "bad", "born", "examples", "good", "rings")

    def __init__(self, now: float) -> None:
        self.born = now
        self.good = self.bad = 0
        self.rings = tuple(_Counts(pair.long / _BUCKETS, now) for pair in WINDOWS)
        self.examples: tuple[str, ...] = ()
        self._good = self._bad = 0
        self._counted_at = now
        self._until = self._end_of_bucket(now)

    @staticmethod
    def _end_of_bucket(now: float) -> float:
        narrowest = WINDOWS[0].long / _BUCKETS
        return (now // narrowest + 1) * narrowest

    def add(self, good: int, bad: int, now: float, trace_id: str | None = None) -> None:
        if now >= self._until:
            self.settle()
            self._until = self._end_of_bucket(now)
        self._counted_at = now
        self._good += good
        self._bad += bad
        if bad and trace_id is not None:
            self.examples = (trace_id, *self.examples[:2])

    def settle(self) -> None:
        """Move what was counted into the rings and the totals."""
        if self._good or self._bad:
            for ring in self.rings:
                ring.add(self._good, self._bad, self._counted_at)
            self.good += self._good
            self.bad += self._bad
            self._good = self._bad = 0


class EndedRequest(Protocol):
    """What an objective asks of a request that ended."""

    error_type: str | None

    @property
    def duration(self) -> float:
        """Seconds."""

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds."""

    @property
    def time_per_output_token(self) -> float | None:
        """Seconds."""


class SloTracker:
    """Judges requests by objectives.

    Args:
        objectives: What to judge by.
    """

    def __init__(self, objectives: Iterable[Objective]) -> None:
        self.objectives = tuple(objectives)
        self.after_fork_in_child()

    def consume(
        self, request: EndedRequest, model: str, identity: Identity, now: float, trace_id: str | None = None
    ) -> None:
        """Count a request under every objective that applies to it.

        A cancelled request is neither good nor bad, and a failed one counts against errors alone: its
        latency says nothing.

        Args:
            request: It ended.
            model: Its model's name.
            identity: What alerts on it are about.
            now: Monotonic seconds.
            trace_id: Its trace, if it is sampled, as an example of a bad one.
        """
        error = request.error_type
        if error == semconv.ERROR_TYPE_CANCELLED:
            return
        with self._lock:
            judged = self._by_identity.get((model, identity))
            if judged is None:
                if len(self._by_identity) >= MAX_IDENTITIES:
                    return
                judged = self._by_identity[model, identity] = self._judged(model, identity, now)
            for sli, limit, tally in judged:
                if sli == "error":
                    tally.add(error is None, error is not None, now, trace_id)
                elif error is None:
                    latency = _LATENCIES[sli](request)
                    if latency is not None:
                        tally.add(latency <= limit, latency > limit, now, trace_id)

    def _judged(self, model: str, identity: Identity, now: float) -> tuple[tuple[Sli, float, _Tally], ...]:
        found = []
        for objective in self.objectives:
            if objective.model is None or objective.model == model:
                tally = self._tally(objective, identity, now)
                if tally is not None:
                    found.append((objective.sli, objective.limit or 0.0, tally))
        return tuple(found)

    def _tally(self, objective: Objective, identity: Identity, now: float) -> _Tally | None:
        key = (objective, identity)
        tally = self._tallies.get(key)
        if tally is None and len(self._tallies) < MAX_IDENTITIES * len(self.objectives):
            tally = self._tallies[key] = _Tally(now)
        return tally

    def add(self, objective: Objective, identity: Identity, good: int, bad: int, now: float) -> None:
        """Count requests that were judged already.

        Args:
            objective: By what.
            identity: What alerts on them are about.
            good: Those that met it.
            bad: Those that did not.
            now: Monotonic seconds.
        """
        with self._lock:
            tally = self._tally(objective, identity, now)
            if tally is not None:
                tally.add(good, bad, now)

    def evidences(self, now: float) -> list[Evidence]:
        """Burn-rate evidence of every objective and identity that can be judged at ``now``."""
        found: list[Evidence] = []
        with self._lock:
            for (objective, identity), tally in self._tallies.items():
                tally.settle()
                found += _burn_evidence(objective, identity, tally, now)
        return found

    def totals(self) -> list[tuple[Objective, Identity, int, int]]:
        """Good and bad requests since the start, for ``aimon.slo.events``."""
        with self._lock:
            for tally in self._tallies.values():
                tally.settle()
            return [
                (*key, tally.good, tally.bad)
                for key, tally in self._tallies.items()
                if tally.good or tally.bad
            ]

    def after_fork_in_child(self) -> None:
        """Forget the parent's requests."""
        self._lock = threading.Lock()
        self._tallies: dict[tuple[Objective, Identity], _Tally] = {}
        self._by_identity: dict[tuple[str, Identity], tuple[tuple[Sli, float, _Tally], ...]] = {}


_LATENCIES: dict[Sli, Callable[[EndedRequest], float | None]] = {
    "ttft": lambda request: request.time_to_first_token,
    "tpot": lambda request: request.time_per_output_token,
    "e2e": lambda request: request.duration,
}


def _burn_evidence(objective: Objective, identity: Identity, tally: _Tally, now: float) -> Iterator[Evidence]:
    budget = 1.0 - objective.target
    served = tally.good + tally.bad
    for pair, ring in zip(WINDOWS, tally.rings, strict=True):
        total, bad = ring.last(pair.long, now)
        # A process that has just started would take a few slow first requests for a day's share.
        if not total or now - tally.born < pair.short:
            continue
        recent_total, recent_bad = ring.last(pair.short, now)
        burn_long = cautious_ratio(bad, total) / budget if bad >= LEAST_BAD else 0.0
        burn_short = cautious_ratio(recent_bad, recent_total) / budget
        yield BurnEvidence(
            rule=f"slo.{objective.name}.burn_{pair.name}",
            identity=identity,
            score=min(burn_long, burn_short),
            value=bad / total,
            baseline=budget,
            samples=total,
            window=pair.long,
            trace_ids=tally.examples,
            burn_long=burn_long,
            burn_short=burn_short,
            budget_remaining=1.0 - tally.bad / (served * budget),
        )


def cautious_ratio(bad: int, total: int) -> float:
    """The share of bad requests, or what it is at least where there are too few to tell.

    Below 30 requests this is the lower bound of E. B. Wilson's interval (J. Am. Stat. Assoc. 22, 1927)
    at 95 %.
    """
    if not total:
        return 0.0
    share = bad / total
    if total >= LEAST_REQUESTS:
        return share
    z2 = _Z * _Z
    centre = share + z2 / (2 * total)
    spread = _Z * sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, (centre - spread) / (1 + z2 / total))
