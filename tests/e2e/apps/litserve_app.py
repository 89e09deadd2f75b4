"""A LitServe server: one classifier, served alone, in batches, as a stream, asynchronously, step by step."""

import sys
import time

import litserve as ls
import numpy as np
from fastapi import HTTPException
from litserve.loops.continuous_batching_loop import ContinuousBatchingLoop, Output
from litserve.utils import LitAPIStatus
from sklearn.linear_model import LogisticRegression

ROWS = np.array([[0.0], [1.0], [2.0], [3.0]])


class Served(ls.LitAPI):
    def setup(self, device):
        self.model = LogisticRegression().fit(ROWS, [0, 0, 1, 1])

    def decode_request(self, request):
        return request["x"]

    def encode_response(self, output):
        return {"y": output}


class Alone(Served):
    def predict(self, x):
        if x == "broken":
            raise KeyError("the secret payload")
        if x == "refused":
            raise HTTPException(418, "the secret payload")
        if x == "slow":
            time.sleep(3)
            x = 0
        return int(self.model.predict([[x]])[0])


class Batched(Served):
    def predict(self, xs):
        if "broken" in xs:
            raise KeyError("the secret payload")
        return [int(y) for y in self.model.predict([[x] for x in xs])]


class Streamed(Served):
    def predict(self, x):
        for row in range(x):
            if row == 7:
                raise KeyError("the secret payload")
            yield int(self.model.predict([[row]])[0])
            time.sleep(0.01)

    def encode_response(self, output):
        for each in output:
            yield {"y": each}


class Talk(Served):
    def decode_request(self, request):
        return request

    def predict(self, x):
        for row in range(3):
            yield str(int(self.model.predict([[row]])[0]))

    def encode_response(self, output):
        for each in output:
            yield {"role": "assistant", "content": each}


class Together(Served):
    async def predict(self, x):
        return int(self.model.predict([[x]])[0])


class Stepwise(Served):
    def setup(self, device):
        super().setup(device)
        self.left = {}

    def add_request(self, uid, request):
        self.left[uid] = request["x"]

    def has_active_requests(self):
        return bool(self.left)

    def has_capacity(self):
        return len(self.left) < 4

    def step(self, _previous):
        self.model.predict([[left] for left in self.left.values()])
        outputs = []
        for uid in list(self.left):
            self.left[uid] -= 1
            done = self.left[uid] < 0
            outputs.append(
                Output(uid, "" if done else "x", LitAPIStatus.FINISH_STREAMING if done else LitAPIStatus.OK)
            )
            if done:
                del self.left[uid]
        return outputs

    def encode_response(self, output):
        return {"y": output}


if __name__ == "__main__":
    apis = {
        "alone": lambda: Alone(api_path="/alone"),
        "batched": lambda: Batched(max_batch_size=4, batch_timeout=0.5, api_path="/batched"),
        "streamed": lambda: Streamed(stream=True, api_path="/streamed"),
        "together": lambda: Together(enable_async=True, api_path="/together"),
        "talk": lambda: Talk(spec=ls.OpenAISpec()),
        "stepwise": lambda: Stepwise(
            stream=True, max_batch_size=4, loop=ContinuousBatchingLoop(), api_path="/stepwise"
        ),
    }
    port, workers, timeout, *chosen = sys.argv[1:]
    server = ls.LitServer(
        [apis[name]() for name in chosen],
        accelerator="cpu",
        workers_per_device=int(workers),
        timeout=float(timeout),
    )
    server.run(
        host="127.0.0.1", port=int(port), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
