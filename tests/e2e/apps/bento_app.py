"""A BentoML service: one classifier, served alone, asynchronously, in batches and as streams."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Generator

import bentoml
import numpy as np
from sklearn.linear_model import LogisticRegression

ROWS = np.array([[0.0], [1.0], [2.0], [3.0]])


@bentoml.service(name="tiny", traffic={"timeout": 5})
class Tiny:
    def __init__(self) -> None:
        self.model = LogisticRegression().fit(ROWS, [0, 0, 1, 1])

    def _ask(self, x: float) -> int:
        return int(self.model.predict([[x]])[0])

    @bentoml.api
    def alone(self, x: float) -> int:
        if x < 0:
            raise KeyError("the secret payload")
        if x > 100:
            time.sleep(0.5)
        return self._ask(x)

    @bentoml.api
    async def soon(self, x: float) -> int:
        if x > 100:
            await asyncio.sleep(x)
        return self._ask(x)

    @bentoml.api(batchable=True, max_batch_size=4, max_latency_ms=10000)
    def batched(self, xs: list[float]) -> list[int]:
        if -1 in xs:
            raise KeyError("the secret payload")
        time.sleep(0.2)
        return [int(y) for y in self.model.predict([[x] for x in xs])]

    @bentoml.api
    async def streamed(self, n: int) -> AsyncGenerator[str, None]:
        for row in range(n):
            if row == 7:
                raise KeyError("the secret payload")
            yield f"{self._ask(row)}\n"
            await asyncio.sleep(0.02)

    @bentoml.api
    def threaded(self, n: int) -> Generator[str, None, None]:
        for row in range(n):
            yield f"{self._ask(row)}\n"
            time.sleep(0.02)


@bentoml.service(name="twice", workers=2)
class Twice(Tiny.inner):
    pass


TRACING = {
    "sample_rate": 1.0,
    "exporter_type": "otlp",
    "otlp": {"protocol": "http", "endpoint": f"{os.environ['OTEL_EXPORTER_OTLP_ENDPOINT']}/v1/traces"},
}


@bentoml.service(name="traced", tracing=TRACING)
class Traced(Tiny.inner):
    pass
