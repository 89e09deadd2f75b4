"""TensorFlow, Keras and JAX serve: calls that succeed, that fail and that are interrupted. Its argument is a folder."""

import contextlib
import sys

import jax
import keras
import numpy as np
import tensorflow as tf

import otel_aimon

rows, targets = np.ones((5, 8), "f"), np.ones((5, 4), "f")


class Interrupting(keras.callbacks.Callback):
    def on_predict_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(4)], name="ranker")
model.compile("sgd", "mse")
model.fit(rows, targets, verbose=0)
model.evaluate(rows, targets, verbose=0)
model.predict(rows, verbose=0)
model.predict_on_batch(rows)
model(rows)
with contextlib.suppress(ValueError):
    model(np.ones((2, 7), "f"))
with contextlib.suppress(KeyboardInterrupt):
    model.predict(rows, verbose=0, callbacks=[Interrupting()])

folder = f"{sys.argv[1]}/exported/1"
model.export(folder)
loaded = tf.saved_model.load(folder)
for _ in range(2):
    loaded.signatures["serving_default"](tf.constant(rows))
loaded.serve(rows)
with contextlib.suppress(TypeError):
    loaded.serve(np.ones((2, 7), "f"))
with otel_aimon.inference("rank", model="by-hand"):
    loaded.serve(rows)

score = otel_aimon.monitor_jax(jax.jit(lambda weights, rows: rows @ weights), model="jitted", batch_argnum=1)
for _ in range(3):
    score(np.ones((8, 4), "f"), rows)
with contextlib.suppress(TypeError):
    score(np.ones((9, 4), "f"), rows)
