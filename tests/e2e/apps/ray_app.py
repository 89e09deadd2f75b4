"""A Ray Serve application: one classifier, served over HTTP, through a handle, in batches and as streams."""

import asyncio
import signal
import sys
import time

import numpy as np
import ray
from ray import serve
from sklearn.linear_model import LogisticRegression
from starlette.responses import PlainTextResponse, StreamingResponse

ROWS = np.array([[0.0], [1.0], [2.0], [3.0]])


class Model:
    def __init__(self):
        self.model = LogisticRegression().fit(ROWS, [0, 0, 1, 1])

    def ask(self, x):
        return int(self.model.predict([[x]])[0])


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Alone(Model):
    async def __call__(self, request):
        x = (await request.json())["x"]
        if x == "broken":
            raise KeyError("the secret payload")
        if x == "refused":
            return PlainTextResponse("the secret payload", status_code=503)
        return {"y": self.ask(x)}

    def predict(self, x):
        if x == "broken":
            raise KeyError("the secret payload")
        return self.ask(x)

    def streamed(self, n):
        for row in range(n):
            yield self.ask(row)


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Batched(Model):
    @serve.batch(max_batch_size=4, batch_wait_timeout_s=0.5)
    async def together(self, xs):
        if "broken" in xs:
            raise KeyError("the secret payload")
        return [int(y) for y in self.model.predict([[x] for x in xs])]

    async def __call__(self, request):
        return {"y": await self.together((await request.json())["x"])}


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Streamed(Model):
    async def spell(self, n):
        for row in range(n):
            if row == 7:
                raise KeyError("the secret payload")
            yield f"{self.ask(row)}\n"
            await asyncio.sleep(0.05)

    async def __call__(self, request):
        return StreamingResponse(self.spell((await request.json())["x"]), media_type="text/plain")


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Front:
    def __init__(self, model):
        self.model = model

    async def __call__(self, request):
        x = (await request.json())["x"]
        if x == "stream":
            return {"y": [each async for each in self.model.options(stream=True).streamed.remote(3)]}
        return {"y": await self.model.predict.remote(x)}


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0})
class Twice(Alone.func_or_class):
    pass


APPS = {
    "alone": lambda: Alone.bind(),
    "batched": lambda: Batched.bind(),
    "streamed": lambda: Streamed.bind(),
    "chained": lambda: Front.bind(Alone.bind()),
    "twice": lambda: Twice.bind(),
}


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Health:
    def __call__(self, _request):
        return PlainTextResponse("ready")


if __name__ == "__main__":
    port, *chosen = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    for name in chosen:
        serve.run(APPS[name](), name=name, route_prefix=f"/{name}")
    serve.run(Health.bind(), name="health", route_prefix="/health")
    try:
        while True:
            time.sleep(0.2)
    finally:
        serve.shutdown()
        ray.shutdown()
