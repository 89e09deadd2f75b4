"""onnxruntime-genai, for real: a turn is a request, from its prompt to its last token."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("onnx")

import numpy as np
import onnxruntime_genai as og

import otel_aimon
from tests.frameworks.whole_spans import generated_span, seen_spans
from tests.support import tiny_genai
from tests.support.telemetry import Telemetry, wait_until

KEEPS_THE_END = not hasattr(og.Generator, "token_count")
"""Whether the id that ends a text is one of its tokens, as in older versions."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_genai.save(tmp_path_factory.mktemp("secret") / "counting")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("onnxruntime_genai",)) as running:
        yield running


@pytest.fixture
def model(telemetry: Telemetry, folder: Path) -> Any:
    return og.Model(str(folder))


def generator(model: Any, **options: Any) -> Any:
    params = og.GeneratorParams(model)
    params.set_search_options(**{"max_length": 20, **options})
    return og.Generator(model, params)


def finish(generating: Any) -> int:
    """Generate to the end, and return the number of steps."""
    steps = 0
    while not generating.is_done():
        generating.generate_next_token()
        steps += 1
    return steps


def span(
    *,
    tokens: tuple[int | None, int | None] = (None, None),
    batch: int = 1,
    error: str | None = None,
    parent: str | None = None,
    ttft: bool = True,
) -> dict[str, Any]:
    """A whole span; the time to the first token is ``True`` where there is one."""
    return generated_span(
        "onnxruntime_genai",
        "text_completion",
        "counting",
        gen_ai="text_completion",
        tokens=tokens,
        batch=batch,
        error=error,
        parent=parent,
        ttft=ttft,
    )


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    return seen_spans(telemetry)


class TestTurn:
    def test_is_one_request(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model)
        generating.append_tokens([3, 10])
        assert spans(telemetry) == []
        assert finish(generating) == 5

        new = len(generating.get_sequence(0)) - 2
        assert new == (5 if KEEPS_THE_END else 4)
        assert spans(telemetry) == [span(tokens=(2, new))]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "onnxruntime_genai",
            "aimon.operation": "text_completion",
            "aimon.model.name": "counting",
        }
        counted = {
            each.attributes["gen_ai.token.type"]: each.value for each in metrics["aimon.inference.tokens"]
        }
        assert counted == {"input": 2, "output": new}
        for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
            [point] = metrics[f"gen_ai.server.{metric}"]
            assert point.count == 1

    def test_that_ends_at_once(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model)
        generating.append_tokens([tiny_genai.EOS - 1])
        finish(generating)

        new = int(KEEPS_THE_END)
        assert spans(telemetry) == [span(tokens=(1, new), ttft=bool(new))]

    def test_that_is_cut_at_the_greatest_length(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model, max_length=5)
        generating.append_tokens([1, 2])
        assert finish(generating) == 3

        assert spans(telemetry) == [span(tokens=(2, 3))]

    @pytest.mark.parametrize("ids", [np.array([3, 10], np.int32), np.array([[3, 10]], np.int32)])
    def test_of_an_array(self, telemetry: Telemetry, model: Any, ids: Any) -> None:
        generating = generator(model, max_length=4)
        generating.append_tokens(ids)
        finish(generating)

        assert spans(telemetry) == [span(tokens=(2, 2))]

    def test_of_a_prompt_in_parts(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model, max_length=6)
        generating.append_tokens([1, 2])
        generating.append_tokens([3])
        finish(generating)

        assert spans(telemetry) == [span(tokens=(3, 3))]

    def test_after_another_is_a_request_of_its_own(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model)
        generating.append_tokens([12])
        finish(generating)
        generating.append_tokens([13])
        finish(generating)

        extra = int(KEEPS_THE_END)
        assert spans(telemetry) == [span(tokens=(1, 2 + extra)), span(tokens=(1, 1 + extra))]

    def test_that_the_user_ends_by_going_on(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model)
        generating.append_tokens([3])
        generating.generate_next_token()
        # The newest version takes a prompt only before a turn, or after it.
        with contextlib.suppress(RuntimeError):
            generating.append_tokens([13])
            finish(generating)

        first, second = spans(telemetry)
        assert first == span(tokens=(1, 1))
        assert second in (
            span(error="RuntimeError", ttft=False),
            span(tokens=(1, 1 + int(KEEPS_THE_END))),
        )

    def test_of_a_batch(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model, batch_size=2, max_length=5)
        generating.append_tokens(np.array([[1, 2], [3, 4]], np.int32))
        finish(generating)

        # Prompts are padded and sequences end one by one: how many tokens count, nobody says.
        assert spans(telemetry) == [span(batch=2)]
        [point] = telemetry.metrics()["gen_ai.server.time_per_output_token"]
        assert point.count == 1

    def test_inside_a_request_by_hand_is_its_stage(self, telemetry: Telemetry, model: Any) -> None:
        with otel_aimon.inference("answer", model="mine"):
            generating = generator(model, max_length=4)
            generating.append_tokens([1, 2])
            finish(generating)

        request, stage = spans(telemetry)
        assert stage == span(tokens=(2, 2), parent=request["name"])
        assert request["attributes"]["gen_ai.usage.output_tokens"] == 2


class TestFailures:
    def test_a_prompt_that_is_too_long(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model)
        with pytest.raises(RuntimeError, match="exceeds max length"):
            generating.append_tokens([3] * 60)

        assert spans(telemetry) == [span(error="RuntimeError", ttft=False)]

    @pytest.mark.skipif(
        not hasattr(og.Generator, "set_runtime_option"), reason="this version cannot terminate a session"
    )
    def test_a_session_that_is_terminated(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model)
        generating.append_tokens([3])
        generating.generate_next_token()
        generating.set_runtime_option("terminate_session", "1")
        with pytest.raises(RuntimeError, match="Terminated"):
            generating.generate_next_token()

        assert spans(telemetry) == [span(tokens=(1, 1), error="RuntimeError")]

    def test_a_generator_that_is_dropped_is_cancelled(self, telemetry: Telemetry, model: Any) -> None:
        generating = generator(model)
        generating.append_tokens([3])
        generating.generate_next_token()
        watched = weakref.ref(generating)
        del generating
        gc.collect()

        assert watched() is None
        wait_until(lambda: spans(telemetry) == [span(tokens=(1, 1), error="cancelled")])

    def test_a_generator_that_gets_no_prompt_is_no_request(self, telemetry: Telemetry, model: Any) -> None:
        del model
        gc.collect()

        assert spans(telemetry) == []


class TestUnchanged:
    def test_what_is_restored(self, folder: Path) -> None:
        owners = (og.Model, og.Generator, og.GeneratorParams)
        before = [dict(vars(owner)) for owner in owners]
        with Telemetry(frameworks=("onnxruntime_genai",)):
            assert vars(og.Generator)["append_tokens"] is not before[1]["append_tokens"]
        assert [dict(vars(owner)) for owner in owners] == before

    def test_a_model_that_was_made_before_has_no_name(self, folder: Path) -> None:
        model = og.Model(str(folder))
        with Telemetry(frameworks=("onnxruntime_genai",)) as telemetry:
            generating = generator(model, max_length=3)
            generating.append_tokens([1])
            finish(generating)

            [request] = telemetry.spans()
        assert request["name"] == "text_completion unknown"
