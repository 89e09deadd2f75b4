"""MLX LM on a CPU, for real: every text and batch is one request, with its true tokens."""

from __future__ import annotations

import gc
import inspect
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_lm")

import mlx.core as mx
import mlx_lm

import otel_aimon
from tests.frameworks.tiny_hf import EOS
from tests.frameworks.whole_spans import generated_span, seen_spans
from tests.support import tiny_mlx
from tests.support.telemetry import Telemetry, wait_until

NAME = "tiny-llama"
GENERATION = sys.modules["mlx_lm.generate"]
PROMPT = [10, 11, 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_mlx.save(tmp_path_factory.mktemp("models") / NAME)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return mlx_lm.load(str(folder))[1]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("mlx_lm",)) as running:
        yield running


@pytest.fixture
def model(telemetry: Telemetry, folder: Path) -> Any:
    return mlx_lm.load(str(folder))[0]


def ends_after(tokens: int) -> Any:
    """Makes a model choose a plain token so many times, and then the end of the text."""
    chosen = iter([40] * tokens + [EOS] * 100)
    return lambda logprobs: mx.array([next(chosen)] * logprobs.shape[0])


def span(
    *,
    tokens: tuple[int | None, int | None] = (None, None),
    reasons: tuple[str, ...] | None = None,
    model: str = NAME,
    batch: int = 1,
    error: str | None = None,
    parent: str | None = None,
    cached: int | None = None,
) -> dict[str, Any]:
    """A whole span; the time to the first token is ``True`` where there is one."""
    return generated_span(
        "mlx_lm",
        "text_completion",
        model,
        gen_ai="text_completion",
        tokens=tokens,
        cached=cached,
        reasons=reasons,
        batch=batch,
        error=error,
        parent=parent,
        ttft=bool(tokens[1]),
    )


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    return seen_spans(telemetry)


class TestGenerate:
    def test_is_one_request(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        text = mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=4, sampler=ends_after(9))

        assert text == tokenizer.decode([40] * 4)
        assert spans(telemetry) == [span(tokens=(3, 4), reasons=("length",))]
        metrics = telemetry.metrics()
        series = {
            "aimon.framework": "mlx_lm",
            "aimon.operation": "text_completion",
            "aimon.model.name": NAME,
        }
        [duration] = metrics["aimon.inference.duration"]
        assert (duration.count, duration.attributes) == (1, series)
        counted = {
            each.attributes["gen_ai.token.type"]: each.value for each in metrics["aimon.inference.tokens"]
        }
        assert counted == {"input": 3, "output": 4}
        for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
            [point] = metrics[f"gen_ai.server.{metric}"]
            assert point.count == 1

    def test_the_id_that_ends_the_text_is_counted_as_the_framework_does(
        self, telemetry: Telemetry, model: Any, tokenizer: Any
    ) -> None:
        items = list(mlx_lm.stream_generate(model, tokenizer, PROMPT, sampler=ends_after(2)))

        assert items[-1].generation_tokens == 3
        assert spans(telemetry) == [span(tokens=(3, 3), reasons=("stop",))]

    def test_text_is_counted_by_its_ids(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        text = "hello world"
        mlx_lm.generate(model, tokenizer, text, max_tokens=1, sampler=ends_after(9))

        assert spans(telemetry) == [span(tokens=(len(tokenizer.encode(text)), 1), reasons=("length",))]
        assert "gen_ai.server.time_per_output_token" not in telemetry.metrics()

    def test_with_a_draft_model(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        options: Any = {"draft_model": model, "num_draft_tokens": 2, "max_tokens": 5}
        items = list(mlx_lm.stream_generate(model, tokenizer, PROMPT, **options))

        assert [item.from_draft for item in items].count(True) > 0
        assert spans(telemetry) == [span(tokens=(3, 5), reasons=("length",))]

    def test_inside_a_request_by_hand_is_its_stage(
        self, telemetry: Telemetry, model: Any, tokenizer: Any
    ) -> None:
        with otel_aimon.inference("answer", model="mine"):
            mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=2, sampler=ends_after(9))

        request, stage = spans(telemetry)
        assert stage == span(tokens=(3, 2), reasons=("length",), parent=request["name"])
        assert request["attributes"]["gen_ai.usage.output_tokens"] == 2

    def test_an_error_of_the_model(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        class Mine(Exception):
            pass

        def refuse(_logprobs: Any) -> Any:
            raise Mine

        with pytest.raises(Mine):
            mlx_lm.generate(model, tokenizer, PROMPT, sampler=refuse)

        [failed] = spans(telemetry)
        assert failed == span(error=failed["attributes"]["error.type"])
        assert failed["attributes"]["error.type"].endswith("Mine")

    def test_an_error_half_way(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        calls = iter((mx.array([40]), mx.array([40])))

        def choose(_logprobs: Any) -> Any:
            try:
                return next(calls)
            except StopIteration:
                raise MemoryError from None

        with pytest.raises(MemoryError):
            mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=9, sampler=choose)

        assert spans(telemetry) == [span(tokens=(3, 1), error="MemoryError")]


class TestStream:
    def test_left_before_its_end_is_cancelled(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        stream = mlx_lm.stream_generate(model, tokenizer, PROMPT, max_tokens=50, sampler=ends_after(60))
        assert inspect.isgenerator(stream)
        next(stream)
        next(stream)
        assert spans(telemetry) == []
        stream.close()

        assert spans(telemetry) == [span(tokens=(3, 2), error="cancelled")]

    def test_dropped_is_cancelled(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        stream = mlx_lm.stream_generate(model, tokenizer, PROMPT, max_tokens=50, sampler=ends_after(60))
        next(stream)
        del stream
        gc.collect()

        wait_until(lambda: spans(telemetry) == [span(tokens=(3, 1), error="cancelled")])

    def test_never_begun_is_no_request(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        del model, tokenizer
        mlx_lm.stream_generate(None, None, PROMPT)
        gc.collect()

        assert spans(telemetry) == []

    def test_left_with_its_last_item_is_complete(
        self, telemetry: Telemetry, model: Any, tokenizer: Any
    ) -> None:
        for item in mlx_lm.stream_generate(model, tokenizer, PROMPT, max_tokens=3, sampler=ends_after(9)):
            if item.finish_reason is not None:
                break

        assert spans(telemetry) == [span(tokens=(3, 3), reasons=("length",))]

    def test_keeps_no_model_alive(self, telemetry: Telemetry, folder: Path) -> None:
        model, tokenizer = mlx_lm.load(str(folder))[:2]
        stream = mlx_lm.stream_generate(model, tokenizer, PROMPT, max_tokens=2)
        list(stream)
        watched = weakref.ref(model)
        del model, stream
        gc.collect()

        assert watched() is None


needs_batches = pytest.mark.skipif(
    not hasattr(mlx_lm, "batch_generate"), reason="this version has no batches"
)


@needs_batches
class TestBatch:
    def test_is_one_request(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        prompts = [[10, 11, 12], [13, 14]]
        mlx_lm.batch_generate(model, tokenizer, prompts, max_tokens=[4, 2], sampler=ends_after(9))

        assert spans(telemetry) == [span(tokens=(5, 6), reasons=("length", "length"), batch=2)]
        metrics = telemetry.metrics()
        [each] = metrics["aimon.inference.batch.size"]
        assert (each.count, each.total) == (1, 2)
        [per_token] = metrics["gen_ai.server.time_per_output_token"]
        [duration] = metrics["aimon.inference.duration"]
        # Of the longer text there are three tokens after the first, which took no longer than all.
        assert per_token.count == 1
        assert 0 < per_token.total * 3 < duration.total

    def test_that_ends_by_itself(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        # Keyword by keyword, as far as the positions go.
        mlx_lm.batch_generate(model, tokenizer=tokenizer, prompts=[PROMPT], sampler=ends_after(2))

        assert spans(telemetry) == [span(tokens=(3, 3), reasons=("stop",))]

    def test_that_fails(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        def refuse(_logprobs: Any) -> Any:
            raise MemoryError

        with pytest.raises(MemoryError):
            mlx_lm.batch_generate(model, tokenizer, [PROMPT], sampler=refuse)

        assert spans(telemetry) == [span(tokens=(3, None), error="MemoryError")]

    def test_that_is_interrupted(self, telemetry: Telemetry, model: Any, tokenizer: Any) -> None:
        chosen = iter((40, 40, 40))

        def choose(logprobs: Any) -> Any:
            try:
                return mx.array([next(chosen)] * logprobs.shape[0])
            except StopIteration:
                raise KeyboardInterrupt from None

        with pytest.raises(KeyboardInterrupt):
            mlx_lm.batch_generate(model, tokenizer, [PROMPT], max_tokens=9, sampler=choose)

        [cancelled] = spans(telemetry)
        tokens = cancelled["attributes"]["gen_ai.usage.output_tokens"]
        assert tokens in {1, 2}
        assert cancelled == span(tokens=(3, tokens), error="cancelled")


@needs_batches
class TestBatchGenerator:
    """Continuous batching, as the server uses it: each prompt is a request."""

    @pytest.fixture
    def generator(self, model: Any) -> Any:
        return GENERATION.BatchGenerator(model, max_tokens=3, prefill_batch_size=1, completion_batch_size=4)

    def test_each_prompt_is_a_request(self, telemetry: Telemetry, generator: Any) -> None:
        uids = generator.insert([[10, 11], [13]], [3, 1])
        steps(generator, until=2)

        assert len(uids) == 2
        assert sorted(spans(telemetry), key=lambda each: each["attributes"]["gen_ai.usage.input_tokens"]) == [
            span(tokens=(1, 1), reasons=("length",)),
            span(tokens=(2, 3), reasons=("length",)),
        ]
        assert telemetry.counts() == {("mlx_lm", NAME, "text_completion"): 2}

    def test_one_that_is_taken_back_is_cancelled(self, telemetry: Telemetry, generator: Any) -> None:
        if not hasattr(generator, "remove"):
            pytest.skip("this version takes no prompt back")
        [uid] = generator.insert([PROMPT], [50])
        while not tokens_of(generator):
            pass
        generator.remove([uid])

        assert spans(telemetry) == [span(tokens=(3, 1), error="cancelled")]

    def test_those_of_a_dropped_generator_are_cancelled(self, telemetry: Telemetry, model: Any) -> None:
        generator = GENERATION.BatchGenerator(model)
        generator.insert([PROMPT])
        watched = weakref.ref(generator)
        del generator
        gc.collect()

        assert watched() is None
        wait_until(lambda: spans(telemetry) == [span(tokens=(3, None), error="cancelled")])

    def test_a_step_that_fails_fails_all(self, telemetry: Telemetry, model: Any) -> None:
        def refuse(_logprobs: Any) -> Any:
            raise MemoryError

        generator = GENERATION.BatchGenerator(model, sampler=refuse, prefill_batch_size=1)
        generator.insert([PROMPT, PROMPT])
        with pytest.raises(MemoryError):
            steps(generator, until=2)

        assert spans(telemetry) == [span(tokens=(3, None), error="MemoryError")] * 2

    def test_what_is_in_a_cache_is_told_apart(self, telemetry: Telemetry, generator: Any) -> None:
        if not hasattr(generator, "insert_segments"):
            pytest.skip("this version is not told of what is in a cache")
        from mlx_lm.models.cache import make_prompt_cache

        cache = make_prompt_cache(generator.model)
        generator.model(mx.array([[10, 11]]), cache=cache)
        generator.insert_segments([[[12], [13, 14]]], [1], caches=[cache], all_tokens=[[10, 11]])
        steps(generator, until=1)

        assert spans(telemetry) == [span(tokens=(5, 1), cached=2, reasons=("length",))]


def tokens_of(generator: Any) -> list[Any]:
    result = generator.next()
    return result[1] if type(result) is tuple else result


def steps(generator: Any, *, until: int) -> None:
    """Step until so many prompts have ended."""
    ended = 0
    while ended < until:
        ended += sum(each.finish_reason is not None for each in tokens_of(generator))


class TestNames:
    def test_a_model_that_was_loaded_before(self, folder: Path) -> None:
        model, tokenizer = mlx_lm.load(str(folder))[:2]
        with Telemetry(frameworks=("mlx_lm",)) as telemetry:
            mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=1, sampler=ends_after(9))
            assert spans(telemetry) == [span(tokens=(3, 1), reasons=("length",))]

    def test_a_model_made_by_hand_is_called_by_its_kind(self, telemetry: Telemetry) -> None:
        from mlx_lm.models import llama

        from tests.frameworks.tiny_hf import make_tokenizer

        made = llama.Model(llama.ModelArgs.from_dict(tiny_mlx.CONFIG))
        mlx_lm.generate(made, make_tokenizer(), PROMPT, max_tokens=1, sampler=ends_after(9))

        assert spans(telemetry) == [span(model="llama", tokens=(3, 1), reasons=("length",))]


class TestUnchanged:
    def test_the_name_that_an_application_has_from_before(self, folder: Path, tokenizer: Any) -> None:
        from mlx_lm import generate

        with Telemetry(frameworks=("mlx_lm",)) as telemetry:
            model = mlx_lm.load(str(folder))[0]
            generate(model, tokenizer, PROMPT, max_tokens=1, sampler=ends_after(9))
            assert spans(telemetry) == [span(tokens=(3, 1), reasons=("length",))]

    def test_what_is_restored(self) -> None:
        owners = [mlx_lm, GENERATION, sys.modules["mlx_lm.utils"]]
        if hasattr(GENERATION, "BatchGenerator"):
            owners.append(GENERATION.BatchGenerator)
        before = [dict(vars(owner)) for owner in owners]
        for _ in range(2):
            with Telemetry(frameworks=("mlx_lm",)):
                assert mlx_lm.stream_generate is GENERATION.stream_generate
                assert mlx_lm.stream_generate is not before[0]["stream_generate"]
            assert [dict(vars(owner)) for owner in owners] == before

    def test_signatures(self, telemetry: Telemetry) -> None:
        assert list(inspect.signature(mlx_lm.stream_generate).parameters)[:3] == [
            "model",
            "tokenizer",
            "prompt",
        ]

    def test_results_are_those_without_us(self, folder: Path, tokenizer: Any) -> None:
        def texts() -> Any:
            model = mlx_lm.load(str(folder))[0]
            whole = mlx_lm.generate(model, tokenizer, PROMPT, max_tokens=6)
            pieces = "".join(
                each.text for each in mlx_lm.stream_generate(model, tokenizer, PROMPT, max_tokens=6)
            )
            return whole, pieces

        plain = texts()
        with Telemetry(frameworks=("mlx_lm",)):
            assert texts() == plain
