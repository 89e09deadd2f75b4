"""Libraries that applications call, each in a process of its own: whole telemetry, good and bad."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served import Served, span

Spans = list[tuple[Any, ...]]


def torch() -> Spans:
    forward = partial(span, "torch", "forward", batch=3)
    return [
        forward("Scorer"),
        forward("Scorer", error="RuntimeError"),
        forward("Scorer", error="cancelled"),
        forward("Scorer"),
    ]


def onnxruntime() -> Spans:
    run = partial(span, "onnxruntime", "run", "doubling")
    errors = "onnxruntime.capi.onnxruntime_pybind11_state"
    return [
        run(batch=5),
        run(batch=5, error=f"{errors}.InvalidArgument"),
        run(batch=5),
        run(),
        run(batch=5, error=f"{errors}.Fail"),
    ]


def sklearn() -> Spans:
    model = "Pipeline(LogisticRegression)"
    return [
        span("sklearn", "predict", model, batch=20),
        span("sklearn", "predict_proba", model, batch=3),
        span("sklearn", "predict", model, batch=20, error="ValueError"),
        span("sklearn", "predict", model, batch=20, error="cancelled"),
    ]


def xgboost() -> Spans:
    predict = partial(span, "xgboost", "predict")
    return [
        predict("Booster", batch=20),
        predict("Booster", batch=3),
        predict("XGBClassifier", batch=20),
        predict("XGBClassifier", batch=20, device=None, error="ValueError"),
    ]


def lightgbm() -> Spans:
    predict = partial(span, "lightgbm", "predict")
    return [
        predict("Booster", batch=20),
        predict("LGBMClassifier", batch=3),
        predict("LGBMClassifier", batch=20, error="ValueError"),
    ]


def catboost() -> Spans:
    model = "CatBoostClassifier"
    return [
        span("catboost", "predict", model, batch=20),
        span("catboost", "staged_predict", model, batch=3),
        span("catboost", "staged_predict", model, batch=20, error="cancelled"),
        span("catboost", "predict", model, batch=20, error="_catboost.CatBoostError"),
    ]


def spacy() -> Spans:
    call = partial(span, "spacy", "call", "en_tiny", batch=1, device=None)
    pipe = partial(span, "spacy", "pipe", "en_tiny", device=None)
    return [
        call(),
        pipe(batch=3),
        pipe(batch=1, error="cancelled"),
        call(error="LookupError"),
        call(error="ValueError"),  # the text is too long
        call(error="cancelled"),
    ]


def transformers() -> Spans:
    def generated(sequences: int = 1, *, model: str = "tiny/llama", **known: Any) -> tuple[Any, ...]:
        reasons = ("length",) * sequences
        return span(
            "transformers", "text_completion", model, batch=sequences, output=5 * sequences, reasons=reasons,
            ttft=True, **known,
        )  # fmt: skip

    def sorted_(batch: int = 1, error: str | None = None) -> tuple[Any, ...]:
        return span("transformers", "text-classification", "tiny/bert", batch=batch, error=error)

    forward = partial(span, "torch", "forward", "tiny/bert", batch=1)
    inside = "text-classification tiny/bert"
    return [
        generated(input=3),
        generated(input=3, model="tiny/t5"),
        generated(2, input=4),
        generated(input=1, parent="text_completion tiny/llama"),
        generated(input=3, parent="text_completion tiny/llama"),
        *(sorted_(), forward(parent=inside)),
        *(sorted_(batch=3), *[forward(parent=inside)] * 3),
        *(sorted_(error="cancelled"), forward(parent=inside)),
        span("transformers", "text_completion", "tiny/llama", batch=1, input=3, ttft=True, error="cancelled"),
        span("transformers", "text_completion", "tiny/llama", batch=1, input=3, error="ValueError"),
        # The prompt is too long for the model.
        forward(error="RuntimeError"),
        *(sorted_(error="RuntimeError"), forward(parent=inside, error="RuntimeError")),
    ]


def sentence_transformers() -> Spans:
    encode = partial(span, "sentence_transformers", "embeddings", "model")
    old = importlib.metadata.version("sentence-transformers").startswith("5.")
    forward = partial(span, "torch", "forward", "model", parent="embeddings model")
    sizes = (
        (2, 1, 1) if old else (None, None, None)
    )  # The encoder's input is a dictionary; the model's is not.
    stages = [forward(batch=size) for size in sizes]
    return [
        *(encode(batch=3, input=15), *stages[:2]),
        *(encode(batch=1, input=256), stages[2]),  # The text is cut off at what the model takes.
        encode(batch=1, error="ValueError"),
    ]


STREAMED = {"transformers": {"tiny/llama": 2, "tiny/t5": 1}}
"""Requests by model whose first token and further ones were timed, and that succeeded."""


@pytest.mark.parametrize(
    "expected",
    [torch, onnxruntime, sklearn, xgboost, lightgbm, catboost, spacy, transformers, sentence_transformers],
    ids=lambda expected: expected.__name__,
)
def test_whole_telemetry(expected: Callable[[], Spans], tmp_path: Path) -> None:
    library = expected.__name__
    pytest.importorskip(library)
    served = Served(library, tmp_path, "libraries.py")

    assert "otel-aimon" not in served.stderr
    assert "Traceback" not in served.stderr
    assert served.spans == expected()
    served.assert_counted()
    timed = {("text_completion", library, model): count for model, count in STREAMED.get(library, {}).items()}
    for metric in ("time_to_first_token", "time_per_output_token"):
        assert served.values(f"gen_ai.server.{metric}") == timed
