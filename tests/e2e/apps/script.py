"""Five requests by hand, and one by scikit-learn and one by ONNX Runtime, which nobody instruments in code."""

import numpy as np
import onnxruntime
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tiny_model import doubling_model

import otel_aimon

for _ in range(5):
    with otel_aimon.inference("chat", model="by-hand") as call:
        for _ in range(3):
            call.token()
        call.usage(input_tokens=2)

rows, labels = load_iris(return_X_y=True)
LogisticRegression(max_iter=500).fit(rows, labels).predict(rows[:7])
onnxruntime.InferenceSession(doubling_model()).run(None, {"x": np.ones((2, 3), "f")})
