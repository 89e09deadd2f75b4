"""A small model service: two digit classifiers and a streamed text generator.

Start it with nothing but OpenTelemetry's own command, and every inference is a span and metric points::

    opentelemetry-instrument uvicorn --app-dir examples service:app

    curl localhost:8000/samples
    curl -d '{"rows": [[0, 0, 5, ...]]}' -H 'content-type: application/json' localhost:8000/classify
    curl -N 'localhost:8000/generate?prompt=the+data&tokens=40'

The classifiers know nothing of telemetry. The generator is a model of the service's own, which no
instrumentation can know: one decorator records it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from onnx import TensorProto, helper
from pydantic import BaseModel
from sklearn import datasets
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import otel_aimon

if TYPE_CHECKING:
    from collections.abc import Iterator

# --- the models --------------------------------------------------------------------------------


def train_classifier() -> tuple:
    """A digit classifier, and digits that it has not seen."""
    pixels, digits = datasets.load_digits(return_X_y=True)
    train, unseen, train_labels, _ = train_test_split(pixels, digits, test_size=50, random_state=0)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    return classifier.fit(train, train_labels), unseen


def as_onnx(classifier) -> onnxruntime.InferenceSession:
    """The same classifier as an ONNX model: scale, multiply, add, take the largest score."""
    scaler, regression = classifier[0], classifier[-1]
    weights = {
        "mean": scaler.mean_,
        "scale": scaler.scale_,
        "coefficients": regression.coef_.T,
        "intercept": regression.intercept_,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "scale"], ["scaled"]),
            helper.make_node("MatMul", ["scaled", "coefficients"], ["products"]),
            helper.make_node("Add", ["products", "intercept"], ["scores"]),
            helper.make_node("ArgMax", ["scores"], ["digit"], axis=1, keepdims=0),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", len(scaler.mean_)])],
        [helper.make_tensor_value_info("digit", TensorProto.INT64, ["rows"])],
        [
            helper.make_tensor(
                name, TensorProto.FLOAT, values.shape, values.astype(np.float32).tobytes(), raw=True
            )
            for name, values in weights.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


class TextModel:
    """An interpolated n-gram model over words: each order is smoothed by the one below it."""

    SMOOTHING = 0.5

    def __init__(self, text: str, order: int = 4) -> None:
        self.order = order
        words = text.split()
        self.vocabulary = sorted(set(words))
        ids = {word: index for index, word in enumerate(self.vocabulary)}
        self.counts: defaultdict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
        for end, word in enumerate(words):
            for length in range(min(order, end + 1)):
                self.counts[tuple(words[end - length : end])][ids[word]] += 1

    def probabilities(self, context: list[str]) -> np.ndarray:
        """How likely each word is to come next."""
        likely = np.full(len(self.vocabulary), 1 / len(self.vocabulary))
        for length in range(min(self.order, len(context) + 1)):
            counts = self.counts.get(tuple(context[len(context) - length :]))
            if counts is None:
                break
            likely *= self.SMOOTHING
            likely[list(counts)] += list(counts.values())
            likely /= self.SMOOTHING + counts.total()
        return likely

    def stream(self, prompt: str, tokens: int, seed: int) -> Iterator[str]:
        """Yield ``tokens`` words, one by one."""
        random = np.random.default_rng(seed)
        context = prompt.split()
        for _ in range(tokens):
            likely = self.probabilities(context[-self.order + 1 :])
            word = self.vocabulary[random.choice(len(likely), p=likely / likely.sum())]
            context.append(word)
            yield word + " "


def descriptions() -> str:
    """The text that comes with scikit-learn's data sets."""
    loaders = (
        datasets.load_breast_cancer,
        datasets.load_diabetes,
        datasets.load_digits,
        datasets.load_iris,
        datasets.load_linnerud,
        datasets.load_wine,
    )
    return "\n".join(load().DESCR for load in loaders)


# --- the service -------------------------------------------------------------------------------


app = FastAPI()
classifier, unseen_digits = train_classifier()
session = as_onnx(classifier)
text = descriptions()


def recorded(order: int) -> tuple:
    """Name and stream of a text model; one decorator records every text."""
    name = f"word-{order}gram"
    decorate = otel_aimon.monitor(operation="text_completion", model=name, token_per_item=True)
    return name, decorate(TextModel(text, order).stream)


text_models = dict(map(recorded, (4, 2)))


class Images(BaseModel):
    """Images of digits, 64 grey values each."""

    rows: list[list[float]]


@app.get("/health")
def health() -> dict[str, str]:
    """Tell that the models are loaded."""
    return {"status": "ready"}


@app.get("/samples")
def samples() -> Images:
    """Images to try the classifiers with."""
    return Images(rows=unseen_digits.tolist())


@app.post("/classify")
def classify(images: Images) -> list[int]:
    """Classify with scikit-learn."""
    try:
        return classifier.predict(images.rows).tolist()
    except ValueError as error:
        raise HTTPException(422, "every row needs 64 values") from error


@app.post("/classify/onnx")
def classify_onnx(images: Images) -> list[int]:
    """Classify with ONNX Runtime."""
    return session.run(["digit"], {"pixels": np.array(images.rows, np.float32)})[0].tolist()


@app.get("/generate")
def generate(
    prompt: str = "the data", tokens: int = 40, seed: int = 0, model: str = "word-4gram"
) -> StreamingResponse:
    """Stream text, word by word."""
    if model not in text_models:
        raise HTTPException(404, f"the models are {', '.join(text_models)}")
    return StreamingResponse(text_models[model](prompt, tokens, seed), media_type="text/plain")


@app.post("/rebuild")
def rebuild(seconds: float = 4.0) -> int:
    """Rebuild the text model, again and again: what nobody should do in a process that serves.

    Counting words is pure Python, so that all requests wait for the interpreter.
    """
    until, rebuilt = time.monotonic() + min(seconds, 60.0), 0
    while time.monotonic() < until:
        TextModel(text)
        rebuilt += 1
    return rebuilt
