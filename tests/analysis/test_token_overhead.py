"""Latency is ``a + b * tokens``: the length of answers does not make a model slower or faster."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from otel_aimon.alerts.rules import RULES
from otel_aimon.analysis.degradation import Degradation
from otel_aimon.analysis.evidence import Evidence, Identity
from otel_aimon.analysis.tick import TickBuilder
from otel_aimon.analysis.token_overhead import LEAST_REQUESTS, MOST, Moments, TokenOverhead

TICK = 10.0
FIRST, EACH = 0.3, 0.02
"""Seconds to the first token, and for each: the overhead is 15 tokens."""

ON = {rule.name: rule.on for rule in RULES}
CHAT: Identity = (("aimon.model.name", "chat"),)
LEARNING = 2000


def moments(requests: list[tuple[int, float]]) -> Moments:
    return Moments(
        len(requests),
        sum(tokens for tokens, _ in requests),
        sum(seconds for _, seconds in requests),
        sum(tokens**2 for tokens, _ in requests),
        sum(seconds**2 for _, seconds in requests),
        sum(tokens * seconds for tokens, seconds in requests),
    )


class Service:
    """Answers of log-normal length, and a latency with noise."""

    def __init__(self, seed: int = 1) -> None:
        self._chance = random.Random(seed)

    def requests(self, number: int, mean: float = 200.0, slower: float = 1.0) -> list[tuple[int, float]]:
        found = []
        for _ in range(number):
            tokens = max(1, round(mean * self._chance.lognormvariate(-0.08, 0.4)))
            seconds = slower * (FIRST + EACH * tokens) * self._chance.lognormvariate(0.0, 0.15)
            found.append((tokens, seconds))
        return found


def test_the_overhead_is_found() -> None:
    overhead, service = TokenOverhead(TICK), Service()
    for _ in range(500):
        overhead.learn(moments(service.requests(40)))
    assert overhead.tokens == pytest.approx(FIRST / EACH, rel=0.2)


def test_a_model_that_became_slower_has_the_same_overhead() -> None:
    overhead, service = TokenOverhead(TICK), Service()
    for _ in range(500):
        overhead.learn(moments(service.requests(40, slower=3.0)))
    assert overhead.tokens == pytest.approx(FIRST / EACH, rel=0.2)


@pytest.mark.parametrize(
    "requests",
    [
        [(100, 2.0 + 0.001 * (number % 7)) for number in range(1000)],  # always the same length
        [(100 + number % 50, 2.0 - 0.001 * (number % 50)) for number in range(1000)],  # longer is quicker
        [(0, 0.0)] * 1000,
        [(50 + number % 100, 2.0) for number in range(LEAST_REQUESTS - 1)],
        [],
    ],
)
def test_where_nothing_can_be_seen_there_is_none(requests: list[tuple[int, float]]) -> None:
    overhead = TokenOverhead(TICK)
    assert overhead.learn(moments(requests)) == 0.0
    assert overhead.tokens == 0.0


def test_latency_that_hardly_depends_on_tokens_has_the_largest() -> None:
    chance = random.Random(1)
    requests = [
        (n := chance.randrange(50, 150), 5.0 + 0.001 * n + chance.gauss(0, 0.01)) for _ in range(5000)
    ]
    overhead = TokenOverhead(TICK)
    overhead.learn(moments(requests))
    assert overhead.tokens == pytest.approx(MOST * 100, rel=0.1)


def test_it_says_by_how_much_normalised_latencies_move() -> None:
    overhead, service = TokenOverhead(TICK), Service()
    moved = sum(overhead.learn(moments(service.requests(40))) for _ in range(200))
    assert moved == pytest.approx(-0.07, abs=0.02)  # log(200 / 215)


def test_what_was_learned_is_restored_and_nonsense_refused() -> None:
    overhead, service = TokenOverhead(TICK), Service()
    for _ in range(100):
        overhead.learn(moments(service.requests(40)))
    other = TokenOverhead(TICK)
    other.restore(json.loads(json.dumps(overhead.state())))
    assert (other.tokens, other.state()) == (overhead.tokens, overhead.state())
    for wrong in (
        {"sums": [1.0], "tokens": 0.0},
        {"sums": [-1.0] * 6, "tokens": 0.0},
        {"sums": None, "tokens": 0.0},
    ):
        with pytest.raises(ValueError, match="sums"):
            TokenOverhead(TICK).restore(wrong)


def run(
    degradation: Degradation, service: Service, begin: int, ticks: int, **other: float
) -> Iterator[Evidence]:
    for place in range(begin, begin + ticks):
        builder = TickBuilder(degradation.overhead(CHAT))
        for tokens, seconds in service.requests(40, **other):
            builder.add(seconds, tokens=tokens)
        yield from degradation.tick(place * TICK, {CHAT: builder.tick()})


@pytest.fixture(scope="module")
def learned() -> str:
    degradation = Degradation(TICK, LEARNING * TICK)
    for _ in run(degradation, Service(), 0, LEARNING):
        pass
    return json.dumps(degradation.state(LEARNING * TICK))


def knowing(learned: str) -> Degradation:
    degradation = Degradation(TICK, LEARNING * TICK)
    degradation.restore(json.loads(learned), LEARNING * TICK)
    return degradation


@pytest.mark.parametrize("mean", [100.0, 50.0, 400.0])
def test_answers_of_another_length_are_no_slower_model(learned: str, mean: float) -> None:
    evidences = list(run(knowing(learned), Service(2), LEARNING, 120, mean=mean))
    high = {each.rule for each in evidences if each.score >= ON[each.rule]}
    assert high & {"latency.shift", "latency.drift", "model.imbalance"} == set()


@pytest.mark.parametrize("mean", [200.0, 100.0])
def test_a_slower_model_is_found_whatever_the_length(learned: str, mean: float) -> None:
    evidences = list(run(knowing(learned), Service(3), LEARNING, 30, mean=mean, slower=1.5))
    assert any(each.rule == "latency.shift" and each.score >= ON[each.rule] for each in evidences)
