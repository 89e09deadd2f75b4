"""The batch-size hint."""

from __future__ import annotations

import pytest

from otel_aimon.hinting.batch_size import BatchSizeAdvisor, BatchSizeHint

ALPHA, BETA = 0.02, 0.001


def hint(sizes: range, **options: float) -> BatchSizeHint | None:
    advisor = BatchSizeAdvisor()
    for _ in range(50):
        for size in sizes:
            advisor.add(size, ALPHA + BETA * size)
    return advisor.hint(**options)


def test_eighty_per_cent_of_the_throughput_is_enough() -> None:
    found = hint(range(1, 100))
    assert found is not None
    assert (found.basis, found.longest_wait) == ("elasticity", None)
    assert found.size == pytest.approx(4 * ALPHA / BETA, rel=0.1)


def test_the_line_is_not_believed_far_beyond_what_was_seen() -> None:
    found = hint(range(1, 9))
    assert found is not None
    assert (found.basis, found.size) == ("seen", 16)


def test_the_promise_binds() -> None:
    found = hint(range(1, 100), slo=0.06, wait=0.01)
    assert found is not None
    assert found.basis == "slo"
    assert found.size == pytest.approx((0.06 - 0.01 - ALPHA) / BETA, rel=0.1)


def test_memory_binds() -> None:
    found = hint(range(1, 100), free_bytes=1e9, bytes_per_item=1e8)
    assert found is not None
    assert (found.basis, found.size) == ("memory", 10)


def test_a_batch_does_not_wait_longer_than_it_takes_to_fill() -> None:
    quick = hint(range(1, 9), slo=1.0, arrival_rate=1600)
    slow = hint(range(1, 9), slo=1.0, arrival_rate=1)
    assert quick is not None
    assert slow is not None
    assert quick.longest_wait == pytest.approx(0.01)
    assert slow.longest_wait == pytest.approx(0.1)


def test_a_batch_has_an_item() -> None:
    found = hint(range(1, 9), slo=0.001)
    assert found is not None
    assert found.size == 1


def test_batches_that_are_all_alike_tell_nothing() -> None:
    assert hint(range(8, 9)) is None
    assert BatchSizeAdvisor().hint() is None
