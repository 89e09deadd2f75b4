"""Two models behind HTTP that are slow, fail, hang or leak when they are told to.

The models run in threads, so that one that hangs does not keep the server from answering. Alerts of this
process are written to the file that ``ALERTS`` names, one JSON object per line, as its callback gets them.
"""

import asyncio
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny_model import doubling_model

import otel_aimon

LEAK_BYTES = 8 << 20
"""Of each prediction, while they leak."""

MOST_BYTES = 400 << 20

delay = 0.005
leaks = False
open_gate = threading.Event()
open_gate.set()
leaked = []


def features(rows):
    """Looks features up: what takes its time, and may hang."""
    open_gate.wait()
    time.sleep(delay)
    if leaks and len(leaked) * LEAK_BYTES < MOST_BYTES:
        leaked.append(np.ones(LEAK_BYTES, "u1"))
    return rows


rows, labels = load_iris(return_X_y=True)
classifier = LogisticRegression(max_iter=500).fit(rows, labels)
pipeline = make_pipeline(FunctionTransformer(features), classifier)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 4  # What fails here is meant to.
session = onnxruntime.InferenceSession(doubling_model(), options)


def predict():
    pipeline.predict(rows[:7])


def run():
    session.run(None, {"x": np.ones((2, 3), "f")})


def run_wrong():
    session.run(None, {"x": np.ones((2, 4), "f")})


def slow():
    global delay
    delay = 0.05


def leak():
    global leaks
    leaks = True


def well():
    global delay, leaks
    delay, leaks = 0.005, False
    leaked.clear()
    open_gate.set()


PATHS = {
    "/predict": predict,
    "/run": run,
    "/run-wrong": run_wrong,
    "/slow": slow,
    "/leak": leak,
    "/hang": open_gate.clear,
    "/well": well,
    "/health": lambda: None,
}


def note(event):
    with Path(os.environ["ALERTS"]).open("a") as file:
        file.write(json.dumps({"name": event.name, "body": event.body, **event.attributes}) + "\n")


otel_aimon.on_alert(note)


async def app(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    try:
        await asyncio.to_thread(PATHS[scope["path"]])
        status = 200
    except Exception:
        status = 500
    await send({"type": "http.response.start", "status": status, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
