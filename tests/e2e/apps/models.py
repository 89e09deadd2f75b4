"""What a server serves: two tiny models that nobody instruments in code, and one recorded by hand."""

import by_hand
import numpy as np
import onnxruntime
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from tiny_model import doubling_model

rows, labels = load_iris(return_X_y=True)
classifier = LogisticRegression(max_iter=500).fit(rows, labels)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # A pool of threads would not survive a fork.
session = onnxruntime.InferenceSession(doubling_model(), options)


def predict():
    classifier.predict(rows[:7])


def run():
    session.run(None, {"x": np.ones((2, 3), "f")})


PATHS = {"/predict": predict, "/run": run, **by_hand.PATHS}
