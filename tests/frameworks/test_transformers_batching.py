"""Continuous batching: a request per submitted prompt, on whatever thread it ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

from tests.frameworks.hf_spans import expected, recorded
from tests.frameworks.tiny_hf import make_llama
from tests.support.telemetry import Telemetry, wait_until

if int(transformers.__version__.split(".")[0]) < 5:
    pytest.skip("before version 5 continuous batching needs a GPU", allow_module_level=True)

from transformers import ContinuousBatchingConfig, GenerationConfig

PROMPTS = [[40, 41, 42], [50, 51], [60]]
KEY = ("transformers", "tiny/llama", "text_completion")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("transformers",)) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Any:
    return make_llama()


def config(tokens: int = 6, **changes: Any) -> Any:
    return GenerationConfig(max_new_tokens=tokens, **{"do_sample": False, "eos_token_id": -1, **changes})


def small() -> Any:
    return ContinuousBatchingConfig(num_blocks=32, max_batch_tokens=32)


def session(model: Any, **changes: Any) -> Any:
    return model.continuous_batching_context_manager(
        generation_config=config(**changes), continuous_batching_config=small(), block=True
    )


def by_prompt(telemetry: Telemetry) -> list[dict[str, Any]]:
    return sorted(recorded(telemetry), key=lambda span: -span["attributes"]["gen_ai.usage.input_tokens"])


def done(prompt: int, output: int, sequences: int = 1, reason: str = "length") -> dict[str, Any]:
    return expected(
        batch=1, input=prompt, output=output, reasons=(reason,) * sequences, ttft=True, queue=True
    )


def test_each_prompt_of_generate_batch_is_one_request(telemetry: Telemetry, model: Any) -> None:
    result = model.generate_batch(
        inputs=PROMPTS, generation_config=config(), continuous_batching_config=small()
    )
    assert [len(output.generated_tokens) for output in result.values()] == [6, 6, 6]
    assert by_prompt(telemetry) == [done(3, 6), done(2, 6), done(1, 6)]
    assert telemetry.counts() == {KEY: 3}
    points = telemetry.metrics()
    for name in (
        "aimon.inference.queue.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.server.request.duration",
    ):
        assert [point.count for point in points[name]] == [3], name
    tokens = {
        point.attributes["gen_ai.token.type"]: point.value for point in points["aimon.inference.tokens"]
    }
    assert tokens == {"input": 6, "output": 18}
    assert [point.value for point in points["aimon.inference.active"]] == [0]


def test_several_sequences_of_a_prompt_are_one_request(telemetry: Telemetry, model: Any) -> None:
    result = model.generate_batch(
        inputs=PROMPTS[:2],
        generation_config=config(do_sample=True, num_return_sequences=3),
        continuous_batching_config=small(),
    )
    assert len(result) == 6
    assert by_prompt(telemetry) == [done(3, 18, 3), done(2, 18, 3)]


def test_an_end_of_sequence_id_is_a_stop(telemetry: Telemetry, model: Any) -> None:
    first = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=3, do_sample=False)[0].tolist()
    telemetry.forget_spans()
    result = model.generate_batch(
        inputs=PROMPTS[:1],
        generation_config=config(eos_token_id=first[4]),
        continuous_batching_config=small(),
    )
    output = len(result["req_0"].generated_tokens)
    assert output < 6
    assert by_prompt(telemetry) == [done(3, output, reason="stop")]


def test_a_streamed_request(telemetry: Telemetry, model: Any) -> None:
    with session(model) as manager:
        request = manager.add_request(PROMPTS[0], streaming=True)
        outputs = list(manager.request_id_iter(request))
    assert [len(output.generated_tokens) for output in outputs] == [1, 2, 3, 4, 5, 6]
    assert by_prompt(telemetry) == [done(3, 6)]


def test_times_agree_with_those_of_the_framework(telemetry: Telemetry, model: Any) -> None:
    with session(model) as manager:
        before = time.perf_counter()
        manager.add_request(PROMPTS[0], record_timestamps=True)
        submitted = time.perf_counter()
        output = manager.get_result(timeout=30)
    first, last = output.timestamps[0], output.timestamps[-1]
    points = telemetry.metrics()
    ttft = points["gen_ai.server.time_to_first_token"][0].total
    per_token = points["gen_ai.server.time_per_output_token"][0].total
    queued = points["aimon.inference.queue.duration"][0].total
    assert ttft is not None
    assert per_token is not None
    # Our clock is read right before the framework's.
    assert 0 < ttft < first - before
    assert ttft > output.lifespan[0] - submitted
    assert 5 * per_token < last - before - ttft
    assert queued == pytest.approx(output.lifespan[0] - output.created_time, abs=1e-6)


def test_submissions_from_threads_keep_their_parents(telemetry: Telemetry, model: Any) -> None:
    tracer = telemetry.tracer_provider.get_tracer("user")

    def submit(manager: Any, number: int) -> None:
        with tracer.start_as_current_span(f"user {number}"):
            manager.add_request(PROMPTS[number])

    with session(model) as manager:
        threads = [threading.Thread(target=submit, args=(manager, number)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        got = [manager.get_result(timeout=30) for _ in threads]
    assert all(output.is_finished() for output in got)
    parents = {
        span["attributes"]["gen_ai.usage.input_tokens"]: span["parent"]
        for span in recorded(telemetry)
        if span["name"] == "text_completion tiny/llama"
    }
    assert parents == {3: "user 0", 2: "user 1", 1: "user 2"}


def test_a_cancelled_request(telemetry: Telemetry, model: Any) -> None:
    with session(model, tokens=100) as manager:
        request = manager.add_request(PROMPTS[0], streaming=True)
        next(manager.request_id_iter(request))
        manager.cancel_request(request)
        manager.cancel_request("never heard of it")
    assert recorded(telemetry) == [expected(batch=1, error="cancelled", ttft=True, queue=True)]
    assert telemetry.counts() == {(*KEY, "cancelled"): 1}


def test_requests_that_a_stop_leaves_over_are_cancelled(telemetry: Telemetry, model: Any) -> None:
    with session(model, tokens=200) as manager:
        requests = [manager.add_request(prompt, streaming=True) for prompt in PROMPTS]
        next(manager.request_id_iter(requests[-1]))
        manager.stop(hard_stop=True, block=True)
    assert [span["attributes"]["error.type"] for span in recorded(telemetry)] == ["cancelled"] * 3
    assert {span["status"] for span in recorded(telemetry)} == {"UNSET"}
    assert [point.value for point in telemetry.metrics()["aimon.inference.active"]] == [0]


def test_a_manager_that_stops_rejects(telemetry: Telemetry, model: Any) -> None:
    with session(model) as manager:
        manager.stop(block=True)
        assert manager.add_request(PROMPTS[0]) is None
    assert recorded(telemetry) == [expected(batch=1, error="rejected")]


def test_a_failing_model_fails_all_requests(telemetry: Telemetry) -> None:
    broken = make_llama()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ArithmeticError("secret")

    broken.lm_head.forward = fail
    manager = broken.init_continuous_batching(generation_config=config(), continuous_batching_config=small())
    manager.add_request(PROMPTS[0])
    manager.add_request(PROMPTS[1])
    manager.start()
    wait_until(lambda: not manager.is_running())
    manager.stop()
    failed = recorded(telemetry)
    assert [span["attributes"]["error.type"] for span in failed] == ["ArithmeticError"] * 2
    assert {span["status"] for span in failed} == {"ERROR"}
    assert "secret" not in "".join(span.to_json() for span in telemetry.raw_spans())


def test_a_manager_that_is_dropped_cancels_what_it_had(telemetry: Telemetry, model: Any) -> None:
    manager = model.init_continuous_batching(generation_config=config(), continuous_batching_config=small())
    manager.add_request(PROMPTS[0])
    points = telemetry.metrics()
    assert [point.value for point in points["aimon.inference.queue.size"]] == [1]
    assert [point.value for point in points["aimon.inference.active"]] == [1]
    del manager
    gc.collect()
    points = telemetry.metrics()
    assert "aimon.inference.queue.size" not in points
    assert [point.value for point in points["aimon.inference.active"]] == [0]
    assert recorded(telemetry) == [expected(batch=1, error="cancelled")]


def test_the_queue_is_empty_when_all_is_scheduled(telemetry: Telemetry, model: Any) -> None:
    with session(model, tokens=50) as manager:
        request = manager.add_request(PROMPTS[0], streaming=True)
        list(manager.request_id_iter(request))
        points = telemetry.metrics()["aimon.inference.queue.size"]
    assert [(tuple(point.attributes.values()), point.value) for point in points] == [
        (("transformers", "text_completion", "tiny/llama"), 0)
    ]


def test_an_id_used_twice_cancels_the_first(telemetry: Telemetry, model: Any) -> None:
    manager = model.init_continuous_batching(generation_config=config(), continuous_batching_config=small())
    for prompt in PROMPTS[:2]:
        manager.add_request(prompt, request_id="mine")
    assert recorded(telemetry) == [expected(batch=1, error="cancelled")]


def test_generate_with_a_paged_cache_is_one_request(telemetry: Telemetry, model: Any) -> None:
    model.generate(
        torch.tensor(PROMPTS[:1]),
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=-1,
        cache_implementation="paged",
        continuous_batching_config=small(),
    )
    assert recorded(telemetry) == [expected()]


def test_results_are_the_same_without_us(model: Any) -> None:
    def run() -> Any:
        result = model.generate_batch(
            inputs=PROMPTS, generation_config=config(), continuous_batching_config=small()
        )
        return {
            key: (type(output), output.prompt_ids, output.generated_tokens, output.status)
            for key, output in result.items()
        }

    without = run()
    with Telemetry(frameworks=("transformers",)):
        assert run() == without
