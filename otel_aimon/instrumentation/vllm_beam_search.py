"""Beam search of vLLM: one request; those it makes to the engine, one per token and beam, are its own."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.core.call import observed
from otel_aimon.core.layers import Layer
from otel_aimon.core.stream import observed_async_generator_function
from otel_aimon.instrumentation.vllm_calls import config_of, current_call, series_of
from otel_aimon.instrumentation.vllm_requests import device_name

if TYPE_CHECKING:
    from otel_aimon.core.inference import Inference
    from otel_aimon.core.recorder import Recorder
    from otel_aimon.instrumentation.hooks import Hooks


def hook_beam_search(hooks: Hooks, module: Any) -> None:
    """Hook ``LLM.beam_search``, where it is in a class of its own."""
    hook_beam_search_of(hooks, module.BeamSearchOfflineMixin)


def hook_beam_search_of(hooks: Hooks, owner: Any) -> None:
    """Hook the beam search of an ``LLM``."""

    def begin(args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Inference | None:
        return _start(hooks.recorder, args[0])

    def finish(inference: Inference, _args: Any, _kwargs: Any, result: Any) -> None:
        inference.batch_size = len(result)

    hooks.wrap(owner, "beam_search", lambda original: observed(original, begin, finish), ("prompts",))


def hook_online_beam_search(hooks: Hooks, module: Any) -> None:
    """Hook the beam search of the OpenAI server."""

    def observe(original: Any) -> Any:
        @functools.wraps(original)
        def beam_search(self: Any, *args: Any, **kwargs: Any) -> Any:
            start = functools.partial(_start, hooks.recorder, self)
            return observed_async_generator_function(original, start, _forget_chunk)(self, *args, **kwargs)

        return beam_search

    owner = getattr(module, "BeamSearchOnlineMixin", None) or module.OpenAIServing
    if "beam_search" in vars(owner):
        hooks.wrap(owner, "beam_search", observe, ("prompt",))


def _start(recorder: Recorder, owner: Any) -> Inference | None:
    config = config_of(owner)
    inference = recorder.start(series_of(recorder, semconv.TEXT_COMPLETION, config), Layer.GENERATE)
    if inference is not None:
        inference.device = device_name(config)
        call = current_call()
        if call is not None:
            call.settled = True
    return inference


def _forget_chunk(inference: Inference, _output: Any) -> None:
    """The one output is the whole: it does not tell when the first token was there."""
    inference.first_ns = inference.last_ns = 0
