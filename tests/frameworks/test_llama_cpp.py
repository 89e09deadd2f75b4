"""llama-cpp-python, for real: every completion, chat and embedding is one request, with its true tokens."""

from __future__ import annotations

import gc
import inspect
import pickle
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("gguf")

import llama_cpp
import numpy as np
from llama_cpp import Llama, LogitsProcessorList

import otel_aimon
from tests.frameworks.whole_spans import generated_span, seen_spans
from tests.support import tiny_gguf
from tests.support.telemetry import Telemetry, wait_until
from tests.support.tiny_gguf import CONTEXT, EOS, NAME

PROMPT = "hello"
PROMPT_TOKENS = 7
"""A begin, a space, and five bytes."""
CHAT: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.save(tmp_path_factory.mktemp("models") / "file-name.gguf")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with Telemetry(frameworks=("llama_cpp",)) as running:
        yield running


def load(file: Path, **options: Any) -> Any:
    return Llama(str(file), n_ctx=CONTEXT, n_threads=1, verbose=False, **options)


@pytest.fixture
def llama(telemetry: Telemetry, file: Path) -> Any:
    return load(file)


def ends_after(tokens: int) -> LogitsProcessorList:
    """Makes the model choose a plain byte for so many tokens, and the end of the text after them."""
    chosen = iter([ord("a") + 3] * tokens + [EOS])

    def choose(_ids: Any, scores: Any) -> Any:
        return np.where(np.arange(len(scores)) == next(chosen), 1e6, -1e6).astype(np.float32)

    return LogitsProcessorList([choose])


def span(
    operation: str = "text_completion",
    model: str = NAME,
    *,
    tokens: tuple[int | None, int | None] = (None, None),
    reason: str | None = None,
    batch: int = 1,
    error: str | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """A whole span; the time to the first token is ``True`` where there is one."""
    return generated_span(
        "llama_cpp",
        operation,
        model,
        gen_ai=operation,
        tokens=tokens,
        reasons=reason and (reason,),
        batch=batch,
        error=error,
        parent=parent,
        ttft=bool(tokens[1]),
    )


def spans(telemetry: Telemetry) -> list[dict[str, Any]]:
    return seen_spans(telemetry)


class TestCompletion:
    @pytest.mark.parametrize("method", ["__call__", "create_completion"])
    def test_is_one_request(self, telemetry: Telemetry, llama: Any, method: str) -> None:
        result = getattr(llama, method)(PROMPT, max_tokens=4, logits_processor=ends_after(9))

        assert result["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
        assert spans(telemetry) == [span(tokens=(7, 4), reason="length")]
        metrics = telemetry.metrics()
        [duration] = metrics["aimon.inference.duration"]
        assert duration.count == 1
        assert duration.attributes == {
            "aimon.framework": "llama_cpp",
            "aimon.operation": "text_completion",
            "aimon.model.name": NAME,
        }
        counted = {
            each.attributes["gen_ai.token.type"]: each.value for each in metrics["aimon.inference.tokens"]
        }
        assert counted == {"input": 7, "output": 4}
        for metric in ("request.duration", "time_to_first_token", "time_per_output_token"):
            [point] = metrics[f"gen_ai.server.{metric}"]
            assert point.count == 1

    @pytest.mark.parametrize("tokens", [0, 1, 5])
    @pytest.mark.parametrize("stream", [False, True])
    def test_the_token_that_ends_the_text_is_none_of_it(
        self, telemetry: Telemetry, llama: Any, tokens: int, stream: bool
    ) -> None:
        options = {"max_tokens": 20, "stream": stream, "logits_processor": ends_after(tokens)}
        result = llama(PROMPT, **options)
        if stream:
            assert list(result)[-1]["choices"][0]["finish_reason"] == "stop"
        else:
            assert result["usage"]["completion_tokens"] == tokens

        assert spans(telemetry) == [span(tokens=(PROMPT_TOKENS, tokens), reason="stop")]
        assert ("gen_ai.server.time_per_output_token" in telemetry.metrics()) == (tokens > 1)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_token_of_a_stop_string_was_generated(
        self, telemetry: Telemetry, llama: Any, stream: bool
    ) -> None:
        options = {"stop": ["aaa"], "stream": stream, "logits_processor": ends_after(9)}
        result = llama(PROMPT, **options)
        if stream:
            list(result)
        else:
            assert result["usage"]["completion_tokens"] == 3

        assert spans(telemetry) == [span(tokens=(PROMPT_TOKENS, 3), reason="stop")]

    def test_of_ids(self, telemetry: Telemetry, llama: Any) -> None:
        llama([1, 70, 71], max_tokens=3, logits_processor=ends_after(9))

        assert spans(telemetry) == [span(tokens=(3, 3), reason="length")]

    def test_inside_a_request_by_hand_is_its_stage(self, telemetry: Telemetry, llama: Any) -> None:
        with otel_aimon.inference("answer", model="mine"):
            llama(PROMPT, max_tokens=2, logits_processor=ends_after(9))

        request, stage = spans(telemetry)
        assert stage == span(tokens=(7, 2), reason="length", parent=request["name"])
        assert request["attributes"]["gen_ai.usage.output_tokens"] == 2


class TestStream:
    def test_counts_tokens_and_not_chunks(self, telemetry: Telemetry, llama: Any) -> None:
        chunks = llama(PROMPT, max_tokens=4, stream=True, logits_processor=ends_after(9))

        assert inspect.isgenerator(chunks)
        assert spans(telemetry) == []
        # The last chunk bears the reason, and no token.
        assert len(list(chunks)) == 5
        assert spans(telemetry) == [span(tokens=(7, 4), reason="length")]

    def test_left_before_its_end_is_cancelled(self, telemetry: Telemetry, llama: Any) -> None:
        chunks = llama(PROMPT, max_tokens=50, stream=True, logits_processor=ends_after(50))
        next(chunks)
        next(chunks)
        chunks.close()

        assert spans(telemetry) == [span(tokens=(7, 2), error="cancelled")]

    def test_never_begun_is_cancelled_when_it_is_dropped(self, telemetry: Telemetry, llama: Any) -> None:
        chunks = llama(PROMPT, stream=True)
        del chunks
        gc.collect()

        wait_until(lambda: spans(telemetry) == [span(error="cancelled")])

    def test_outlives_the_closing_of_its_model(self, telemetry: Telemetry, file: Path) -> None:
        llama = load(file)
        chunks = llama(PROMPT, max_tokens=50, stream=True, logits_processor=ends_after(50))
        next(chunks)
        llama.close()
        chunks.close()

        assert spans(telemetry) == [span(tokens=(7, 1), error="cancelled")]

    def test_is_taken_by_threads_in_turn(self, telemetry: Telemetry, llama: Any) -> None:
        chunks = llama(PROMPT, max_tokens=3, stream=True, logits_processor=ends_after(9))
        taken: list[Any] = []
        while True:
            thread = threading.Thread(target=lambda: taken.append(next(chunks, None)))
            thread.start()
            thread.join()
            if taken[-1] is None:
                break

        assert len(taken) == 5
        assert spans(telemetry) == [span(tokens=(7, 3), reason="length")]

    def test_keeps_no_model_alive(self, telemetry: Telemetry, file: Path) -> None:
        llama = load(file)
        chunks = llama(PROMPT, max_tokens=2, stream=True)
        list(chunks)
        watched = weakref.ref(llama)
        del llama
        gc.collect()

        assert watched() is None


class TestChat:
    def test_is_one_request(self, telemetry: Telemetry, llama: Any) -> None:
        usage = llama.create_chat_completion(CHAT, max_tokens=4)["usage"]

        assert spans(telemetry) == [
            span("chat", tokens=(usage["prompt_tokens"], usage["completion_tokens"]), reason="length")
        ]
        [duration] = telemetry.metrics()["aimon.inference.duration"]
        assert duration.count == 1

    def test_is_streamed(self, telemetry: Telemetry, llama: Any) -> None:
        prompt = llama.create_chat_completion(CHAT, max_tokens=1)["usage"]["prompt_tokens"]
        chunks = list(llama.create_chat_completion(CHAT, logits_processor=ends_after(3), stream=True))

        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant"}
        assert spans(telemetry)[1:] == [span("chat", tokens=(prompt, 3), reason="stop")]

    def test_that_calls_a_function_has_the_tokens_of_all_its_generations(
        self, telemetry: Telemetry, file: Path
    ) -> None:
        llama = load(file, chat_format="chatml-function-calling")
        function = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}}
        llama.create_chat_completion(
            CHAT,
            tools=[{"type": "function", "function": function}],
            tool_choice={"type": "function", "function": {"name": "f"}},
            max_tokens=3,
        )

        [request] = spans(telemetry)
        assert request["name"] == f"chat {NAME}"
        assert request["attributes"]["gen_ai.usage.output_tokens"] > 0


class TestGenerate:
    def test_alone_is_a_request_that_ends_when_it_is_left(self, telemetry: Telemetry, llama: Any) -> None:
        tokens = llama.tokenize(PROMPT.encode())
        generation = llama.generate(tokens)
        assert inspect.isgenerator(generation)
        for number, _ in enumerate(generation):
            if number == 2:
                break
        del generation

        wait_until(lambda: spans(telemetry) == [span(tokens=(7, 3))])

    def test_is_a_generator_function_as_before(self, telemetry: Telemetry) -> None:
        assert inspect.isgeneratorfunction(inspect.unwrap(Llama.generate))
        assert list(inspect.signature(Llama.generate).parameters)[:2] == ["self", "tokens"]


class TestEmbedding:
    @pytest.fixture
    def embedder(self, telemetry: Telemetry, file: Path) -> Any:
        return load(file, embedding=True)

    def test_is_one_request(self, telemetry: Telemetry, embedder: Any) -> None:
        usage = embedder.create_embedding(["a", "b c"])["usage"]

        assert spans(telemetry) == [span("embeddings", batch=2, tokens=(usage["prompt_tokens"], None))]

    def test_of_plain_vectors(self, telemetry: Telemetry, embedder: Any) -> None:
        vector = embedder.embed("abc")
        _, tokens = embedder.embed(["abc"], return_count=True)

        assert isinstance(vector, list)
        assert spans(telemetry) == [
            span("embeddings"),
            span("embeddings", tokens=(tokens, None)),
        ]

    def test_of_a_model_that_does_not_embed_fails(self, telemetry: Telemetry, llama: Any) -> None:
        with pytest.raises(RuntimeError):
            llama.embed("abc")

        assert spans(telemetry) == [span("embeddings", error="RuntimeError")]


class TestErrors:
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_prompt_that_is_too_long(self, telemetry: Telemetry, llama: Any, stream: bool) -> None:
        with pytest.raises(ValueError, match="exceed context window"):
            list(llama("x" * 600, stream=stream))

        assert spans(telemetry) == [span(error="ValueError")]

    def test_of_the_users_own_code_within(self, telemetry: Telemetry, llama: Any) -> None:
        class Mine(Exception):
            pass

        def refuse(_ids: Any, _scores: Any) -> Any:
            raise Mine

        # llama.cpp calls it from C, where an exception cannot pass; a criterion is called from Python.
        with pytest.raises(Mine):
            llama(PROMPT, stopping_criteria=llama_cpp.StoppingCriteriaList([refuse]))

        [failed] = spans(telemetry)
        assert failed["attributes"]["error.type"].endswith("Mine")


class TestNames:
    def test_a_file_without_a_name_is_called_by_its_own(self, telemetry: Telemetry, tmp_path: Path) -> None:
        llama = load(tiny_gguf.save(tmp_path / "secret" / "model.gguf", name=None))
        llama(PROMPT, max_tokens=1, logits_processor=ends_after(9))

        assert spans(telemetry) == [span(model="model.gguf", tokens=(7, 1), reason="length")]


class TestUnchanged:
    def test_a_model_is_pickled_as_before(self, telemetry: Telemetry, llama: Any) -> None:
        try:
            state = pickle.dumps(llama)
        except AttributeError:
            pytest.skip("this version pickles no model")
        copy = pickle.loads(state)

        assert copy(PROMPT, max_tokens=1, temperature=0) is not None

    def test_what_is_restored(self, file: Path) -> None:
        before = dict(vars(Llama))
        with Telemetry(frameworks=("llama_cpp",)):
            assert vars(Llama)["create_completion"] is not before["create_completion"]
        assert dict(vars(Llama)) == before

    def test_results_are_those_without_us(self, file: Path) -> None:
        def texts() -> tuple[str, str]:
            llama = load(file, seed=1)
            whole = llama(PROMPT, max_tokens=6, temperature=0)["choices"][0]["text"]
            pieces = llama(PROMPT, max_tokens=6, temperature=0, stream=True)
            return whole, "".join(piece["choices"][0]["text"] for piece in pieces)

        plain = texts()
        with Telemetry(frameworks=("llama_cpp",)):
            assert texts() == plain
