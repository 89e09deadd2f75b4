"""Ten minutes of threads, tasks, streams, errors, cancellations and forks: in the end no slot is held.

    python benchmarks/limiter_soak.py [--seconds 600] [--json]

Everything that can happen to a request happens at random to requests of three models. The exit status is 1 when a
slot is held in the end, or somebody still waits, here or in a forked child.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import threading
import time
from collections import Counter
from contextvars import Context

import otel_aimon
from otel_aimon.hinting.limiters import LIMITERS

MODELS = ("one", "two", "three")
PRIORITIES = ("low", "normal", "high")
THREADS = 4
TASKS = 40
FORK_EVERY = 5.0


class Failure(Exception):
    """What a model raises now and then."""


class Soak:
    """Runs everything until its time is over."""

    def __init__(self, seconds, seed):
        self.until = time.monotonic() + seconds
        self.random = random.Random(seed)
        self.counts = Counter()

    @property
    def over(self):
        return time.monotonic() >= self.until

    def admission(self, chance):
        return otel_aimon.limiter(
            chance.choice(MODELS),
            priority=chance.choice(PRIORITIES),
            max_wait=chance.choice((0.0, 0.0, 0.01, 0.1)),
        )

    def count(self, outcome):
        self.counts[outcome] += 1

    def threads(self, seed):
        """Requests on a thread: most end well, some fail, some are streams that are dropped."""
        chance = random.Random(seed)
        while not self.over:
            # A context of its own for each, as a server gives it to a request.
            Context().run(self.one, chance)

    def one(self, chance):
        kind = chance.random()
        try:
            if kind < 0.7:
                with self.admission(chance):
                    time.sleep(chance.random() * 0.004)
                    if chance.random() < 0.2:
                        raise Failure
                self.count("completed")
            elif kind < 0.8:
                with self.admission(chance), self.admission(chance):
                    time.sleep(chance.random() * 0.004)
                self.count("nested")
            else:
                self.stream(chance)
        except Failure:
            self.count("failed")
        except otel_aimon.LimitExceededError:
            self.count("refused")

    def stream(self, chance):
        @self.admission(chance)
        def words():
            for _ in range(10):
                time.sleep(0.0005)
                yield "word"

        running = words()
        for _ in range(chance.randrange(1, 12)):
            if next(running, None) is None:
                self.count("streamed")
                return
        if chance.random() < 0.5:
            running.close()
            self.count("closed")
        else:
            del running
            self.count("dropped")

    async def tasks(self):
        """Tasks, each of which is cancelled at a random moment, or not."""
        running = set()
        while not self.over:
            while len(running) < TASKS:
                running.add(asyncio.create_task(self.task(random.Random(self.random.random()))))
            _done, running = await asyncio.wait(running, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
            for each in list(running):
                if self.random.random() < 0.05:
                    each.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def task(self, chance):
        try:
            async with self.admission(chance):
                await asyncio.sleep(chance.random() * 0.02)
                if chance.random() < 0.1:
                    raise Failure
            self.count("task completed")
        except asyncio.CancelledError:
            self.count("task cancelled")
            raise
        except Failure:
            self.count("task failed")
        except otel_aimon.LimitExceededError:
            self.count("task refused")

    def forks(self):
        """Children, forked while slots are held, that have slots of their own."""
        while not self.over:
            time.sleep(min(FORK_EVERY, max(0.0, self.until - time.monotonic())))
            child = os.fork()
            if not child:
                os._exit(self.child())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            self.count("forked" if status == 0 else "fork failed")

    @staticmethod
    def child():
        try:
            if held():
                return 1
            for model in MODELS:
                with otel_aimon.limiter(model):
                    if not LIMITERS.get(model).in_flight:
                        return 2
            return 3 if held() else 0
        except BaseException:
            return 4

    def run(self):
        workers = [
            threading.Thread(target=self.threads, args=(self.random.random(),)) for _ in range(THREADS)
        ]
        workers.append(threading.Thread(target=lambda: asyncio.run(self.tasks())))
        workers.append(threading.Thread(target=self.forks))
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        gc.collect()


def held():
    """Slots that are held, and requests that wait."""
    return sum(limiter.in_flight + limiter.waiting for limiter in LIMITERS.all())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    otel_aimon.instrument(limiter="enforce", resources="none", alerts=False, slos="e2e=99%<50ms")
    soak = Soak(args.seconds, args.seed)
    soak.run()
    left = held()
    figures = {"seconds": args.seconds, "held": left, **dict(sorted(soak.counts.items()))}
    if args.json:
        print(json.dumps(figures))
    else:
        for name, number in figures.items():
            print(f"{name:16} {number:>10g}")
    return 1 if left or soak.counts["fork failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
