"""TinyEngine, for real: whole telemetry of each way to call it, and of each way that a call may end."""

from __future__ import annotations

import gc
import inspect
import pickle
from typing import Any

import pytest
from conftest import Telemetry
from tinyengine import Model, PromptTooLongError, Tuner

import otel_aimon

MODEL = "adder"


def span(
    operation: str, *, parent: str | None = None, error: str | None = None, **known: Any
) -> dict[str, Any]:
    """A whole span."""
    attributes = {
        "aimon.framework": "tinyengine",
        "aimon.operation": operation,
        "aimon.model.name": MODEL,
        "aimon.device": "cpu",
        **{SHORT[key]: value for key, value in known.items()},
    }
    if operation == "text_completion":
        attributes |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "tinyengine",
            "gen_ai.request.model": MODEL,
        }
    if error:
        attributes["error.type"] = error
    return {
        "name": f"{operation} {MODEL}",
        "kind": "INTERNAL",
        "parent": parent,
        "attributes": attributes,
        "status": "ERROR" if error and error != "cancelled" else "UNSET",
        "events": [],
    }


SHORT = {
    "batch": "aimon.batch.size",
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "ttft": "aimon.time_to_first_token",
}
PREDICTED = ("tinyengine", MODEL, "predict")
GENERATED = ("tinyengine", MODEL, "text_completion")


@pytest.fixture
def model() -> Model:
    return Model(MODEL)


class TestCalls:
    def test_a_call_is_one_request(self, telemetry: Telemetry, model: Model) -> None:
        assert model.predict([[1, 2], [3, 4]]) == [3.0, 7.0]
        assert model.predict(rows=((1, 2),)) == [3.0]  # A tuple: how many rows it has is not asked.
        assert telemetry.spans() == [span("predict", batch=2), span("predict")]
        assert telemetry.counts() == {PREDICTED: 2}
        assert telemetry.sums("aimon.inference.batch.size") == {PREDICTED: 2}

    def test_an_error(self, telemetry: Telemetry, model: Model) -> None:
        with pytest.raises(TypeError):
            model.predict([["a secret"]])
        assert telemetry.spans() == [span("predict", batch=1, error="TypeError")]
        # The values stand in the order of the attributes' names.
        assert telemetry.counts() == {(*PREDICTED, "TypeError"): 1}

    def test_training_is_silent(self, telemetry: Telemetry, model: Model) -> None:
        assert Tuner(model).fit([[1]]) is model
        assert telemetry.spans() == []

    def test_inside_a_request_recorded_by_hand(self, telemetry: Telemetry, model: Model) -> None:
        with otel_aimon.inference("add", model="mine"):
            model.predict([[1]])
        assert telemetry.spans()[1:] == [span("predict", batch=1, parent="add mine")]
        assert telemetry.counts() == {("manual", "mine", "add"): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {PREDICTED: 1}


class TestStreams:
    def test_the_iteration_is_one_request(self, telemetry: Telemetry, model: Model) -> None:
        stream = model.generate([3, 4], max_tokens=3)
        assert inspect.isgenerator(stream)
        assert telemetry.spans() == []
        assert list(stream) == [5, 6, 7]
        assert telemetry.spans() == [span("text_completion", batch=1, input=2, output=3, ttft=True)]
        assert telemetry.counts() == {GENERATED: 1}
        assert telemetry.sums("aimon.inference.tokens") == {
            (*GENERATED, "input"): 2,
            (*GENERATED, "output"): 3,
        }
        gen_ai = ("text_completion", "tinyengine", MODEL)
        for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
            assert telemetry.counts(f"gen_ai.server.{metric}") == {gen_ai: 1}

    def test_the_loop_body_is_the_users(self, telemetry: Telemetry, model: Model) -> None:
        for _ in model.generate([1], max_tokens=1):
            model.predict([[1]])
        assert [each["parent"] for each in telemetry.spans()] == [None, None]

    def test_a_stream_that_is_dropped_is_cancelled(self, telemetry: Telemetry, model: Model) -> None:
        stream = model.generate(prompt=[1])
        next(stream)
        del stream
        gc.collect()
        model.generate([1])  # Never begun: no request.
        otel_aimon.force_flush()
        assert telemetry.spans() == [
            span("text_completion", batch=1, input=1, output=1, ttft=True, error="cancelled")
        ]

    def test_a_prompt_that_is_too_long(self, telemetry: Telemetry, model: Model) -> None:
        with pytest.raises(PromptTooLongError):
            list(model.generate([1] * 17))
        error = "tinyengine.model.PromptTooLongError"
        assert telemetry.spans() == [span("text_completion", batch=1, input=17, output=0, error=error)]


class TestUnchanged:
    def test_every_original_is_put_back(self) -> None:
        before = [vars(Model)["predict"], vars(Model)["generate"], vars(Tuner)["fit"]]
        with Telemetry():
            assert vars(Model)["predict"] is not before[0]
            assert inspect.signature(Model.predict) == inspect.signature(before[0])
            assert pickle.loads(pickle.dumps(Model.predict)) is Model.predict
        assert [vars(Model)["predict"], vars(Model)["generate"], vars(Tuner)["fit"]] == before

    def test_the_users_objects_are_not_touched(self, telemetry: Telemetry, model: Model) -> None:
        class Rows:
            def __iter__(self) -> Any:
                asked.append("iter")
                return iter([[1, 2]])

            def __len__(self) -> int:
                asked.append("len")
                return 1

        asked: list[str] = []
        assert model.predict(Rows()) == [3.0]
        assert asked == ["iter"]  # By the model, once.
