"""A KServe server: one classifier, over REST and gRPC."""

import asyncio
import sys

import kserve
import numpy as np
from kserve.errors import InvalidInput
from sklearn.linear_model import LogisticRegression

ROWS = np.array([[0.0], [1.0], [2.0], [3.0]])


class Classifier(kserve.Model):
    def load(self):
        self.model = LogisticRegression().fit(ROWS, [0, 0, 1, 1])
        self.ready = True
        return self.ready

    async def predict(self, payload, headers=None):
        if isinstance(payload, dict):
            rows = payload["instances"]
            if rows == ["broken"]:
                raise KeyError("the secret payload")
            if rows == ["refused"]:
                raise InvalidInput("the secret payload")
            return {"predictions": [int(y) for y in self.model.predict(rows)]}
        rows = payload.inputs[0].as_numpy()
        if rows[0][0] > 100:
            await asyncio.sleep(60)
        output = kserve.InferOutput("y", [len(rows)], "INT64")
        output.set_data_from_numpy(self.model.predict(rows).astype(np.int64), binary_data=False)
        return kserve.InferResponse(response_id="1", model_name=self.name, infer_outputs=[output])

    async def explain(self, payload, headers=None):
        return {"explanations": [float(each) for each in self.model.coef_[0]]}


if __name__ == "__main__":
    http, grpc, workers = map(int, sys.argv[1:])
    model = Classifier("iris")
    model.load()
    kserve.ModelServer(http_port=http, grpc_port=grpc, workers=workers, enable_grpc=workers == 1).start(
        [model]
    )
