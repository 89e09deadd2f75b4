"""Hugging Face's inference client: each call is one request to a remote model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_aimon import semconv
from otel_aimon.instrumentation import client
from otel_aimon.instrumentation.client_answers import count, note_finish, part, read_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_aimon.core.inference import Inference
    from otel_aimon.instrumentation.hooks import Hooks

FRAMEWORK = "huggingface_hub"

_OPERATIONS = {
    "chat_completion": semconv.CHAT,
    "text_generation": semconv.TEXT_COMPLETION,
    "feature_extraction": semconv.EMBEDDINGS,
}


def hook_clients(hooks: Hooks, module: Any) -> None:
    """Hook a client.

    Args:
        hooks: Of the client.
        module: The module of ``InferenceClient``, or that of ``AsyncInferenceClient``.
    """
    streams = client.Streams(_read)
    owner = module.AsyncInferenceClient if hasattr(module, "AsyncInferenceClient") else module.InferenceClient
    for method, operation in _OPERATIONS.items():
        client.hook_call(
            hooks,
            owner,
            method,
            functools.partial(_start, hooks, operation),
            asynchronous=owner.__name__.startswith("Async"),
            streams=streams,
            read=_read,
        )


def _start(hooks: Hooks, operation: str, caller: Any, given: Mapping[str, Any]) -> Inference | None:
    model, endpoint = given.get("model"), caller.model
    if _is_address(model):
        # An endpoint has one model, whatever it is called.
        model, endpoint = None, model
    elif not _is_address(endpoint):
        model, endpoint = model or endpoint, None
    provider = caller.provider if isinstance(caller.provider, str) else FRAMEWORK
    server = client.Server(provider) if endpoint is None else client.server_at(endpoint, FRAMEWORK)
    return client.start(hooks.recorder, FRAMEWORK, operation, model, server)


def _is_address(model: Any) -> bool:
    return isinstance(model, str) and model.startswith(("http://", "https://"))


def _read(inference: Inference, answer: Any) -> None:
    """Take over what an answer, or a chunk of one, says of itself; a plain text says nothing."""
    if isinstance(answer, str):
        return
    read_answer(inference, answer)
    details = part(answer, "details")
    if details is not None:
        note_finish(inference, part(details, "finish_reason"))
        output = count(part(details, "generated_tokens"))
        if output is not None:
            inference.output_tokens = output
