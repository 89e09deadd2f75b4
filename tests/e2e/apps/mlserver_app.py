"""A model for MLServer: one classifier, whole and as a stream."""

import asyncio

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse
from sklearn.linear_model import LogisticRegression

ROWS = np.array([[0.0], [1.0], [2.0], [3.0]])


class Classifier(MLModel):
    async def load(self):
        self.model = LogisticRegression().fit(ROWS, [0, 0, 1, 1])
        return True

    def respond(self, rows):
        output = NumpyCodec.encode_output("y", self.model.predict(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0])
        if rows[0][0] == -1:
            raise KeyError("the secret payload")
        if rows[0][0] == -2:
            raise InferenceError("the secret payload")
        if rows[0][0] > 100:
            await asyncio.sleep(60)
        return self.respond(rows)

    async def predict_stream(self, payloads):
        async for payload in payloads:
            rows = NumpyCodec.decode_input(payload.inputs[0])
            for number, row in enumerate(rows):
                if row[0] == -1:
                    raise KeyError("the secret payload")
                if number:
                    await asyncio.sleep(0.05)
                yield self.respond([row])
