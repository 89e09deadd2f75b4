"""The trim steps below a hint that breaks the promise, and comes back."""

from __future__ import annotations

from otel_aimon.hinting.slo_trim import FENCE, LEAST_COMPLETIONS, RATIO, RETRY_WINDOWS, SloTrim


class Windows:
    """Feeds a trim with whole windows."""

    def __init__(self) -> None:
        self.trim = SloTrim()
        self.now = 0.0

    def window(
        self, violations: float, *, completions: int = LEAST_COMPLETIONS, rejected: bool = True
    ) -> int:
        if rejected:
            self.trim.rejected()
        self.now += 2.0
        for place in range(completions):
            self.trim.ended(self.now, 1.0, good=place >= violations * completions)
        return self.trim.step


def test_at_first_the_hint_is_trusted() -> None:
    assert SloTrim().factor == 1.0


def test_two_bad_windows_are_a_step_down() -> None:
    windows = Windows()
    assert windows.window(0.6) == 0
    assert windows.window(0.6) == -1
    assert windows.trim.factor == 1 / RATIO


def test_one_bad_window_is_the_past() -> None:
    windows = Windows()
    assert [windows.window(share) for share in (0.6, 0.3, 0.6, 0.3)] == [0, 0, 0, 0]


def test_the_fence_holds() -> None:
    windows = Windows()
    assert [windows.window(0.9) for _ in range(50)][-1] == -FENCE


def test_comes_back_when_the_promise_is_kept_or_there_is_room() -> None:
    for kept in ({"violations": 0.0}, {"violations": 0.9, "rejected": False}):
        windows = Windows()
        for _ in range(5):
            windows.window(0.9)
        assert windows.trim.step < -1
        for _ in range(FENCE):
            windows.window(**kept)  # type: ignore[arg-type]
        assert windows.trim.step == 0


def test_a_step_that_costs_goodput_is_taken_back() -> None:
    windows = Windows()
    windows.window(0.5)
    assert windows.window(0.5) == -1
    # The same share is broken with fewer requests: the promise is broken at any limit.
    windows.now += 2.0
    assert windows.window(0.5) == 0
    assert [windows.window(0.5) for _ in range(RETRY_WINDOWS - 1)] == [0] * (RETRY_WINDOWS - 1)


def test_what_was_not_seen_at_the_limit_is_not_judged() -> None:
    windows = Windows()
    windows.window(0.9)
    for _ in range(LEAST_COMPLETIONS - 1):
        windows.trim.ended(windows.now + 5, 1.0, good=False)
    windows.trim.restart(windows.now + 5)
    windows.trim.ended(windows.now + 9, 1.0, good=False)
    assert windows.trim.step == 0
