"""``LLM`` over a thread that gives each prompt the same token, one in a millisecond.

Its options: ``ends_after`` tokens a text ends by itself; ``first`` tokens come with the first response; ``fails_after``
so many; ``longest`` prompt; ``metrics`` that the engine tells of a request; ``cached`` tokens of each prompt.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from dataclasses import dataclass, field
from queue import Queue
from types import SimpleNamespace
from typing import Any

TOKEN = 40


class RequestError(RuntimeError):
    """An error of one request."""


@dataclass
class SamplingParams:
    max_tokens: int = 4
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False

    def __post_init__(self):
        self.best_of = self.best_of or self.n


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] | None = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    _postprocess_result: Any = None


class GenerationResultBase:
    def __init__(self, request_id: int, sampling_params: SamplingParams):
        self.id = request_id
        self.sampling_params = sampling_params
        self.cached_tokens = 0
        self.metrics_dict: dict[Any, float] = {}
        self._done = False
        self.queue: Any = Queue()
        self.aqueue: Any = None
        # The thread that answers holds no result alive.
        self.put = self.queue.put
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            aqueue = self.aqueue = asyncio.Queue()
            self.put = lambda response: loop.call_soon_threadsafe(aqueue.put_nowait, response)
        self._outputs = [CompletionOutput(i) for i in range(sampling_params.best_of)]

    @property
    def outputs(self):
        return self._outputs[: self.sampling_params.n]

    def _handle_response(self, response):
        if response.error is not None:
            raise RequestError(response.error)
        self._done = response.reason is not None
        self.cached_tokens = response.cached
        for output in self._outputs:
            output.token_ids.extend(response.tokens)
            output.finish_reason = response.reason
        if self._done:
            self.metrics_dict = response.metrics


class DetokenizedGenerationResultBase(GenerationResultBase):
    def _handle_response(self, response):
        GenerationResultBase._handle_response(self, response)
        for output in self.outputs:
            output.text = "B" * len(output.token_ids)
            if self._stop is not None and self._stop in output.text and not self._done:
                output.finish_reason = "stop"
                output.stop_reason = self._stop
                self.abort()
                self._done = True


class GenerationResult(GenerationResultBase):
    def __init__(self, request_id, prompt_token_ids, sampling_params, streaming, executor):
        super().__init__(request_id, sampling_params)
        self._prompt_token_ids = prompt_token_ids
        self._streaming = streaming
        self._executor = weakref.ref(executor)
        self._aborted = False
        self._stop = None

    @property
    def prompt_token_ids(self):
        return self._prompt_token_ids

    def abort(self) -> None:
        self._executor().abort_request(self.id)
        self._aborted = True

    @property
    def finished(self) -> bool:
        return self._done

    def _result_step(self, timeout: float | None = None):
        self._handle_response(self.queue.get(timeout=30))

    async def _aresult_step(self):
        self._handle_response(await self.aqueue.get())

    def result(self, timeout: float | None = None):
        while not self._done:
            self._result_step(timeout)
        return self

    async def aresult(self):
        while not self._done:
            await self._aresult_step()
        return self

    def __await__(self):
        return self.aresult().__await__()

    def __iter__(self):
        return self

    def __next__(self):
        if self._done:
            raise StopIteration
        self._result_step()
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self._done:
            raise StopAsyncIteration
        await self._aresult_step()
        return self

    def __hash__(self):
        return hash(self.id)


class RequestOutput(DetokenizedGenerationResultBase, GenerationResult):
    def __init__(self) -> None:
        raise RuntimeError("made by _from_generation_result only")

    @classmethod
    def _from_generation_result(cls, generation_result, prompt=None, tokenizer=None):
        inst = cls.__new__(cls)
        inst.__dict__.update(generation_result.__dict__)
        inst._prompt = prompt
        return inst

    @property
    def prompt(self):
        return self._prompt


class _Executor:
    """Answers each request on a thread."""

    def __init__(self, options):
        self.options = options
        self.aborted = set()
        self.next_id = 0

    def submit(self, result, streaming):
        threading.Thread(
            target=self._answer, args=(result.id, result.put, result.sampling_params, streaming)
        ).start()

    def abort_request(self, request_id):
        self.aborted.add(request_id)

    def _answer(self, request_id, put, params, streaming):
        options = self.options
        given = 0
        while True:
            time.sleep(0.001)
            reason, error, new = None, None, 1 if given else options.get("first", 1)
            if given >= options.get("fails_after", 1 << 30):
                error = "the engine failed"
            elif request_id in self.aborted:
                reason, new = "cancelled", 0
            else:
                given += new
                if given >= options.get("ends_after", 1 << 30):
                    reason = "stop"
                elif given >= params.max_tokens:
                    reason = "length"
            tokens = [TOKEN] * (new if streaming else given)
            if streaming or reason or error:
                put(
                    SimpleNamespace(
                        tokens=tokens,
                        reason=reason,
                        error=error,
                        cached=options.get("cached", 0),
                        metrics=options.get("metrics", {}),
                    )
                )
            if reason or error:
                return


class BaseLLM:
    def __init__(self, model, **options):
        self.args = SimpleNamespace(model=model)
        self._executor = _Executor(options)
        self._options = options

    def generate(
        self,
        inputs,
        sampling_params=None,
        use_tqdm: bool = True,
        lora_request=None,
        prompt_adapter_request=None,
        kv_cache_retention_config=None,
        disaggregated_params=None,
        scheduling_params=None,
        cache_salt=None,
    ):
        unbatched = not isinstance(inputs, list) or isinstance(inputs[0], int)
        prompts = [inputs] if unbatched else inputs
        futures = [
            self.generate_async(each, sampling_params=sampling_params, streaming=False) for each in prompts
        ]
        for future in futures:
            future.result()
        return futures[0] if unbatched else futures

    def generate_async(
        self,
        inputs,
        sampling_params=None,
        lora_request=None,
        prompt_adapter_request=None,
        streaming: bool = False,
        kv_cache_retention_config=None,
        disaggregated_params=None,
        _postproc_params=None,
        scheduling_params=None,
        cache_salt=None,
    ):
        ids = [ord(each) for each in inputs] if isinstance(inputs, str) else inputs
        if len(ids) > self._options.get("longest", 1 << 30):
            raise ValueError("the prompt is too long")
        executor = self._executor
        executor.next_id += 1
        result = GenerationResult(
            executor.next_id, ids, sampling_params or SamplingParams(), streaming, executor
        )
        result._stop = self._options.get("stop")
        output = RequestOutput._from_generation_result(result, prompt=None)
        executor.submit(output, streaming)
        return output


class LLM(BaseLLM):
    """The PyTorch backend's."""
