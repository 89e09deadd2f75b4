"""What a slot of the concurrency limiter costs when there is room: entered and left.

python benchmarks/limiter.py [--rounds N]
"""

from __future__ import annotations

import argparse
from time import perf_counter

from otel_aimon.hinting.limiter import Limiter, Mode
from otel_aimon.hinting.observation import Slo

REPEATS = 7
TARGET = 2e-6


def seconds_each(limiter, rounds):
    """The best of some repeats, so that what else the machine does is left out."""
    best = float("inf")
    for _ in range(REPEATS):
        begin = perf_counter()
        for _ in range(rounds):
            with limiter():
                pass
        best = min(best, (perf_counter() - begin) / rounds)
        limiter._ended.clear()
    return best


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20_000)
    args = parser.parse_args()
    slow = False
    for mode in Mode:
        cost = seconds_each(Limiter("model", Slo(latency=1.0), mode), args.rounds)
        slow |= cost > TARGET
        print(f"{mode.value:8}  {cost * 1e6:.2f} us")
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
