"""Runtimes of models, which know tensors only."""

from __future__ import annotations

from pathlib import Path

import otel_aimon
from framework_cases.case import Case, constant, temporary_folder


def onnxruntime():
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper
    from onnxruntime.capi.onnxruntime_inference_collection import Session

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = {"x": np.ones((2, 4), np.float32)}
    return constant(Session, "run", lambda: session.run(None, rows))


def openvino():
    import numpy as np
    import openvino

    from tests.support import tiny_openvino

    request = openvino.Core().compile_model(tiny_openvino.linear(), "CPU").create_infer_request()
    rows = np.ones((2, 4), np.float32)
    return constant(openvino.InferRequest, "infer", lambda: request.infer([rows]))


def torch():
    import torch

    class Model(torch.nn.Module):
        def forward(self, x):
            return x

    rows = torch.ones(2, 4)
    model = [None]

    def call():
        with torch.no_grad():
            return model[0](rows)

    def armed():
        # The call of eval() makes it a root.
        model[0] = Model().eval()

    model[0] = Model()
    call.armed = armed
    return call


def tensorflow():
    import tensorflow as tf
    from tensorflow.python.eager.polymorphic_function.concrete_function import ConcreteFunction

    class Model(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4))])
        def score(self, rows):
            return {"scores": rows * 2.0}

    model = Model()
    folder = str(Path(temporary_folder()) / "doubling")
    tf.saved_model.save(model, folder, signatures=model.score)
    rows = tf.ones((2, 4))
    served = []

    def armed():
        # What is loaded while the process is instrumented is known.
        loaded = tf.saved_model.load(folder)
        served[:] = [loaded.signatures["serving_default"], loaded]

    armed()
    call = constant(ConcreteFunction, "__call__", lambda: served[0](rows=rows))
    call.armed = armed
    return call


def keras():
    import keras
    import numpy as np
    from keras.src.backend.tensorflow.trainer import TensorFlowTrainer

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    rows = np.ones((2, 4), np.float32)
    return constant(TensorFlowTrainer, "predict", lambda: model.predict(rows, verbose=0))


def jax():
    import jax.numpy as jnp

    result = jnp.ones(2)
    made = [None]

    def armed():
        made[0] = otel_aimon.monitor_jax(lambda: result, model="constant")

    def call():
        return made[0]()

    made[0] = lambda: result
    call.armed = armed
    return call


def tensorrt():
    from tests.support import tiny_tensorrt

    bindings = tiny_tensorrt.load(Path(temporary_folder()))
    context = tiny_tensorrt.make_context(bindings)
    return constant(bindings.IExecutionContext, "execute_v2", lambda: context.execute_v2([4096, 8192]))


CASES = {
    "onnxruntime": Case("onnxruntime", "`InferenceSession.run`", onnxruntime),
    "torch": Case("torch", "a module", torch),
    "tensorrt": Case("tensorrt", "`IExecutionContext.execute_v2`", tensorrt, "tensorrt_bindings"),
    "openvino": Case("openvino", "`InferRequest.infer`", openvino),
    "tensorflow": Case("tensorflow", "a signature of a SavedModel", tensorflow),
    "keras": Case("keras", "`Model.predict`", keras),
    "jax": Case("jax", "`monitor_jax`", jax),
}
