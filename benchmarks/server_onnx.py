"""A service that is bound by its CPU: an ONNX model of some milliseconds, on uvicorn's threads."""

from __future__ import annotations

import numpy as np
import onnxruntime
from fastapi import FastAPI
from onnx import TensorProto, helper
from server_gate import Gate

WIDTH, LAYERS = 512, 12


def session():
    random = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(LAYERS):
        values = random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
        weights.append(
            helper.make_tensor(f"w{layer}", TensorProto.FLOAT, values.shape, values.tobytes(), raw=True)
        )
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"y{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"y{layer}"], [f"x{layer + 1}"]))
    shape = ["rows", WIDTH]
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(f"x{LAYERS}", TensorProto.FLOAT, shape)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


app = FastAPI()
app.add_middleware(Gate)
model = session()
rows = np.ones((256, WIDTH), np.float32)


@app.get("/predict")
def predict() -> int:
    return int(model.run(None, {"x0": rows})[0].shape[0])
