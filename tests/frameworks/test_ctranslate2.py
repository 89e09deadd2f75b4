"""CTranslate2, for real: a batch is a request, whether its results are there or still to come."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ctranslate2")
pytest.importorskip("torch")
pytest.importorskip("transformers")

import ctranslate2
import numpy as np

import otel_aimon
from tests.frameworks.whole_spans import TTFT, generated_span, seen_spans
from tests.support import tiny_ct2
from tests.support.telemetry import Telemetry, wait_until
from tests.support.tiny_ct2 import PROMPT, SOURCE

_EXT = ctranslate2._ext


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    tiny_ct2.save_llama(made / "llama")
    tiny_ct2.save_t5(made / "t5")
    tiny_ct2.save_bert(made / "bert")
    tiny_ct2.save_whisper(made / "whisper")
    return made


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("ctranslate2",)) as running:
        yield running


@pytest.fixture
def generator(telemetry: Telemetry, folder: Path) -> Any:
    return ctranslate2.Generator(str(folder / "llama"))


@pytest.fixture
def translator(telemetry: Telemetry, folder: Path) -> Any:
    return ctranslate2.Translator(str(folder / "t5"))


@pytest.fixture
def whisper(telemetry: Telemetry, folder: Path) -> Any:
    return ctranslate2.models.Whisper(str(folder / "whisper"))


def span(
    operation: str = "text_completion",
    model: str = "llama",
    *,
    batch: int | None = 1,
    tokens: tuple[int | None, int | None] = (None, None),
    ttft: bool = False,
    error: str | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """A whole span; the time to the first token is ``True`` where there is one."""
    gen_ai = "text_completion" if operation in {"text_completion", "translation"} else None
    return generated_span(
        "ctranslate2",
        operation,
        model,
        gen_ai=gen_ai,
        tokens=tokens,
        batch=batch,
        error=error,
        parent=parent,
        ttft=ttft,
    )


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    return seen_spans(telemetry)


def view(array: np.ndarray[Any, Any]) -> Any:
    return ctranslate2.StorageView.from_array(array)


class TestGenerator:
    def test_a_batch_is_one_request(self, telemetry: Telemetry, generator: Any) -> None:
        results = generator.generate_batch([PROMPT, PROMPT[:2]], max_length=6)
        assert [type(each) for each in results] == [ctranslate2.GenerationResult] * 2
        # The results repeat the prompts, but not the token that begins every sequence.
        generated = sum(len(each.sequences[0]) for each in results) - 2 - 1
        assert spans(telemetry) == [span(batch=2, tokens=(5, generated))]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "ctranslate2",
            "aimon.operation": "text_completion",
            "aimon.model.name": "llama",
        }
        assert {
            each.attributes["gen_ai.token.type"]: each.value for each in metrics["aimon.inference.tokens"]
        } == {
            "input": 5,
            "output": generated,
        }
        [batch] = metrics["aimon.inference.batch.size"]
        assert (batch.count, batch.total) == (1, 2)
        [server] = metrics["gen_ai.server.request.duration"]
        assert server.count == 1
        assert "gen_ai.server.time_to_first_token" not in metrics

    @pytest.mark.parametrize(
        ("prompt", "options", "repeated", "given"),
        [
            (PROMPT, {"include_prompt_in_result": False}, 0, 3),
            (PROMPT, {"beam_size": 3, "num_hypotheses": 2}, 2, 3),
            (["ow", "qu"], {}, 2, 2),
            (["<s>"], {}, 0, 1),
            (["no such", "ow"], {}, 2, 2),
            (["qu"], {"static_prompt": ["<s>", "ow"]}, 1, 3),
            (["qu"], {"static_prompt": ["<s>", "ow"], "include_prompt_in_result": False}, 0, 3),
            (PROMPT, {"max_length": 1}, 1, 3),
        ],
    )
    def test_tokens_are_those_that_came_out_new(
        self,
        telemetry: Telemetry,
        generator: Any,
        prompt: list[str],
        options: dict[str, Any],
        repeated: int,
        given: int,
    ) -> None:
        [result] = generator.generate_batch([prompt], **{"max_length": 7, **options})
        generated = sum(len(each) - repeated for each in result.sequences)
        assert spans(telemetry) == [span(tokens=(given, generated))]

    def test_a_prompt_that_repeats_itself_hides_how_much_is_new(
        self, telemetry: Telemetry, generator: Any
    ) -> None:
        generator.generate_batch([["ow", "ow"]], max_length=4)
        assert spans(telemetry) == [span(tokens=(2, None))]

    def test_inputs_that_are_no_lists_are_not_counted(self, telemetry: Telemetry, generator: Any) -> None:
        class Prompt(list[str]):
            def __len__(self) -> int:
                return super().__len__()

        generator.generate_batch([Prompt(PROMPT)], max_length=4)
        assert spans(telemetry) == [span(tokens=(None, None))]

    def test_no_prompts(self, telemetry: Telemetry, generator: Any) -> None:
        assert generator.generate_batch([], max_length=4) == []
        assert generator.generate_batch([], max_length=4, asynchronous=True) == []
        assert spans(telemetry) == [span(batch=0, tokens=(0, None))] * 2

    def test_a_callback_of_the_users_times_the_tokens(self, telemetry: Telemetry, generator: Any) -> None:
        def served(stop: int) -> tuple[list[Any], list[str]]:
            seen: list[Any] = []

            def callback(step: Any) -> bool:
                seen.append((type(step), step.step, step.token, threading.current_thread() is main))
                return len(seen) == stop

            main = threading.current_thread()
            [result] = generator.generate_batch([PROMPT], max_length=8, callback=callback)
            return seen, result.sequences[0]

        with_us = served(5)
        [found] = spans(telemetry)
        assert found == span(tokens=(3, len(with_us[1]) - 2), ttft=True)
        metrics = telemetry.metrics()
        assert [each.count for each in metrics["gen_ai.server.time_to_first_token"]] == [1]
        assert [each.count for each in metrics["gen_ai.server.time_per_output_token"]] == [1]
        otel_aimon.uninstrument()
        assert served(5) == with_us
        # What the user gave is decoded too, but is no token of the model's.
        assert [step for _, step, _, _ in with_us[0]] == [0, 1, 2, 3, 4]

    def test_errors(self, telemetry: Telemetry, generator: Any) -> None:
        with pytest.raises(TypeError):
            generator.generate_batch(3)
        with pytest.raises(ValueError, match="beam_size"):
            generator.generate_batch([PROMPT], beam_size=2, callback=lambda step: False)
        with pytest.raises(ZeroDivisionError):
            generator.generate_batch([PROMPT], max_length=3, callback=lambda step: 1 / 0)
        with pytest.raises(ValueError, match="no decoder start token"):
            generator.generate_batch([[]])
        with pytest.raises(TypeError):
            ctranslate2.Generator.generate_batch()
        assert spans(telemetry) == [
            span(batch=None, error="TypeError"),
            span(tokens=(3, None), error="ValueError"),
            span(tokens=(3, None), error="ZeroDivisionError"),
            span(tokens=(0, None), error="ValueError"),
        ]

    def test_scores_and_passes(self, telemetry: Telemetry, generator: Any) -> None:
        [scores] = generator.score_batch([PROMPT], max_input_length=2)
        assert type(scores) is ctranslate2.ScoringResult
        assert type(generator.forward_batch([PROMPT, PROMPT[:1]])) is ctranslate2.StorageView
        generator.forward_batch([[1, 2]])
        generator.forward_batch(view(np.ones((2, 3), np.int32)), lengths=view(np.array([3, 1], np.int32)))
        assert spans(telemetry) == [
            span("score", tokens=(2, None)),
            span("forward", batch=2, tokens=(4, None)),
            span("forward", tokens=(2, None)),
            span("forward", batch=2),
        ]

    def test_a_model_inside_a_request_is_a_stage(self, telemetry: Telemetry, generator: Any) -> None:
        with otel_aimon.inference("answer", model="service"):
            [result] = generator.generate_batch([PROMPT], max_length=5)
        outer, inner = spans(telemetry)
        assert inner == span(tokens=(3, len(result.sequences[0]) - 2), parent="answer service")
        assert outer["attributes"]["gen_ai.usage.input_tokens"] == 3
        assert telemetry.counts() == {("manual", "service", "answer"): 1}

    def test_a_model_made_before_has_no_name(self, folder: Path) -> None:
        generator = ctranslate2.Generator(str(folder / "llama"))
        with Telemetry(frameworks=("ctranslate2",)) as telemetry:
            [result] = generator.generate_batch([PROMPT], max_length=5)
            assert spans(telemetry) == [span(model="unknown", tokens=(3, len(result.sequences[0]) - 2))]

    def test_a_subclass_and_a_model_that_is_not_there(self, telemetry: Telemetry, folder: Path) -> None:
        class Mine(ctranslate2.Generator):  # type: ignore[misc]
            def __init__(self, path: Path) -> None:
                super().__init__(model_path=str(path))

        Mine(folder / "llama").score_batch([PROMPT])
        with pytest.raises(RuntimeError, match="Unable to open"):
            ctranslate2.Generator(str(folder / "nothing"))
        assert spans(telemetry) == [span("score", tokens=(3, None))]

    def test_requests_of_several_threads(self, telemetry: Telemetry, generator: Any) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: generator.generate_batch([PROMPT], max_length=4), range(20)))
        assert telemetry.counts() == {("ctranslate2", "llama", "text_completion"): 20}


class TestResultsToCome:
    def test_the_request_ends_with_the_last_result(self, telemetry: Telemetry, generator: Any) -> None:
        handles = generator.generate_batch([PROMPT, PROMPT], max_length=5, asynchronous=True)
        assert [type(each) for each in handles] == [ctranslate2.AsyncGenerationResult] * 2
        results = [handles[1].result()]
        assert spans(telemetry) == []
        [active] = telemetry.metrics()["aimon.inference.active"]
        assert active.value == 1
        results.append(handles[0].result())
        generated = sum(len(each.sequences[0]) - 2 for each in results)
        assert spans(telemetry) == [span(batch=2, tokens=(6, generated))]
        assert [type(each.result()) for each in handles] == [ctranslate2.GenerationResult] * 2
        assert len(spans(telemetry)) == 1

    def test_a_result_ends_when_somebody_saw_it_ready(self, telemetry: Telemetry, generator: Any) -> None:
        [handle] = generator.generate_batch([PROMPT], max_length=5, asynchronous=True)
        wait_until(handle.done)
        [active] = telemetry.metrics()["aimon.inference.active"]
        assert active.value == 1
        with otel_aimon.inference("between", model="m"):
            pass
        handle.result()
        ends = {each.name: each.end_time for each in telemetry.raw_spans()}
        assert ends["text_completion llama"] < ends["between m"]

    def test_an_error_in_one_of_them(self, telemetry: Telemetry, generator: Any) -> None:
        handles = generator.generate_batch(
            [PROMPT] * 2, max_length=5, asynchronous=True, callback=lambda step: 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            handles[0].result()
        [found] = spans(telemetry)
        found["attributes"].pop(TTFT, None)
        assert found == span(batch=2, tokens=(6, None), error="ZeroDivisionError")
        assert telemetry.counts() == {
            ("ctranslate2", "llama", "text_completion", "ZeroDivisionError"): 1,
        }

    def test_results_that_nobody_takes(self, telemetry: Telemetry, generator: Any) -> None:
        handles = generator.generate_batch([PROMPT] * 2, max_length=5, asynchronous=True)
        handles[0].result()
        del handles
        gc.collect()
        wait_until(telemetry.spans)
        assert spans(telemetry) == [span(batch=2, tokens=(6, None), error="cancelled")]

    def test_scores_to_come(self, telemetry: Telemetry, translator: Any) -> None:
        handles = translator.score_batch([SOURCE], [SOURCE], asynchronous=True)
        assert type(handles[0]) is ctranslate2.AsyncScoringResult
        assert type(handles[0].result()) is ctranslate2.ScoringResult
        assert spans(telemetry) == [span("score", "t5", tokens=(6, None))]

    def test_results_taken_in_other_threads(self, telemetry: Telemetry, translator: Any) -> None:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                handles = translator.translate_batch([SOURCE] * 4, max_decoding_length=3, asynchronous=True)
                results = list(pool.map(lambda handle: handle.result(), handles))
        generated = sum(len(each.hypotheses[0]) for each in results)
        assert spans(telemetry) == [span("translation", "t5", batch=4, tokens=(12, generated))] * 5


class TestTranslator:
    def test_a_batch(self, telemetry: Telemetry, translator: Any) -> None:
        results = translator.translate_batch(
            [SOURCE, SOURCE], [["ow", "qu"], None], max_decoding_length=5, num_hypotheses=2
        )
        generated = [len(one) for each in results for one in each.hypotheses]
        assert spans(telemetry) == [span("translation", "t5", batch=2, tokens=(8, sum(generated) - 2 * 2))]

    def test_sources_are_cut_off(self, telemetry: Telemetry, translator: Any) -> None:
        for options in ({}, {"max_input_length": 10}, {"max_input_length": 0}):
            [result] = translator.translate_batch([["ow"] * 1500], max_decoding_length=2, **options)
            assert len(result.hypotheses[0]) == 2
        assert spans(telemetry) == [
            span("translation", "t5", tokens=(length, 2)) for length in (1024, 10, 1500)
        ]

    def test_a_stream(self, telemetry: Telemetry, translator: Any) -> None:
        tokens = list(translator.generate_tokens(SOURCE, ["ow", "qu"], max_decoding_length=5))
        assert [each.token for each in tokens[:2]] == ["ow", "qu"]
        assert spans(telemetry) == [span("translation", "t5", tokens=(5, len(tokens) - 2), ttft=True)]


class TestStreams:
    def test_the_iteration_is_the_request(self, telemetry: Telemetry, generator: Any) -> None:
        stream = generator.generate_tokens(PROMPT, max_length=5)
        assert inspect.isgenerator(stream)
        assert (stream.__name__, stream.__qualname__) == ("generator_generate_tokens",) * 2
        assert spans(telemetry) == []
        tokens = list(stream)
        assert {type(each) for each in tokens} == {ctranslate2.GenerationStepResult}
        assert spans(telemetry) == [span(tokens=(3, len(tokens)), ttft=True)]
        metrics = telemetry.metrics()
        assert [each.count for each in metrics["gen_ai.server.time_to_first_token"]] == [1]
        assert [each.count for each in metrics["gen_ai.server.time_per_output_token"]] == [1]
        assert telemetry.counts("aimon.inference.stage.duration") == {}

    def test_a_batch_of_prompts(self, telemetry: Telemetry, generator: Any) -> None:
        tokens = list(generator.generate_tokens([PROMPT, PROMPT[:1]], max_length=5))
        assert spans(telemetry) == [span(batch=2, tokens=(4, len(tokens)), ttft=True)]

    def test_an_asynchronous_stream(self, telemetry: Telemetry, generator: Any) -> None:
        async def taken() -> int:
            stream = generator.async_generate_tokens(PROMPT, max_length=5)
            assert inspect.isasyncgen(stream)
            assert stream.__name__ == "generator_async_generate_tokens"
            return len([token async for token in stream])

        count = asyncio.run(taken())
        assert spans(telemetry) == [span(tokens=(3, count), ttft=True)]

    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_one_that_is_left_is_cancelled(self, telemetry: Telemetry, generator: Any, how: str) -> None:
        stream = generator.generate_tokens(PROMPT, max_length=200)
        next(stream)
        if how == "close":
            stream.close()
        del stream
        gc.collect()
        wait_until(telemetry.spans)
        assert spans(telemetry) == [span(tokens=(3, 1), ttft=True, error="cancelled")]

    def test_one_that_is_never_begun_is_none(self, telemetry: Telemetry, generator: Any) -> None:
        generator.generate_tokens(PROMPT)
        gc.collect()
        assert spans(telemetry) == []

    def test_errors(self, telemetry: Telemetry, generator: Any) -> None:
        with pytest.raises(TypeError):
            generator.generate_tokens()
        with pytest.raises(ValueError, match="maximum decoding length"):
            list(generator.generate_tokens(PROMPT, max_length=0))
        assert spans(telemetry) == [span(tokens=(3, None), error="ValueError")]

    def test_iterables_have_their_batches_as_stages(self, telemetry: Telemetry, generator: Any) -> None:
        taken: list[int] = []

        def prompts() -> Iterator[list[str]]:
            for number in range(20):
                taken.append(number)
                yield PROMPT

        stream = generator.generate_iterable(prompts(), max_batch_size=1, max_length=4)
        assert taken == []
        results = list(stream)
        generated = [len(each.sequences[0]) - 2 for each in results]
        outer, *inner = spans(telemetry)
        assert outer == span("generate_iterable", batch=20, tokens=(60, sum(generated)))
        assert inner == [span(tokens=(3, each), parent="generate_iterable llama") for each in generated]
        assert telemetry.counts() == {("ctranslate2", "llama", "generate_iterable"): 1}
        assert telemetry.counts("aimon.inference.stage.duration") == {
            ("ctranslate2", "llama", "text_completion"): 20
        }

    def test_an_iterable_that_is_left(self, telemetry: Telemetry, translator: Any) -> None:
        stream = translator.translate_iterable(iter([SOURCE] * 4), max_batch_size=1, max_decoding_length=3)
        next(stream)
        stream.close()
        wait_until(lambda: len(telemetry.spans()) >= 2)
        outer = spans(telemetry)[0]
        assert outer["attributes"]["error.type"] == "cancelled"
        assert outer["attributes"]["aimon.batch.size"] == 1
        assert telemetry.counts() == {("ctranslate2", "t5", "translate_iterable", "cancelled"): 1}
        del stream
        gc.collect()
        assert telemetry.metrics()["aimon.inference.active"][0].value == 0

    def test_scores(self, telemetry: Telemetry, generator: Any, translator: Any) -> None:
        assert len(list(generator.score_iterable([PROMPT] * 3))) == 3
        assert len(list(translator.score_iterable([SOURCE], [SOURCE]))) == 1
        assert spans(telemetry) == [
            span("score_iterable", batch=3, tokens=(9, None)),
            span("score", batch=3, tokens=(9, None), parent="score_iterable llama"),
            span("score_iterable", "t5", tokens=(6, None)),
            span("score", "t5", tokens=(6, None), parent="score_iterable t5"),
        ]


class TestOtherModels:
    def test_an_encoder(self, telemetry: Telemetry, folder: Path) -> None:
        encoder = ctranslate2.Encoder(str(folder / "bert"))
        output = encoder.forward_batch([["ow", "qu"], ["ow"]])
        assert type(output) is ctranslate2.EncoderForwardOutput
        assert spans(telemetry) == [span("forward", "bert", batch=2, tokens=(3, None))]

    def test_whisper(self, telemetry: Telemetry, whisper: Any) -> None:
        encoded = whisper.encode(view(np.zeros((2, 80, 3000), np.float32)))
        results = whisper.generate(encoded, [[257], [257]], max_length=6)
        generated = sum(len(each.sequences_ids[0]) for each in results)
        handles = whisper.generate(encoded, [[257], [257]], max_length=6, asynchronous=True)
        assert [each.result().sequences_ids for each in handles] == [each.sequences_ids for each in results]
        with pytest.raises(RuntimeError, match="multilingual"):
            whisper.detect_language(encoded)
        assert spans(telemetry) == [
            span("encode", "whisper", batch=2),
            *[span(model="whisper", batch=2, tokens=(2, generated))] * 2,
            span("detect_language", "whisper", batch=2, error="RuntimeError"),
        ]


_CLASSES = [
    getattr(_EXT, name)
    for name in (
        *("Generator", "Translator", "Encoder", "Whisper", "Wav2Vec2", "Wav2Vec2Bert"),
        *(
            "AsyncGenerationResult",
            "AsyncTranslationResult",
            "AsyncScoringResult",
            "WhisperGenerationResultAsync",
        ),
    )
    if hasattr(_EXT, name)
]


def _attributes() -> dict[tuple[type, str], Any]:
    return {(cls, name): value for cls in _CLASSES for name, value in vars(cls).items()}


class TestUnchanged:
    def test_names_signatures_and_documentation(self) -> None:
        def signature(function: Any) -> str:
            try:
                return str(inspect.signature(function))
            except ValueError:
                return "none"

        def seen() -> list[Any]:
            methods = [getattr(cls, name) for cls, name in _attributes() if not name.startswith("_")]
            functions = [each for each in methods if callable(each)]
            return [
                (each.__name__, each.__qualname__, each.__module__, each.__doc__, signature(each))
                for each in functions
            ]

        before = seen()
        with Telemetry(frameworks=("ctranslate2",)):
            assert seen() == before

    def test_every_attribute_is_restored(self) -> None:
        before = _attributes()
        with Telemetry(frameworks=("ctranslate2",)):
            changed = {
                f"{cls.__name__}.{name}"
                for (cls, name), value in _attributes().items()
                if value is not before[cls, name]
            }
        after = _attributes()
        assert {"Generator.generate_batch", "Translator.translate_iterable", "Whisper.generate"} < changed
        assert {key for key, value in after.items() if value is not before[key]} == set()
        assert after.keys() == before.keys()

    def test_nothing_is_kept_alive(self, telemetry: Telemetry, folder: Path) -> None:
        generator = ctranslate2.Generator(str(folder / "llama"))
        handles = generator.generate_batch([PROMPT], max_length=3, asynchronous=True)
        result = handles[0].result()
        stream = generator.generate_tokens(PROMPT, max_length=3)
        callback = copy.copy(lambda step: False)
        list(stream)
        generator.generate_batch([PROMPT], max_length=3, callback=callback)
        otel_aimon.force_flush()
        watched = [weakref.ref(each) for each in (generator, handles[0], result, stream)]
        del generator, handles, result, stream
        gc.collect()
        assert [each() for each in watched] == [None] * 4

    def test_what_was_begun_before_the_end(self, folder: Path) -> None:
        generator = ctranslate2.Generator(str(folder / "llama"))
        with Telemetry(frameworks=("ctranslate2",)) as telemetry:
            handles = generator.generate_batch([PROMPT], max_length=3, asynchronous=True)
            waiting = generator.generate_tokens(PROMPT, max_length=3)
        assert type(handles[0].result()) is ctranslate2.GenerationResult
        assert len(list(waiting)) > 0
        assert telemetry.spans() == []
