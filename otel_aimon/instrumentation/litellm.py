"""LiteLLM: each call is one request to a remote model, also where LiteLLM asks through another client."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach

from otel_aimon import semconv
from otel_aimon.core.call import leave, quiet
from otel_aimon.core.guard import guarded
from otel_aimon.instrumentation import client
from otel_aimon.instrumentation.known import Known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "litellm"

_OPERATIONS = {
    "completion": semconv.CHAT,
    "text_completion": semconv.TEXT_COMPLETION,
    "embedding": semconv.EMBEDDINGS,
}
"""Functions; with an ``a`` in front they are asynchronous."""

_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""LiteLLM's word → the convention's, where they differ."""


def hook_functions(hooks: Hooks, module: Any) -> None:
    """Hook the functions.

    Args:
        hooks: Of LiteLLM.
        module: ``litellm``.
    """
    steps = _Steps()
    for owner in (module.main, module):
        for name, operation in _OPERATIONS.items():
            begin = functools.partial(_start, hooks, operation)
            for function, asynchronous in ((name, False), (f"a{name}", True)):
                if function in vars(owner):
                    client.hook_call(hooks, owner, function, begin, asynchronous=asynchronous, streams=steps)
                    silent = functools.partial(_silent, hooks, module, asynchronous)
                    hooks.wrap(owner, function, silent)
    wrapper = module.CustomStreamWrapper
    hooks.wrap(wrapper, "__next__", steps.next)
    hooks.wrap(wrapper, "__anext__", steps.anext)
    if "aclose" in vars(wrapper):
        hooks.wrap(wrapper, "aclose", steps.aclose)


def _silent(hooks: Hooks, module: Any, asynchronous: bool, original: Any) -> Any:
    """Let calls through unrecorded, whatever they ask through, while LiteLLM sends spans of its own."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not guarded(_traces_itself, module):
            return original(*args, **kwargs)
        return unrecorded(*args, **kwargs)

    async def unrecorded_later(*args: Any, **kwargs: Any) -> Any:
        token = attach(hooks.recorder.quiet_context())
        try:
            return await original(*args, **kwargs)
        finally:
            leave(token, None)

    unrecorded = unrecorded_later if asynchronous else quiet(original, hooks.recorder)
    if not asynchronous:
        return call

    @functools.wraps(original)
    async def call_later(*args: Any, **kwargs: Any) -> Any:
        return await call(*args, **kwargs)

    return call_later


def _start(hooks: Hooks, operation: str, _caller: Any, given: Mapping[str, Any]) -> Inference | None:
    model, provider = given.get("model"), given.get("custom_llm_provider")
    if isinstance(model, str) and not provider and "/" in model:
        provider, _, model = model.partition("/")
    if not isinstance(provider, str) or not provider:
        provider = FRAMEWORK
    url = given.get("api_base") or given.get("base_url")
    _, address, port = client.server_at(url, provider) if isinstance(url, str) else client.Server(provider)
    server = client.Server(_PROVIDERS.get(provider, provider), address, port)
    return client.start(hooks.recorder, FRAMEWORK, operation, model, server)


def _traces_itself(module: Any) -> bool:
    """Whether LiteLLM was told to send spans of its own."""
    if not module.callbacks and not module.success_callback:
        return False
    callbacks = (*module.callbacks, *module.success_callback)
    return any(
        each == "otel" or type(each).__module__.startswith("litellm.integrations.opentelemetry")
        for each in callbacks
    )


class _Steps(client.Streams):
    """The requests whose answers are LiteLLM's streams, which are iterators without a generator inside."""

    def __init__(self) -> None:
        super().__init__()
        self._streamed: Known[Inference] = Known()

    def follow(self, inference: Inference, answer: Any) -> Any:
        """Go on with the request while the stream is read; None where the answer is no stream."""
        if type(answer).__name__ != "CustomStreamWrapper":
            return None
        inference.watch_over(answer)
        return self._streamed.learn(answer, inference) and answer

    def next(self, original: Any) -> Any:
        """Wrap ``__next__``."""

        @functools.wraps(original)
        def step(stream: Any) -> Any:
            inference = self._streamed.of(stream)
            if inference is None or inference.end_ns:
                return original(stream)
            token = attach(inference.context)  # type: ignore[arg-type]
            try:
                item = original(stream)
            except StopIteration:
                detach(token)
                inference.end()
                raise
            except BaseException as error:
                detach(token)
                inference.fail(error)
                raise
            detach(token)
            inference.chunk()
            guarded(self._read, inference, item)
            return item

        return step

    def anext(self, original: Any) -> Any:
        """Wrap ``__anext__``."""

        @functools.wraps(original)
        async def step(stream: Any) -> Any:
            inference = self._streamed.of(stream)
            if inference is None or inference.end_ns:
                return await original(stream)
            token = attach(inference.context)  # type: ignore[arg-type]
            try:
                item = await original(stream)
            except StopAsyncIteration:
                detach(token)
                inference.end()
                raise
            except BaseException as error:
                leave(token, error)
                inference.fail(error)
                raise
            detach(token)
            inference.chunk()
            guarded(self._read, inference, item)
            return item

        return step

    def aclose(self, original: Any) -> Any:
        """Wrap ``aclose``."""

        @functools.wraps(original)
        async def close(stream: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(stream, *args, **kwargs)
            finally:
                inference = self._streamed.take(stream)
                if inference is not None:
                    client.leave_stream(inference)

        return close
